"""Answers made together: each session says what it would say alone, whoever else is answered, comes or goes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from videochat_online import StreamingSession
from videochat_online.streaming import together
from videochat_online.streaming.language import LanguageSide, sampling
from videochat_online.streaming.together import SharedDecoder, aside

from .sessions import pictures, watching
from .test_cache import LINE, MODELS, tiny  # noqa: F401 (a fixture)

QUESTIONS = ("What is happening now?", "Where is the red circle?", "What happened before that?", "How many are there?")


@pytest.fixture(autouse=True)
def nobody_is_late(monkeypatch):
    """A pass waits for every row, however slow this machine: what is made together does not depend on time."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 1e6)


@pytest.fixture
def decoder(pocket):
    with SharedDecoder(pocket[0]) as shared:
        yield shared


def at_once(sessions, ask):
    """`ask(number, session)` of all, begun at the same moment."""
    start = threading.Barrier(len(sessions))

    def run(number):
        start.wait()
        return ask(number, sessions[number])

    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(pool.map(run, range(len(sessions))))


def ids_of(question, **options):
    def ask(number, session):
        session.ask(question, **options)
        return session._last_answer.ids

    return ask


def nothing_is_left(decoder, sessions):
    """Nothing of the answers is at the decoder any more, and each cache holds its prompt and answer."""
    assert not decoder._groups and not decoder._expected and not decoder._waiting and decoder.num_bytes == 0
    for session in sessions:
        cache = session.language.cache
        assert len(cache) == cache.kv.get_seq_length() > 100


def test_over_turns_frames_and_evictions(tiny):  # noqa: F811
    """Prompts of other lengths, on both sides of the line where rotary factors change; frames leave between them."""
    with SharedDecoder(tiny[0]) as decoder:
        here = [StreamingSession(*tiny, decoder=decoder) for _ in range(4)]
        alone = [StreamingSession(*tiny) for _ in range(4)]
        longest = 0
        for turn in range(7):
            for sessions in (here, alone):
                for number, session in enumerate(sessions):
                    more = 1 + (turn + number) % 3
                    session.see_many(pictures(more, seed=10 * turn + number), [100 * turn + k for k in range(more)])
                    if (turn + number) % 3 == 1:
                        session.prefill()

            def ask(number, session, turn=turn):
                session.ask(f"What was at {turn}? " * (1 + number), max_new_tokens=3 + 2 * number)
                return session._last_answer.ids

            assert at_once(here, ask) == [ask(number, session) for number, session in enumerate(alone)]
            longest = max(longest, *(session.stats()["prompt_tokens"] for session in here))
        assert [session.turns for session in here] == [session.turns for session in alone]
        assert longest > LINE + 20 and decoder.num_tokens > 1.5 * decoder.num_passes
        nothing_is_left(decoder, here)


def asked_in_pairs(pocket, decoder, count=4):
    """The same streams twice: of sessions that are answered together, and of others."""
    return [[watching(pocket, 10 + k, seed=k, **more) for k in range(count)] for more in ({"decoder": decoder}, {})]


def test_drawn_answers_are_drawn_as_alone(pocket, decoder):
    here, alone = asked_in_pairs(pocket, decoder)

    def ask(number, session):
        drawn = sampling(1.5, top_p=0.9, seed=number) if number else sampling(0)
        session.ask("What is it?", max_new_tokens=16, **drawn)
        return session._last_answer.ids

    found = at_once(here, ask)
    assert found == [ask(number, session) for number, session in enumerate(alone)]
    assert len({tuple(ids) for ids in found}) == 4 and decoder.num_passes < decoder.num_tokens
    assert at_once(here, ask) != found  # the dialogue went on


def test_options_of_generate_and_of_a_checkpoint_are_honoured_alone(pocket, decoder, monkeypatch):
    here, alone = asked_in_pairs(pocket, decoder, 2)
    for options in ({"num_beams": 3}, {"no_repeat_ngram_size": 1}, {"do_sample": True, "top_k": 1}):
        ask = lambda number, session: session.ask("What is it?", max_new_tokens=8, **options)  # noqa: B023, E731
        assert at_once(here, ask) == [ask(number, session) for number, session in enumerate(alone)]
    assert decoder.num_passes == 0
    monkeypatch.setattr(pocket[0].generation_config, "repetition_penalty", 1.3)
    assert not SharedDecoder(pocket[0]).is_able
    monkeypatch.setattr(pocket[0].generation_config, "repetition_penalty", 1.0)
    assert SharedDecoder(pocket[0]).is_able


