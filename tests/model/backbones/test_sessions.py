"""A session on a held model keeps its promises: what is reused changes no answer, and sessions do not touch."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from videochat_online import StreamingSession
from videochat_online.streaming import together
from videochat_online.streaming.together import SharedDecoder

from .conftest import KINDS
from .watched import pictures, watching


@pytest.fixture(params=[kind for kind in KINDS if "_moe" not in kind])
def kind(request):
    """Experts are within transformers' own layers: test_equality.py covers them."""
    return request.param


@pytest.fixture
def pair(tiny):
    """The same stream twice: with the cache reused, and without."""
    return watching(tiny, 9), watching(tiny, 9, reuse_cache=False)


def both(pair, question, **options):
    answers = [(session.ask(question, max_new_tokens=6, **options), session._last_answer.ids) for session in pair]
    assert answers[0] == answers[1]
    return answers[0][0]


def test_reused_equals_cold_over_turns_and_frames(pair):
    warm, cold = pair
    for turn in range(3):
        both(pair, f"What happened at {turn}?")
        for session in pair:
            more = 1 + turn
            at = session.memory.last_timestamp + 1
            session.see_many(pictures(session.model, more, seed=turn + 5), [at + k for k in range(more)])
    both(pair, "And now?")
    both(pair, "Once more: and now?")
    assert warm.stats()["cached_tokens"] > 0.5 * warm.stats()["prompt_tokens"] and not cold.stats()["cached_tokens"]


def test_idle_steps_change_no_answer(pair):
    warm, _ = pair
    warm.language.cache._step = 16
    steps = []
    warm.language.cache._pace = lambda num, started: steps.append(num)
    assert warm.prefill() > 16 and max(steps) == 16 and len(steps) > 2
    both(pair, "What is happening now?")
    assert warm.stats()["cached_tokens"] > 16


def test_scores_are_those_of_a_cold_prompt(pair):
    options = ["red", "a red circle", "a red square", "no"]
    warm, cold = (torch.tensor(session.score_options("What is it?", options)) for session in pair)
    torch.testing.assert_close(warm, cold, atol=1e-3, rtol=1e-4)
    assert len(set(warm.tolist())) == 4


def test_streamed_pieces_are_the_answer_and_a_restored_session_goes_on(pair, tmp_path):
    warm, cold = pair
    assert "".join(warm.ask_stream("What is it?", max_new_tokens=6)) == cold.ask("What is it?", max_new_tokens=6)
    warm.save(tmp_path / "session")
    again = StreamingSession.restore(warm.model, warm.processor, tmp_path / "session")
    both((warm, again), "And before that?")


def test_a_named_time_is_recalled_alike_with_and_without_a_cache(tiny, tmp_path):
    """Also after the file that it was saved in: maps that are smaller pictures, oblong ones, positions of their own."""
    warm, cold = (watching(tiny, 24, recall="time", reuse_cache=reuse) for reuse in (True, False))
    _, frames = warm.prompt("What was it 8 seconds ago?")
    assert len(frames) == 16 and {frame.features.shape[-2:] for frame in frames} == {warm.memory.coarsest_grid}
    for question in ("What was it 8 seconds ago?", "What is it?", "And at 3.0s?", "And at 3.0s?"):
        both((warm, cold), question)
    assert warm._recall.language.cache.keys and warm.language.cache.keys
    warm.save(tmp_path / "session")
    both((warm, StreamingSession.restore(warm.model, warm.processor, tmp_path / "session")), "And at 0:04?")


def test_beams_are_found_with_and_without_a_cache(pair):
    both(pair, "What is it?", num_beams=2)


def test_threads_leave_the_model_as_it_is(tiny):
    """Four sessions at once answer as one alone, and no attribute of transformers' objects changes."""
    model, _ = tiny
    alone = [watching(tiny, 5, seed).ask("What is it?", max_new_tokens=5) for seed in range(4)]
    before = attributes(model.held)
    found = [""] * 4

    def ask(seed):
        found[seed] = watching(tiny, 5, seed).ask("What is it?", max_new_tokens=5)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone and attributes(model.held) == before


def attributes(held):
    """Every plain attribute of every module: nothing of a stream may be kept there."""
    plain = (int, float, str, bool, type(None), tuple, list)
    found = {}
    for name, module in held.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                found[name, key] = value.tolist()
            elif isinstance(value, plain):
                found[name, key] = repr(value)
    return found


def test_a_picture_that_must_stay_whole_is_never_cut(tiny, monkeypatch):
    """Where a family says so, idle steps end at its borders, and a cache is cut back to one."""
    model, _ = tiny
    monkeypatch.setattr(type(model), "may_cut", lambda self, inside_picture: not inside_picture)
    session, ends = watching(tiny, 9), []
    session.language.cache._step = 16
    session.language.cache._pace = lambda num, started: ends.append(len(session.language.cache))
    session.prefill()
    rendered, _ = session.prompt("What is it?")
    inside = {place for start, num in rendered.image_spans for place in range(start + 1, start + num)}
    assert len(ends) > 2 and not inside & set(ends)
    keys = session.language.cache.keys
    start, num_tokens = rendered.image_spans[1]
    assert session.language.cache.keep_common([*keys[: start + num_tokens // 2 + 1], *keys[start : start + 9]]) <= start


def test_a_readout_behind_the_cache_equals_a_cold_one(tiny):
    """A standing instruction needs nothing of a family: over evictions and a dialogue, in one pass with another."""
    texts = ("Is there a red circle?", "Tell me when it rains.")
    together = watching(tiny, 1)
    alone = [watching(tiny, 1, reuse_cache=False) for _ in texts]
    for session, given in ((together, texts), (alone[0], texts[:1]), (alone[1], texts[1:])):
        for text in given:
            session.watch_for(text, threshold=0.999)
        session.see_many(pictures(session.model, 20, seed=3), [2.0 + k for k in range(20)])
        session.remember_turn("What was there?", "A circle.")
        session.see_many(pictures(session.model, 4, seed=4), [30.0 + k for k in range(4)])
    found = [[p for _, p in each.curve] for session in (together, *alone) for each in session.standing]
    for warm, cold in ((found[0], found[2]), (found[1], found[3])):
        assert len(warm) == 24 and len(set(warm)) > 4
        assert torch.allclose(torch.tensor(warm), torch.tensor(cold), atol=2e-4)


def test_answers_made_together_are_those_alone(tiny, monkeypatch):
    """Prompts of other lengths and pictures, of a family's own way to count positions, over turns and frames."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 1e6)  # a pass waits for every row
    with SharedDecoder(tiny[0]) as decoder, ThreadPoolExecutor(3) as pool:
        make = lambda **more: [watching(tiny, 5 + 3 * k, seed=k, **more) for k in range(3)]  # noqa: E731
        here, alone = make(decoder=decoder), make()
        for turn in range(3):
            start = threading.Barrier(3)

            def ask(session, number, turn=turn):
                session.ask(f"What was at {turn}?" * (number + 1), max_new_tokens=3 + number)
                return session._last_answer.ids

            expected = [ask(session, number) for number, session in enumerate(alone)]
            found = pool.map(lambda number: (start.wait(), ask(here[number], number))[1], range(3))  # noqa: B023
            assert list(found) == expected
            for session in (*here, *alone):
                at = session.memory.last_timestamp + 1
                session.see_many(pictures(session.model, 1 + turn, seed=turn), [at + k for k in range(1 + turn)])
        assert decoder.num_passes < decoder.num_tokens
