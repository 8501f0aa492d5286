"""Standing instructions: read out at every frame as a cold prompt would be, decided by one rule, and nobody's questions
are answered otherwise for them."""

from __future__ import annotations

import threading

import pytest
import torch

from videochat_online import MemoryConfig, StreamingSession
from videochat_online.streaming import readout, standing
from videochat_online.streaming.gate import Gate, GateNetwork, looks_at
from videochat_online.streaming.standing import Readout, Rule, Standing, as_question
from videochat_online.streaming.watching import IdlePrefill

from .sessions import pictures, watching
from .test_cache import tiny  # noqa: F401 (a fixture)

SMALL = MemoryConfig.pyramid(capacities=(1, 2, 4), grids=(4, 2, 1), every=(4, 2, 1))
QUESTIONS = ("Is there a red circle in the picture?", "Tell me when the ring leaves.", "Is it dark?")
ONE_PASS = {"one by one": False, "one pass": True}


def curves(session):
    return [[p for _, p in each.curve] for each in session.standing]


def close(one, other):
    return all(a == pytest.approx(b, abs=2e-4) for a, b in zip(one, other, strict=True))


# ---- the readout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_pass", ONE_PASS.values(), ids=ONE_PASS)
def test_a_readout_equals_a_cold_one_alone(tiny, one_pass, monkeypatch):  # noqa: F811
    """Over evictions, behind a dialogue, on every kind of rotary embedding, beside others or alone."""
    if not one_pass:
        monkeypatch.setattr(readout, "takes_mask", lambda config, num: False)
    together = StreamingSession(*tiny, memory=SMALL)
    alone = [StreamingSession(*tiny, memory=SMALL, reuse_cache=False) for _ in QUESTIONS]
    for session, texts in ((together, QUESTIONS), *zip(alone, [[text] for text in QUESTIONS], strict=True)):
        for text in texts:
            session.watch_for(text, threshold=0.999)
        for k, picture in enumerate(pictures(12)):
            session.see(picture, float(k))
            if k == 7:
                session.remember_turn("What was there?", "A red circle at the top, and a ring.")
    assert sum(together.memory.num_held) == 7 and together.memory.num_written == 12
    found = [curve for session in alone for curve in curves(session)]
    assert all(map(close, curves(together), found)) and len({p for curve in found for p in curve}) > 20


def test_a_readout_is_what_scoring_says(pocket):
    """P(Yes) against P(No) of the very question, asked in the ordinary way."""
    session = watching(pocket, 9)
    given = session.watch_for("Is there a red circle in the picture?", threshold=0.999)
    against = session.watch_for("Is there a red circle in the picture? ", question="Is it?", expect="No")
    session.read_standing()
    yes, no = session.score_options(given.question, ["Yes", "No"])
    assert Readout(0, yes - no).yes == pytest.approx(given_margin(given.probability), abs=0.2)
    yes, no = session.score_options("Is it?", ["Yes", "No"])
    assert no - yes == pytest.approx(given_margin(against.probability), abs=0.2)


def given_margin(p):
    """(The end marks that `score_options` counts are nearly certain in the small model.)"""
    from math import log

    return log(p / (1 - p))


def test_it_costs_its_own_tokens_only(pocket):
    session = watching(pocket)
    session.prefill()
    before = len(session.language.cache)
    session.watch_for(QUESTIONS[0], threshold=0.999)
    own = len(session.prompt(QUESTIONS[0])[0].ids) - before
    assert session.read_standing() == own < 25 and len(session.language.cache) == before
    assert not session.needs_prefill and not session.needs_reading and session.read_standing() == 0
    session.watch_for(QUESTIONS[1], threshold=0.999)
    assert session.needs_reading and 0 < session.read_standing() <= 15  # the other one is not read again
    assert [len(each.curve) for each in session.standing] == [1, 1]