def test_without_a_cache_of_their_own(pocket, decoder):
    """As a chat completion without a session is answered."""
    here = [watching(pocket, 6, seed=k, reuse_cache=False, decoder=decoder) for k in range(3)]
    alone = [watching(pocket, 6, seed=k, reuse_cache=False) for k in range(3)]
    for question in QUESTIONS:
        ask = lambda number, session: session.ask(question, max_new_tokens=12)  # noqa: B023, E731
        assert at_once(here, ask) == [ask(number, session) for number, session in enumerate(alone)]
    assert all(session.language.num_bytes == 0 and session.language.cache.num_bytes == 0 for session in here)


def test_leaving_in_the_middle_ends_one_and_not_the_others(pocket, decoder):
    here, alone = asked_in_pairs(pocket, decoder)

    def ask(number, session):
        pieces = session.ask_stream("What is happening now?", max_new_tokens=24)
        said = [next(pieces) for _ in range(2)] if number == 1 else list(pieces)
        pieces.close()
        return "".join(said)

    found, expected = at_once(here, ask), [ask(number, session) for number, session in enumerate(alone)]
    assert found == expected
    nothing_is_left(decoder, here)
    again = lambda number, session: session.ask("And before that?", keep=False)  # noqa: E731
    others = [0, 2, 3]  # of the one that left, what it said until somebody noticed is no promise
    assert at_once(here, again)[2:] == [again(k, session) for k, session in enumerate(alone)][2:] and others


class Broken(RuntimeError):
    pass


def test_an_error_of_one_is_its_own(pocket, decoder):
    """Where its words are taken, and in what draws its tokens."""
    here, alone = asked_in_pairs(pocket, decoder)

    def breaks(piece, scores=None):
        raise Broken

    def ask(number, session):
        options = ({}, {"emit": breaks}, {}, {"logits_processor": [breaks]})[number]
        try:
            session.ask("What is it?", max_new_tokens=16, **options)
        except Broken:
            return None
        return session._last_answer.ids

    found, expected = at_once(here, ask), [ask(number, session) for number, session in enumerate(alone)]
    assert found == expected and found[1] is None is found[3] and len(found[0]) > 3
    assert not decoder._groups and not decoder._expected
    asked = lambda number, session: session.ask("And now?", max_new_tokens=16)  # noqa: E731
    assert at_once(here, asked) == [asked(number, session) for number, session in enumerate(alone)]


def test_a_pass_that_fails_is_an_error_for_its_answers_and_no_more(pocket, decoder, monkeypatch):
    here, alone = asked_in_pairs(pocket, decoder, 3)
    step, passes = together._Group.step, []

    def fails(group, rows):
        passes.append(len(rows))
        if len(passes) == 3:
            raise Broken("no memory left")
        return step(group, rows)

    monkeypatch.setattr(together._Group, "step", fails)

    def ask(number, session):
        with pytest.raises(Broken, match="no memory left"):
            session.ask("What is happening now?", max_new_tokens=16)
        return len(session.language.cache), session.turns

    assert at_once(here, ask) == [(0, ())] * 3 and passes == [3, 3, 3]
    assert not decoder._groups and not decoder._expected
    ask = ids_of("What is happening now?", max_new_tokens=16)
    assert at_once(here, ask) == [ask(number, session) for number, session in enumerate(alone)]


def test_who_waits_aside_stops_nobody_and_goes_on(pocket, decoder):
    """As a long answer gives way: the others end meanwhile."""
    here, alone = asked_in_pairs(pocket, decoder, 3)
    others_ended = threading.Semaphore(0)

    def ask(number, session):
        said = []

        def emit(piece):
            said.append(piece)
            if number == 0 and len(said) == 3:
                with aside():
                    assert others_ended.acquire(timeout=60) and others_ended.acquire(timeout=60)

        session.ask("What is happening now?", max_new_tokens=24, emit=emit)
        others_ended.release()
        return session._last_answer.ids

    found = at_once(here, ask)
    for _ in range(2):
        others_ended.release()
    assert found == [ask(number, session) for number, session in enumerate(alone)]
    nothing_is_left(decoder, here)


