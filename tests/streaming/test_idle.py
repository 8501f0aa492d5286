"""Prefill in idle time: it does a question's work in advance, and a question never waits for it."""

from __future__ import annotations

import threading
import time

import pytest

from videochat_online import StreamingSession
from videochat_online.streaming.cache import PromptCache, num_common
from videochat_online.streaming.watching import IdlePrefill

from .sessions import pictures, watching


def own_tokens(session, question):
    """Tokens of a question with the marks around it: what two questions do not have in common."""
    rendered, other = (session.prompt(text)[0].ids for text in (question, "(another one)"))
    return len(rendered) - num_common(rendered, other)


def test_a_question_costs_its_own_tokens_only(pocket):
    session = watching(pocket)
    session.ask("What now?", max_new_tokens=3, keep=False)
    expected = own_tokens(session, "And what then?")
    session.ask("And what then?", max_new_tokens=3, keep=False)
    assert session.stats()["prompt_tokens"] - session.stats()["cached_tokens"] <= expected + 1 < 30


def test_prefill_does_a_questions_work_in_advance(pocket):
    session = watching(pocket)
    assert session.needs_prefill
    expected = len(session.prompt("What now?")[0].ids) - own_tokens(session, "What now?")
    computed = session.prefill()
    assert expected - 1 <= computed <= expected  # the first word behind the break may join it
    assert session.prefill() == 0 and not session.needs_prefill
    session.ask("What now?", max_new_tokens=3)
    assert session.stats()["cached_tokens"] >= computed - 2  # the words may begin with another token behind the break
    session.see(pictures(1, 7)[0], 11.0)
    assert session.needs_prefill and 0 < session.prefill() < computed


def test_prefill_keeps_the_dialogue(pocket):
    """Behind a kept turn the cache continues: it is not cropped back to the newest frame."""
    session = watching(pocket)
    session.ask("What did the red circle do before it came here?", max_new_tokens=6)
    before = len(session.language.cache)
    assert session.needs_prefill and 0 < session.prefill() < 20 and len(session.language.cache) > before
    session.ask("And then?", max_new_tokens=3)
    assert session.stats()["cached_tokens"] > before


def test_prefill_gives_way_to_a_question(pocket):
    session = watching(pocket)
    with session._turn.question():
        assert session.prefill() is None and session.is_asked
    assert session.prefill(give_way=lambda: True) is None and session.needs_prefill
    assert session.prefill() > 0 and not session.is_asked


def test_a_question_waits_for_one_step_of_prefill_only(pocket, monkeypatch):
    """It comes in the middle of a step; the next step must not begin."""
    session, compute, steps, thread = watching(pocket), PromptCache._compute, [], []

    def slow_step(self, embeds, *place):
        steps.append(embeds.shape[1])
        if len(steps) == 2:
            thread.append(threading.Thread(target=session.ask, args=("What?",), kwargs={"max_new_tokens": 2}))
            thread[0].start()
            until = time.monotonic() + 10
            while not session._turn.is_wanted and time.monotonic() < until:
                time.sleep(0.001)
        compute(self, embeds, *place)

    monkeypatch.setattr(PromptCache, "_compute", slow_step)
    monkeypatch.setattr(PromptCache, "_pace", lambda *args: None)
    session.language.cache._step = 20
    assert session.prefill() is None and len(steps) == 2
    thread[0].join()
    assert session.turns[0].question == "What?" and session.stats()["cached_tokens"] == 40


def test_two_waiting_questions_both_go_before_prefill(pocket):
    session = watching(pocket)
    with session._turn.question():
        threads = [threading.Thread(target=session.ask, args=(f"{k}?",), kwargs={"max_new_tokens": 2}) for k in "ab"]
        for thread in threads:
            thread.start()
        while session._turn._num_questions < 3:
            time.sleep(0.001)
    while len(session.turns) < 2:
        if session.prefill() is not None:
            break
    assert len(session.turns) == 2
    for thread in threads:
        thread.join()


def test_a_prompt_that_is_too_long_is_left_to_the_next_question(pocket, monkeypatch):
    monkeypatch.setattr("videochat_online.model.videochat.max_positions", lambda config: 100)
    session = watching(pocket)
    assert session.prefill() == 0 and not session.needs_prefill
    with pytest.raises(ValueError, match="100 are taken in all"):
        session.ask("What?")


def test_prefill_of_nothing_is_nothing(pocket):
    session = StreamingSession(*pocket)
    assert session.prefill() == 0 and not session.needs_prefill
    session = watching(pocket, reuse_cache=False)
    assert session.prefill() == 0 and not session.needs_prefill


def ready(idle, timeout):
    """Wait until every cache stands at its newest frame; False after `timeout` seconds, or after an error."""
    until = time.monotonic() + timeout
    while any(session.needs_prefill for session in idle.sessions()):
        if idle._error is not None or time.monotonic() > until:
            return False
        time.sleep(0.005)
    return idle._error is None


def test_idle_prefill_keeps_several_sessions_up_and_leaves_no_thread(pocket):
    before = threading.active_count()
    sessions, cold = [watching(pocket, 4), watching(pocket, 6)], watching(pocket, 4, reuse_cache=False)
    with IdlePrefill(lambda: sessions) as idle:
        for k in range(6):
            for session in (*sessions, cold):
                session.see(pictures(1, k)[0], 5.0 + k)
            assert ready(idle, 10)
        for session in sessions:
            session.ask("What?", max_new_tokens=8)
            assert session.stats()["prompt_tokens"] - session.stats()["cached_tokens"] < 12
        assert sessions[0].turns[0].answer == cold.ask("What?", max_new_tokens=8)
        assert ready(idle, 10)
        sessions[0].reset()
        sessions[0].see(pictures(1, 0)[0], 0.0)
        assert ready(idle, 10) and len(sessions[0].language.cache) > 10
        left = sessions.pop()
        left.see(pictures(1, 0)[0], 60.0)
        assert ready(idle, 10) and left.needs_prefill
    assert threading.active_count() == before


def test_idle_prefill_of_one_session_gives_way_to_a_question_to_another(pocket):
    sessions = [watching(pocket, 4), watching(pocket, 6)]
    with sessions[1]._turn.question(), IdlePrefill(lambda: sessions, interval=0.001) as idle:
        assert not ready(idle, 0.2) and len(sessions[0].language.cache) == 0


def test_idle_prefill_waits_while_the_machine_is_busy(pocket):
    session, busy = watching(pocket, 4), threading.Event()
    busy.set()
    with IdlePrefill(lambda: [session], interval=0.001, is_busy=busy.is_set) as idle:
        assert not ready(idle, 0.2) and len(session.language.cache) == 0
        busy.clear()
        assert ready(idle, 10)


def test_an_error_in_idle_time_comes_out(pocket, monkeypatch):
    session = watching(pocket, 4)
    monkeypatch.setattr(PromptCache, "_compute", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), IdlePrefill(lambda: [session]) as idle:
        assert not ready(idle, 10)