def test_frames_at_once_are_read_as_frames_one_by_one(pocket):
    one, many = StreamingSession(*pocket), StreamingSession(*pocket, encode_batch_size=4)
    for session in (one, many):
        session.watch_for("Is it dark?", threshold=0.02, refractory=2)
    for k, picture in enumerate(pictures(10)):
        one.see(picture, k / 2)
    changed = many.see_many(pictures(10), [k / 2 for k in range(10)])
    assert len(changed.arrivals) == 10 and all(map(close, curves(one), curves(many)))
    assert [(e.time, e.text) for e in one.watchlist.events] == [(e.time, e.text) for e in many.watchlist.events] != []


@pytest.mark.parametrize("options", [{}, {"reuse_cache": False}, {"max_cache_bytes": 40_000}], ids=str)
@pytest.mark.parametrize("threshold", [0.999, 0.001], ids=["silent", "speaks"])
def test_ordinary_questions_are_answered_as_without_instructions(pocket, threshold, options):
    """Token for token, over evictions and a dialogue, and no less of the cache is used again."""
    plain, told = (StreamingSession(*pocket, memory=SMALL, **options) for _ in range(2))
    told.is_tended = True
    for text in QUESTIONS:
        told.watch_for(text, threshold=threshold, refractory=0)
    used = []
    for k, picture in enumerate(pictures(24)):
        for session in (plain, told):
            session.see(picture, float(k))
            session.prefill()
        told.read_standing()
        if k % 3 == 2:
            answers = [session.ask(f"What was at {k - 1}.0s?", max_new_tokens=6) for session in (plain, told)]
            assert answers[0] == answers[1]
            used.append([session.stats()["cached_tokens"] for session in (plain, told)])
    assert plain.turns == told.turns and len(plain.turns) == 8 and len({turn.answer for turn in plain.turns}) > 1
    assert all(mine == theirs for theirs, mine in used) if threshold > 0.5 else all(m >= t for t, m in used)
    assert bool(told.watchlist.events) == (threshold < 0.5)


def test_what_is_said_shows_in_no_prompt(pocket):
    session = StreamingSession(*pocket)
    session.watch_for("Is it dark?", threshold=0.001)
    session.see(pictures(1)[0], 0.0)
    (event,) = session.watchlist.events
    assert event.text == session.ask("Is it dark?", max_new_tokens=64, keep=False) and session.turns == ()
    assert session.standing[0].last == event and event.instruction == "Is it dark?" and event.time == 0.0


# ---- a gate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(pocket):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gate(GateNetwork(*Gate.sizes(pocket[0])), 0.5, "pocket")


def gated(pocket, gate, **options):
    session = StreamingSession(*pocket, memory=SMALL, **options)
    session.scorer = gate
    for text in QUESTIONS:
        session.watch_for(text, threshold=0.999)
    return session


def test_a_gate_decides_without_the_language_model(pocket, gate):
    """Frames one by one and in a batch, an instruction alone and beside others: the same P; questions cost no more."""
    together, plain = gated(pocket, gate), StreamingSession(*pocket, memory=SMALL)
    together.language.model = None
    together.language.words = plain.language.words
    together.see_many(pictures(9), [k / 2 for k in range(9)])
    assert together.read_standing() == 0 and not together.needs_reading
    for text, curve in zip(QUESTIONS, curves(together), strict=True):
        alone = StreamingSession(*pocket, memory=SMALL)
        alone.scorer, alone.is_tended = gate, True
        given = alone.watch_for(text, threshold=0.999)
        alone.see_many(pictures(9), [k / 2 for k in range(9)])
        assert alone.read_standing() == 0 and given.probability == pytest.approx(curve[-1], abs=1e-4)
    assert len({p for curve in curves(together) for p in curve}) > 20