def test_a_row_that_is_late_is_not_waited_for_long(pocket, decoder, monkeypatch):
    """It blocks without saying so; the others end all the same, and then it goes on."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 0.01)
    here, alone = asked_in_pairs(pocket, decoder, 3)
    others_ended = threading.Semaphore(0)

    def ask(number, session):
        wait = lambda piece: number or (others_ended.acquire(timeout=60) and others_ended.release())  # noqa: E731
        session.ask("What is happening now?", max_new_tokens=24, emit=wait)
        others_ended.release()
        return session._last_answer.ids

    found = at_once(here, ask)
    assert found == [ask(number, session) for number, session in enumerate(alone)]
    nothing_is_left(decoder, here)


def test_a_long_prompt_lets_answers_go_on(pocket, decoder, monkeypatch):
    """Its steps and the passes of a running answer take turns; both say what they say alone."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 0.0)
    first, cold = (watching(pocket, 20, seed=k, decoder=decoder) for k in range(2))
    cold.language.cache._step, cold.language.cache._pace = 16, lambda num, started: None
    has_begun, order = threading.Event(), []
    fill, step = cold.language.cache.fill, together._Group.step
    monkeypatch.setattr(cold.language.cache, "fill", lambda *a, **k: (order.append("prompt"), fill(*a, **k))[1])
    monkeypatch.setattr(together._Group, "step", lambda *a: (order.append("pass"), step(*a))[1])

    def endless(input_ids, scores):
        scores[:, pocket[1].end_token_ids] = -1e9
        return scores

    def ask(number, session):
        if number == 1:
            assert has_begun.wait(60)
        options = {"max_new_tokens": 20 if number else 150, "logits_processor": [endless]}
        session.ask("What is happening now?", emit=lambda piece: has_begun.set(), **options)
        return session._last_answer.ids

    found = at_once([first, cold], ask)
    assert found == [ask(number, watching(pocket, 20, seed=number)) for number in range(2)]
    between = order[order.index("prompt") : len(order) - order[::-1].index("prompt")]
    assert between.count("prompt") >= 5 and between.count("pass") >= 1


def test_a_prompt_stands_aside_before_each_step(pocket, decoder):
    """Others' tokens are made meanwhile, and no pass waits for a row that none waited for before."""
    first, cold = (watching(pocket, 20, seed=k, decoder=decoder) for k in range(2))
    cold.language.cache._step, cold.language.cache._pace = 16, lambda num, started: None
    has_begun, is_aside, has_ended = (threading.Event() for _ in range(3))
    pieces, paces = [], []

    def pace():
        with aside():
            is_aside.set()
            assert has_ended.wait(60)
        paces.append((len(pieces), len(decoder._expected)))

    def ask(number, session):
        if number == 1:
            assert has_begun.wait(60)
            session.ask("What is happening now?", max_new_tokens=8, emit=pieces.append, pace=pace)
        else:
            emit = lambda piece: has_begun.set() or is_aside.wait(60)  # noqa: E731
            session.ask("What is happening now?", max_new_tokens=8, emit=emit)
            has_ended.set()
        return session._last_answer.ids

    found = at_once([first, cold], ask)
    assert paces[0] == (0, 0) and {expected for _, expected in paces[1:]} == {1}
    assert sum(said == 0 for said, _ in paces) >= 3, "before a step, before the rest of it, and before the first word"
    nothing_is_left(decoder, [first, cold])
    assert found == [ask(number, watching(pocket, 20, seed=number)) for number in range(2)]


def test_an_answer_that_is_made_alone_is_paced_too(pocket):
    pieces, num_said = [], []
    session = watching(pocket, 6)
    session.ask(QUESTIONS[0], max_new_tokens=8, emit=pieces.append, pace=lambda: num_said.append(len(pieces)))
    assert num_said == [0, *range(len(pieces))], "before its prompt, and before each piece"


def test_the_mark_of_a_picture_may_be_said(pocket, decoder):
    """It is a word then, as in generate."""
    mark = pocket[0].config.img_context_token_id
    here, alone = asked_in_pairs(pocket, decoder, 2)

    def marks(input_ids, scores):
        if input_ids.shape[1] == 1:
            scores[:, mark] = 1e9
        return scores

    def ask(number, session):
        session.ask("What is it?", max_new_tokens=8, logits_processor=[marks])
        return session._last_answer.ids

    found = at_once(here, ask)
    assert found == [ask(number, session) for number, session in enumerate(alone)]
    assert all(ids[1] == mark for ids in found)


def test_closing_ends_answers_with_an_error(pocket):
    decoder = SharedDecoder(pocket[0])
    here = [watching(pocket, 6, seed=k, decoder=decoder) for k in range(3)]
    closing = threading.Thread(target=decoder.close)

    def ask(number, session):
        def emit(piece):
            if number == 0 and not closing.ident:
                closing.start()

        with pytest.raises(ValueError, match="the shared decoder is closed"):
            session.ask("What is happening now?", max_new_tokens=400, emit=emit, **sampling(2.0, seed=1))
        return len(session.language.cache)

    assert at_once(here, ask) == [0, 0, 0]
    closing.join()
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        here[0].ask("And now?")
    with SharedDecoder(pocket[0]) as other:  # one that made no answer has no thread
        assert other._thread is None


def test_a_decoder_of_another_model_is_refused(pocket, tiny, decoder):  # noqa: F811
    with pytest.raises(ValueError, match="another model"):
        LanguageSide(*tiny, reuse_cache=True, decoder=decoder)
