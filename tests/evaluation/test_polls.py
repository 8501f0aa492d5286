"""Questions that are asked when the model says that it is time."""

from __future__ import annotations

from tests.evaluation.conftest import FakeResponder, examined
from videochat_online.evaluation.benchmarks import Settings
from videochat_online.evaluation.questions import Poll, Question
from videochat_online.evaluation.videos import OpenVideo

from .test_modes import question, replies, task_of


def polled(timestamp: float, number: int = 0) -> Question:
    poll = Poll("is it time, yes or no?", start=timestamp + 1, end=timestamp + 6, due=timestamp + 2)
    return question(timestamp, number, kind="proactive", labels=(), answer="now", poll=poll)


def test_a_polled_question_is_asked_when_the_model_says_yes(video: OpenVideo):
    for mode in ("streaming", "sliding_window", "prefix"):
        responder = FakeResponder(says_yes_at=6.5)
        reply = replies(examined(mode, task_of(polled(4.0)), video, Settings(2.0), responder))["q0"]
        asked = [prompt for conversation in responder.conversations for prompt in conversation.asked]
        assert asked == ["is it time, yes or no?"] * 3 + ["question 0?"], mode
        assert (reply.answered_at, reply.last_time) == (7.0, 7.0)


def test_a_polled_question_sees_only_what_came_after_it_in_a_window(video: OpenVideo):
    responder = FakeResponder(says_yes_at=5.0)
    replies(examined("sliding_window", task_of(polled(4.0)), video, Settings(2.0, window=60.0), responder))
    assert responder.conversations[-1].shown == [4.0, 4.5, 5.0]


def test_a_poll_without_a_yes_ends(video: OpenVideo):
    for mode in ("streaming", "sliding_window"):
        responder = FakeResponder()
        reply = replies(examined(mode, task_of(polled(4.0)), video, Settings(2.0), responder))["q0"]
        assert (reply.answered_at, reply.text, reply.last_time) == (None, "No", 10.0)


def test_polls_and_questions_of_one_video_share_the_pass(video: OpenVideo):
    responder = FakeResponder(says_yes_at=6.0)
    task = task_of(polled(4.0, 0), question(5.5, 1), polled(5.0, 2))
    found = replies(examined("streaming", task, video, Settings(2.0), responder))
    assert {key: reply.answered_at for key, reply in found.items()} == {"q0": 6.0, "q1": None, "q2": 6.0}
    [conversation] = responder.conversations
    assert conversation.shown == sorted(set(conversation.shown))
    assert sum(reply.new_frames for reply in found.values()) == 13  # 0.0 to 6.0, each frame charged once


def test_moments_are_in_order(video: OpenVideo, responder: FakeResponder):
    replies(examined("streaming", task_of(question(5.0, 0), polled(1.0, 1)), video, Settings(2.0), responder))
    asked = responder.conversations[0].asked
    assert [prompt == "question 0?" for prompt in asked] == [False] * 3 + [True] + [False] * 3