def test_a_gate_looks_at_the_seconds_before(pocket, gate):
    """What was seen up to two seconds ago counts, what is older does not, and a restored session goes on alike."""
    assert looks_at([0.0, 0.5, 1.0, 2.0, 3.1], [0, 2, 4]).tolist() == [[0, 0, 0], [2, 0, 0], [4, 3, 2]]
    shown = {
        "same": pictures(6),
        "older": [*pictures(3, 1), *pictures(6)[3:]],
        "before": [*pictures(4, 1), *pictures(6)[4:]],
    }
    last = {}
    for name, frames in shown.items():
        session = gated(pocket, gate)
        session.see_many(frames, list(range(6)))
        last[name] = [curve[-1] for curve in curves(session)]
    assert close([last["same"]], [last["older"]]) and not close([last["same"]], [last["before"]])


def test_a_restored_session_looks_on(pocket, gate, tmp_path):
    session = gated(pocket, gate)
    session.see_many(pictures(5), list(range(5)))
    session.save(tmp_path / "one.session")
    restored = StreamingSession.restore(*pocket, tmp_path / "one.session")
    restored.scorer = gate
    for each in (session, restored):
        each.see(pictures(1, 2)[0], 5.0)
    assert all(map(close, curves(session), curves(restored))) and len(curves(restored)[0]) == 6


def test_frames_from_before_the_gate_decide_nothing(pocket, gate):
    session = watching(pocket, 3)
    session.scorer = gate
    given = session.watch_for("Is it dark?", threshold=0.001)
    assert session.read_standing() == 0 and given.probability < 1e-9 and not session.needs_reading


def test_what_a_gate_reads():
    told = {("Tell me when X.", "Is it so now that X?"): "Tell me when X.", ("Is it X?", "Is it X?"): "Is it X? Yes"}
    told[("Say it.", "Is it X?")] = "Is it X? Yes"
    for (text, question), wording in told.items():
        assert Standing("s1", text, question, "Yes", Rule()).wording == wording


# ---- a question goes first ------------------------------------------------------------------------------------------


def test_a_readout_gives_way_to_a_question(pocket):
    session = watching(pocket)
    session.watch_for("Is it dark?", threshold=0.001)
    with session._turn.question():
        assert session.read_standing() is None
    assert session.read_standing(give_way=lambda: True) is None and session.needs_reading
    assert session.read_standing() > 0 and len(session.watchlist.events) == 1 and not session.needs_reading


def test_words_that_a_question_cuts_off_are_said_later(pocket, monkeypatch):
    session, whole = watching(pocket), watching(pocket)
    for each in (session, whole):
        each.is_tended = True
        each.watch_for("What is in the picture?", question="Is it dark?", threshold=0.001)
    whole.read_standing()
    wanted, answer = [True], session.language.answer

    def interrupted(question, **options):
        monkeypatch.setattr(type(session._turn), "is_wanted", property(lambda turn: wanted[0]))
        return answer(question, **options)

    monkeypatch.setattr(session.language, "answer", interrupted)
    session.read_standing()
    assert not session.watchlist.events and session.needs_reading
    wanted[0] = False
    session.see(pictures(1, 5)[0], 99.0)
    session.read_standing()
    assert [(e.time, e.text) for e in session.watchlist.events] == [(e.time, e.text) for e in whole.watchlist.events]


