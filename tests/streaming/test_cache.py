"""KV reuse: an answer on top of a cache equals one from an empty cache, whatever came before."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from videochat_online import MemoryConfig, StreamingSession, VideoChatOnline, VideoChatOnlineConfig, load_model
from videochat_online.model.memory_bank import average_pool
from videochat_online.model_config import VisionConfig
from videochat_online.processing import Processor
from videochat_online.prompt.messages import stream_dialogue
from videochat_online.streaming.cache import PromptCache, num_common, position_bytes, position_keys

from .sessions import pictures, watching

LINE = 300
"""Positions where the tiny LongRoPE model changes its factors: within reach of a short dialogue."""


def llm(kind, tokenizer, **more):
    return {
        "model_type": kind,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind == "phi3" else 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "bos_token_id": 1,
        "initializer_range": 0.3,
        **more,
    }


LONGROPE = {
    "original_max_position_embeddings": LINE,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0, 1.3, 1.9, 3.0, 6.0, 9.0]},
}
MODELS = {
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {}),
    "longrope": ("phi3", LONGROPE),
    "dynamic": ("llama", {"max_position_embeddings": LINE, "rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    "sliding": ("phi3", {"sliding_window": 100}),
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def tiny(request):
    """A random model of each family with the pocket tokenizer; large initial weights, so that answers vary."""
    _, pocket = load_model("pocket", device="cpu")
    kind, more = MODELS[request.param]
    vision = VisionConfig(
        image_size=32, patch_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    config = VideoChatOnlineConfig(
        vision_config=vision.to_dict(), llm_config=llm(kind, pocket.tokenizer, **more), img_context_token_id=8
    )
    torch.manual_seed(0)
    model = VideoChatOnline(config).eval()
    return model, Processor(pocket.tokenizer, pocket.template, type(pocket.transform)(32))


@contextmanager
def recorded_logits(model):
    """What the model says of the next token, each time that it runs."""
    seen = []
    hook = model.language_model.register_forward_hook(lambda module, args, out: seen.append(out.logits[0, -1]))
    yield seen
    hook.remove()


def asked_both(warm, cold, question, **options):
    """Ask both; the answers and the logits behind each of their tokens must be equal. Returns the tokens cached."""
    answers, logits = [], []
    for session in (warm, cold):
        with recorded_logits(session.model) as seen:
            answers.append(session.ask(question, max_new_tokens=6, **options))
        logits.append(torch.stack(seen[-len(session._last_answer.ids) :]))
    assert answers[0] == answers[1]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    assert warm.stats()["prompt_tokens"] == cold.stats()["prompt_tokens"]
    return warm.stats()["cached_tokens"]


def test_cached_equals_cold_over_turns_frames_and_evictions(tiny):
    """A long dialogue: the cache is continued, cropped in the middle, and crosses the line where factors change."""
    warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
    rng, shown, reused = np.random.default_rng(5), 0, []
    while warm.stats()["prompt_tokens"] is None or warm.stats()["prompt_tokens"] < LINE + 100:
        more = int(rng.integers(0, 4)) if reused else 2
        for session in (warm, cold):
            session.see_many(pictures(more, seed=shown), [shown + k for k in range(more)])
        shown += more
        if len(reused) % 3 == 1:
            warm.prefill()
        reused.append(asked_both(warm, cold, f"What happened at {len(reused)}?"))
    assert warm.turns == cold.turns and shown > 12
    assert sum(count > 100 for count in reused) >= 3, f"the cache was hardly used: {reused}"
    assert cold.stats()["cache_bytes"] == 0 < warm.stats()["cache_bytes"]


def test_one_frame_at_two_grids_is_two_pictures(pocket):
    """Its rows of the last prompt are not those of this one, and its cached positions neither."""
    session = watching(pocket, 9)
    rendered, frames = session.prompt("What?")
    session.language.embed(rendered, frames)
    coarse = [replace(frame, features=average_pool(frame.features, 1)) for frame in frames]
    shown = [(frame.index, frame.timestamp, frame.num_tokens) for frame in coarse]
    smaller = session.processor.render(stream_dialogue([], "What?", shown, system_prompt=None), generate=True)
    cold = StreamingSession(*pocket).language.embed(smaller, coarse)
    torch.testing.assert_close(session.language.embed(smaller, coarse), cold)
    assert frames[0].identity not in position_keys(smaller, coarse)


def test_no_drift_while_frames_are_evicted(tiny):
    """Questions that leave no trace, past the line and below it: the cache is cropped at ever other places."""
    warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
    for step in range(9):
        for session in (warm, cold):
            session.see_many(pictures(3, seed=step), [3 * step + k for k in range(3)])
        if step % 4 == 3:
            warm.prefill()
        asked_both(warm, cold, "And now?" if step % 2 else f"{'Once more: ' * 30} what about {step}?", keep=False)


def long_prompt(tiny, num_frames=30):
    """A warm and a cold session whose prompt is longer than the line; its oldest frame goes next."""
    of_model = tiny[0].config.memory_config
    memory = MemoryConfig.pyramid(capacities=(4, 4, 20), grids=of_model.grids, every=of_model.every, policy="fifo")
    sessions = [StreamingSession(*tiny, memory=memory, reuse_cache=reuse) for reuse in (True, False)]
    for session in sessions:
        session.see_many(pictures(num_frames, 1), range(num_frames))
    assert len(sessions[0].prompt("?")[0].ids) > LINE + 20
    return sessions


# dynamic NTK has other factors for each length past the line: nothing may be kept
@pytest.mark.parametrize("tiny", sorted(MODELS.keys() - {"dynamic"}), indirect=True)
def test_past_the_line_a_common_beginning_is_kept(tiny):
    """The oldest frame goes: what stands before it, fewer positions than the line, is computed once."""
    warm, cold = long_prompt(tiny)
    asked_both(warm, cold, "What?", keep=False)
    for session in (warm, cold):
        session.see(pictures(1, 2)[0], 50.0)
    common = num_common(warm.language.cache.keys, position_keys(*warm.prompt("What?")))
    assert 10 < common < LINE, "the test wants a change before the line"
    assert asked_both(warm, cold, "What?", keep=False) == common
    for session in (warm, cold):
        session.see(pictures(1, 3)[0], 51.0)
    common = num_common(warm.language.cache.keys, position_keys(*warm.prompt("?")))
    computed = warm.prefill()
    assert 0 < computed <= len(warm.prompt("?")[0].ids) - common
    assert asked_both(warm, cold, "What?", keep=False) > LINE


def test_an_answer_that_crosses_the_line_equals_the_cold_one(tiny):
    """The factors change in the middle of it; the next question finds a cache that was made with the new ones."""
    warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
    for session in (warm, cold):
        session.see_many(pictures(8, 1), range(8))
    question = "What"
    while len(warm.prompt(question)[0].ids) < LINE - 3:
        question += " now" if len(question) % 3 else " what"
    for session in (warm, cold):
        session.ask("First of all?", max_new_tokens=2, keep=False)
    asked_both(warm, cold, question, keep=False)
    asked_both(warm, cold, question + " then")
    asked_both(warm, cold, "And?")


def test_an_interrupted_prefill_is_a_good_start(tiny, monkeypatch):
    warm, cold = long_prompt(tiny)
    if tiny[0].config.llm_config.rope_parameters["rope_type"] == "dynamic":  # no later question could use it
        assert warm.prefill() == 0 == len(warm.language.cache) and not warm.needs_prefill
        return
    warm.language.cache._step = 50
    monkeypatch.setattr(PromptCache, "_pace", lambda *args: None)
    for _ in range(3):
        calls = iter([False, False, True])
        assert warm.prefill(give_way=lambda calls=calls: next(calls)) is None
    assert len(warm.language.cache) >= 200
    assert asked_both(warm, cold, "What?") >= 200
    assert warm.prefill() is not None and warm.prefill() == 0
    asked_both(warm, cold, "And then?")


def test_option_scores_on_a_cache_are_the_cold_ones(tiny):
    options = ["yes", "no, the red circle", "(A) left", "B"]
    for num_frames in (2, 11, 13, 30):  # up to and past the line where LongRoPE changes its factors
        warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
        for session in (warm, cold):
            session.see_many(pictures(num_frames, 1), range(num_frames))
        for question in ("Which way?", "Which way does it go, and what did it do before that?"):
            assert warm.score_options(question, options) == pytest.approx(
                cold.score_options(question, options), abs=2e-3
            )
        assert warm.ask("Now?", max_new_tokens=6) == cold.ask("Now?", max_new_tokens=6)


def test_a_failed_answer_empties_the_cache(pocket, monkeypatch):
    session = watching(pocket)
    session.ask("What now?", max_new_tokens=3)
    with pytest.raises(ValueError):
        session.ask("What now?", max_new_tokens=3, no_such_option=1)
    assert len(session.language.cache) == 0
    again = watching(pocket)
    again.ask("What now?", max_new_tokens=3)
    assert session.ask("And then?", max_new_tokens=6) == again.ask("And then?", max_new_tokens=6)


def test_an_option_that_goes_around_the_cache_spoils_no_later_answer(pocket):
    session, cold = watching(pocket), watching(pocket, reuse_cache=False)
    session.ask("What now?", max_new_tokens=6, keep=False, use_cache=False)
    assert session.ask("And then?", max_new_tokens=8) == cold.ask("And then?", max_new_tokens=8)


def test_beam_search_does_without_the_cache(pocket):
    session = watching(pocket)
    assert isinstance(session.ask("What now?", max_new_tokens=4, num_beams=2), str)
    assert session.stats()["cached_tokens"] == 0


def test_the_cache_is_bounded_by_the_prompt(pocket):
    session = watching(pocket)
    for k in range(8):
        session.see_many(pictures(4, k), [20 + 4 * k + j for j in range(4)])
        session.ask("What now?", max_new_tokens=3, keep=False)
        stats, projected = session.stats(), session.memory.num_tokens * pocket[0].config.llm_config.hidden_size * 4
        expected = (stats["prompt_tokens"] + 3) * position_bytes(pocket[0]) + projected
        assert 0.9 * expected < stats["cache_bytes"] <= expected
        assert stats["cache_bytes"] - projected <= stats["cache_bytes_at_most"]


@pytest.mark.parametrize("positions", [0, 100, 10_000])
def test_the_cache_keeps_to_its_limit_and_answers_stay(pocket, positions):
    session = watching(pocket, max_cache_bytes=positions * position_bytes(pocket[0]))
    cold = watching(pocket, reuse_cache=False)
    projected = session.memory.num_tokens * pocket[0].config.llm_config.hidden_size * 4
    for question in ("What now?", "And then?", "Before?"):
        session.prefill()
        assert session.ask(question, max_new_tokens=6) == cold.ask(question, max_new_tokens=6)
        stats = session.stats()
        assert stats["cache_bytes"] - projected <= stats["cache_bytes_at_most"] <= positions * position_bytes(pocket[0])
        assert stats["cached_tokens"] <= positions
    assert (stats["cached_tokens"] > 0) == (positions > 0)
    session.score_options("Where?", ["left", "at the top"])
    assert session.stats()["cache_bytes"] - projected <= session.stats()["cache_bytes_at_most"]


def test_a_limit_must_be_a_size(pocket):
    with pytest.raises(ValueError, match="max_cache_bytes must be >= 0, got -1"):
        StreamingSession(*pocket, max_cache_bytes=-1)


def test_a_restored_session_begins_with_an_empty_cache_and_answers_alike(pocket, tmp_path):
    session = watching(pocket, max_cache_bytes=10**8)
    session.ask("What now?", max_new_tokens=6)
    session.save(tmp_path / "session")
    restored = StreamingSession.restore(*pocket, tmp_path / "session")
    assert restored.stats()["cache_bytes"] == 0 and restored.needs_prefill
    assert restored.stats()["cache_bytes_at_most"] == session.stats()["cache_bytes_at_most"] <= 10**8
    restored.prefill()
    assert restored.ask("And then?", max_new_tokens=8) == session.ask("And then?", max_new_tokens=8)