def test_what_is_dropped_says_nothing_more(pocket):
    session = watching(pocket, 3)
    given = session.watch_for("Is it dark?", threshold=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_say_what_is_due", lambda: True)  # as where a question holds it up
        session.read_standing()
    session.drop_standing(given.key)
    assert not session.needs_reading and session.read_standing() == 0 and not session.watchlist.events


def test_idle_prefill_reads_out(pocket):
    session = StreamingSession(*pocket)
    session.watch_for("Is it dark?", threshold=0.001, once=True)
    read = session.watch_for("Is it bright?", threshold=0.999)
    with IdlePrefill(lambda: [session], interval=0.001) as idle:
        for k in range(4):
            session.see(pictures(1, k)[0], float(k))
            answer = session.ask("What?", max_new_tokens=2, keep=False)
        assert session.watchlist.wait(0, 10)[0].text and answer is not None
        wait = threading.Event()
        while session.needs_reading and idle._error is None:
            wait.wait(0.005)
        assert session.is_tended
    assert not session.is_tended and session.standing == (read,) and read.curve[-1][0] == 3.0


# ---- the rule -------------------------------------------------------------------------------------------------------


def fired(probabilities, **rule):
    """Seconds at which one readout a second fires."""
    given = Standing("s1", "x", "x?", "Yes", Rule(**rule))
    margins = [given_margin(p) for p in probabilities]
    return [k for k, margin in enumerate(margins) if given.take(Readout(float(k), margin), k)]


def test_the_rule():
    assert fired([0.1, 0.6, 0.9, 0.9, 0.2, 0.7], refractory=0) == [1, 5]  # it has to fall before it may rise
    assert fired([0.6, 0.1, 0.6, 0.1, 0.6, 0.1, 0.6], refractory=4) == [0, 4]
    assert fired([0.6, 0.1, 0.6, 0.7, 0.8, 0.9], refractory=4) == [0, 4]  # a rise while it rests is not forgotten
    assert fired([0.6, 0.7, 0.1], threshold=0.65, refractory=0) == [1] and fired([0.4] * 9) == []


def test_once_ends_the_instruction(pocket):
    session = StreamingSession(*pocket)
    session.watch_for("Is it dark?", threshold=0.001, refractory=0, once=True)
    session.watch_for("Is it bright?", threshold=0.001, refractory=0)
    session.see_many(pictures(5), list(range(5)))
    assert [event.standing for event in session.watchlist.events] == ["s1", "s2"]
    assert [each.key for each in session.standing] == ["s2"]


def test_a_paused_instruction_is_not_read_out(pocket):
    session = StreamingSession(*pocket)
    one = session.watch_for("Is it dark?", threshold=0.001, refractory=0)
    session.watch_for("Is it bright?")
    session.see_many(pictures(2), [0.0, 1.0])
    one.is_paused = True
    session.see_many(pictures(2), [2.0, 3.0])
    assert not session.needs_reading and [len(each.curve) for each in session.standing] == [2, 4]
    assert session.watchlist.continued().standing["s1"].is_paused
    one.is_paused = False
    session.see(pictures(1)[0], 4.0)
    assert [at for at, _ in one.curve] == [0.0, 1.0, 4.0]


def test_quiet_hours(pocket, monkeypatch):
    day, night = Rule(quiet_hours="9:00-17:30"), Rule(quiet_hours="22:00 - 07:00")
    assert [day.is_quiet(60 * hour) for hour in (8, 9, 17, 18)] == [False, True, True, False]
    assert [night.is_quiet(60 * hour) for hour in (21, 22, 0, 6, 7)] == [False, True, True, True, False]
    monkeypatch.setattr(standing, "minute_of_day", lambda: 23 * 60)
    session = StreamingSession(*pocket)
    for text, hours in (("Is it dark?", "22:00-07:00"), ("Is it bright?", None)):
        session.watch_for(text, threshold=0.001, quiet_hours=hours)
    session.see(pictures(1)[0], 0.0)
    assert [event.quiet for event in session.watchlist.events] == [True, False] and session.watchlist.events[0].text


def test_as_question():
    assert as_question("Warn me if somebody comes to the door!") == ("Is it so now that somebody comes to the door?")
    assert as_question("please let us know as soon as it rains") == "Is it so now that it rains?"
    assert as_question("Comment on the match.") == "Is this the moment for it: Comment on the match?"
    assert as_question(" Is it dark? ") == "Is it dark?"
    assert as_question("\u6697\u3044\uff1f") == "\u6697\u3044\uff1f" and as_question("\u0623\u061f") == "\u0623\u061f"
