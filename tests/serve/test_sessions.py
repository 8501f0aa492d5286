"""Many visitors on one model: isolated, limited, and gone without a trace."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from videochat_online.media.source import MediaError
from videochat_online.serve.limits import (
    LimitReached,
    Limits,
    NotAllowed,
    RequestError,
    SessionSettings,
    UnknownSession,
)
from videochat_online.serve.sources import SourceRequest, WatchedStream, open_file, open_source
from videochat_online.serve.track import DialogueTurn, dialogue_srt
from videochat_online.streaming.chooser import CHOOSER_FILE
from videochat_online.streaming.session import StreamingSession

LIMITS = Limits(max_new_tokens=32)


def source(kind: str, **details) -> WatchedStream:
    return open_source(SourceRequest(kind, **details), LIMITS)


def answer(session, question: str, **options) -> str:
    return "".join(session.ask(question, **options)[1])


def seen(session) -> int:
    return session.state()["stats"]["frames_seen"]


def test_a_file_is_watched_asked_about_and_over(sessions, clip, wait_until):
    session = sessions.create(SessionSettings(max_new_tokens=4))
    session.start(open_file(clip, LIMITS, name="street.mp4"))
    moment, pieces = session.ask("What is happening?")  # waits for the first frame
    assert "".join(pieces) == moment.answer and moment.held and moment.timestamp < 4
    session.set_speed(8)
    wait_until(lambda: session.state()["state"] == "over" and seen(session) == 8)
    state = session.state()
    assert (state["source"], state["duration"], state["position"]) == ("street.mp4", 4.0, pytest.approx(3.9))
    assert sum(state["stats"]["frames_held"]) == len(state["held"]) == 8 and state["frames_dropped"] == 0
    assert answer(session, "And at the end?") and len(session.track.turns) == 2
    session.play()  # from the beginning, with an empty memory
    assert session.session.turns == () and seen(session) < 8
    wait_until(lambda: seen(session) > 0)


def test_a_new_file_takes_the_place_of_the_one_before_and_of_no_other(sessions, clip):
    session = sessions.create()
    first, second, arriving = (session.folder / f"upload-{name}.video" for name in ("a", "b", "c"))
    for path in (first, second):
        path.write_bytes(clip.read_bytes())
    session.start_file(first, "first.mp4")
    arriving.write_bytes(b"half of a third")
    session.start_file(second, "second.mp4")
    assert not first.exists() and second.exists() and arriving.exists()


def test_a_dialogue_may_grow_to_the_limit_of_the_server(make_sessions):
    session = make_sessions(max_prompt_tokens=250).create(SessionSettings(max_new_tokens=2))
    for second in range(3):
        session.see(np.zeros((64, 64, 3), np.uint8), float(second))
    for _ in range(12):
        answer(session, "What is the red circle doing now, and what did it do before?")
    stats = session.state()["stats"]
    assert stats["turns_forgotten"] > 0 and stats["prompt_tokens"] <= 248


def test_seeking_forward_keeps_the_memory_and_back_empties_it(sessions, clip, wait_until):
    session = sessions.create()
    session.start(open_file(clip, LIMITS, name="clip.mp4"))
    wait_until(lambda: seen(session) >= 1)
    session.seek(3.0)
    session.set_speed(0.1)  # the last second takes longer than anything here
    wait_until(lambda: (session.state()["stats"]["last_timestamp"] or 0) >= 3.0)
    assert session.state()["held"][0]["timestamp"] == 0.0, "what was seen before is still remembered"
    session.pause()
    session.seek(1.0)
    wait_until(lambda: [frame["timestamp"] for frame in session.state()["held"]] == [1.0])
    assert seen(session) == 1
    wait_until(lambda: session.state()["state"] == "paused")
    with pytest.raises(ValueError, match=r"lasts 4\.0 s, cannot go to 77 s"):
        session.seek(77)


def test_two_visitors_do_not_touch(sessions, pocket, picture):
    """Each gets the answers it would get alone."""
    mine, yours = sessions.create(), sessions.create()
    expected = []
    for start in (0, 100):
        alone = StreamingSession(*pocket)
        for k in range(8):
            alone.see(picture(start + k), k / 2)
        expected.append(alone.ask("What is happening?", max_new_tokens=16))
    for k in range(8):
        mine.see(picture(k), k / 2)
        yours.see(picture(100 + k), k / 2)
    answers: list[str] = ["", ""]

    def ask(place: int, session) -> None:
        answers[place] = answer(session, "What is happening?", max_new_tokens=16)

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate((mine, yours))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected
    assert [f.number for f in mine.track.held.values()] and len(mine.track.turns) == len(yours.track.turns) == 1


def test_one_visitors_failure_is_not_anothers(sessions, picture, wait_until, monkeypatch):
    broken, fine = sessions.create(), sessions.create()
    fine.start(source("shapeworld", seed=1))
    broken.start(source("push"))
    monkeypatch.setattr(broken.session, "see_many", lambda *args: 1 / 0)
    broken.push(picture(1))
    wait_until(lambda: broken.state()["state"] == "over")
    assert broken.state()["problem"] == "division by zero"
    with pytest.raises(ValueError, match="division by zero"):
        broken.ask("What?")
    before = seen(fine)
    wait_until(lambda: seen(fine) > before)
    assert fine.state()["truth"] and answer(fine, "What?", max_new_tokens=2)
    broken.start(source("shapeworld"))
    assert answer(broken, "What?", max_new_tokens=2)


@pytest.mark.parametrize("kind", ["shapeworld", "push"])
def test_what_was_stopped_is_played_from_the_start(kind, sessions, picture, wait_until):
    session = sessions.create()
    with pytest.raises(NotAllowed, match="choose what to watch first"):
        session.play()
    session.start(source(kind))

    def watched() -> bool:
        if session.watches_pushes:
            session.push(picture(seen(session)))
        return seen(session) > 0

    wait_until(watched)
    assert answer(session, "What?", max_new_tokens=2)
    session.stop()
    assert session.state()["state"] == "over" and answer(session, "And now?", max_new_tokens=2)
    session.play()
    assert session.state()["state"] != "over" and len(session.track.turns) == 0
    wait_until(watched)
    session.play()  # it plays already
    session.change(SessionSettings(fps=5, policy="fifo"))
    wait_until(watched)
    assert session.state()["levels"][0]["every"] == 1, "the new memory watches the same stream"


def test_a_moment_holds_what_the_answer_is_about(sessions, picture):
    """However far the pictures for the page lag behind the memory."""
    session = sessions.create(SessionSettings(capacities=(1, 1, 2)))
    for k in range(4):
        session.see(picture(k), float(k))
    session.session.see_many([picture(k) for k in (4, 5)], [4.0, 5.0])  # the page does not know of these yet
    moment, pieces = session.ask("What?", max_new_tokens=2)
    frames = session.session.prompt("What?")[1]
    assert [(f.number, f.level) for f in moment.held] == [(f.index, f.level) for f in frames]
    assert moment.timestamp == 5.0 and not moment.is_done
    assert next(pieces, "") == moment.answer
    del pieces  # nobody listens any more
    assert moment.is_done


def test_a_session_that_cannot_be_ended_does_not_keep_the_others(make_sessions, wait_until, monkeypatch, caplog):
    sessions = make_sessions(idle_seconds=0.3)
    stuck = sessions.create()
    monkeypatch.setattr(stuck, "close", lambda: 1 / 0)
    wait_until(lambda: len(sessions) == 0)
    wait_until(lambda: "could not be ended cleanly" in caplog.text)
    fine = sessions.create()
    wait_until(lambda: fine.is_closed)
    with pytest.raises(NotAllowed, match="has ended"):
        fine.see(np.zeros((4, 4, 3), np.uint8))


def test_places_are_limited_and_given_back(make_sessions):
    sessions = make_sessions(max_sessions=2)
    first, _ = sessions.create(), sessions.create()
    with pytest.raises(LimitReached, match="all 2 places are taken"):
        sessions.create()
    sessions.end(first.key)
    assert sessions.create() and len(sessions) == 2
    with pytest.raises(UnknownSession):
        sessions.get(first.key)
    with pytest.raises(UnknownSession):
        sessions.end(first.key)


def test_idle_sessions_end_with_their_threads_and_files(make_sessions, clip, wait_until):
    threads = set(threading.enumerate())
    sessions = make_sessions()
    session = sessions.create()
    (session.folder / "upload.mp4").write_bytes(clip.read_bytes())
    session.start(open_file(session.folder / "upload.mp4", LIMITS, name="upload.mp4"))
    assert answer(session, "What?", max_new_tokens=2)
    sessions.limits = Limits(idle_seconds=0.4)  # from now on: an answer may take longer on a busy machine
    wait_until(lambda: len(sessions) == 0)
    wait_until(lambda: session.is_closed and not session.folder.exists())
    with pytest.raises(NotAllowed, match="has ended"):
        session.start(source("shapeworld"))
    sessions.close()
    wait_until(lambda: set(threading.enumerate()) <= threads)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fps": 99}, RequestError, "99 fps are more than this server allows"),
        ({"max_new_tokens": 999}, RequestError, "999 max_new_tokens"),
        ({"capacities": (9999, 1, 1)}, RequestError, "memory tokens"),
        ({"system_prompt": "x" * 9999}, RequestError, "characters of the system prompt"),
        ({"capacities": (1, 1)}, ValueError, "has 3 levels"),
        ({"policy": "newest"}, ValueError, "unknown policy 'newest'"),
        ({"recall": "tim"}, ValueError, "recall must be 'time', 'chosen' or 'off', got 'tim'"),
        ({"fps": -1}, ValueError, "fps must be a number > 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be at least 1"),
    ],
)
def test_settings_within_limits(sessions, settings, error, message):
    with pytest.raises(error, match=message):
        sessions.create(SessionSettings(**settings))
    assert len(sessions) == 0


def test_recall_is_the_servers_choice_or_the_sessions(make_sessions, picture):
    sessions = make_sessions(recall="time")
    chosen = [
        sessions.create(SessionSettings(recall=recall)).session.recall for recall in (None, "time", "off", "chosen")
    ]
    assert chosen == ["time", "time", None, "chosen"]
    session = sessions.create()
    for k in range(20):
        session.see(picture(k), float(k))
    assert answer(session, "What was it 9 seconds ago?", max_new_tokens=2) is not None
    assert session.session._recall.language.cache.keys
    session.change(SessionSettings(recall="off"))
    assert session.session.recall is None
    with pytest.raises(ValueError, match="recall must be"):
        Limits(recall="always")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_visitor_is_not_told_where_the_chooser_should_lie(sessions, tmp_path, monkeypatch, caplog, damaged):
    session = sessions.create()
    own = session.session.model.config
    if damaged:
        (tmp_path / CHOOSER_FILE).write_text("no chooser")
    monkeypatch.setattr(own, "name_or_path", str(tmp_path))
    for ask in (sessions.create, session.change):
        with pytest.raises(ValueError, match=r"recall='chosen' takes a chooser .* none that can be used") as refused:
            ask(SessionSettings(recall="chosen"))
        assert str(tmp_path) not in str(refused.value)
    assert str(tmp_path) in caplog.text and len(sessions) == 1


def test_settings_change_the_memory(sessions, picture):
    session = sessions.create(SessionSettings(capacities=(1, 0, 2), policy="pyramid"))
    for k in range(9):
        session.see(picture(k), float(k))
    assert [level["capacity"] for level in session.state()["levels"]] == [1, 0, 2]
    session.change(SessionSettings(policy="fifo", system_prompt="Be brief."))
    assert seen(session) == 0 and session.session.system_prompt == "Be brief."
    assert [level["grid"] for level in session.state()["levels"]] == [1]


def test_questions_within_limits(sessions, picture):
    session = sessions.create()
    with pytest.raises(ValueError, match="before any frame"):
        session.ask("What?")
    session.see(picture(1))
    for question, options, message in (
        ("", {}, "not empty"),
        ("x" * 5000, {}, "may have 4000 characters"),
        ("What?", {"max_new_tokens": 33}, "between 1 and 32"),
    ):
        with pytest.raises(ValueError, match=message):
            session.ask(question, **options)
    assert len(session.track.turns) == 0


def test_what_a_session_cannot_do(sessions, picture):
    session = sessions.create()
    with pytest.raises(NotAllowed, match="nothing is playing: it cannot be paused"):
        session.pause()
    session.start(source("push"))
    with pytest.raises(NotAllowed, match="your camera cannot be paused: stop it instead"):
        session.pause()
    session.stop()
    with pytest.raises(NotAllowed, match="does not watch a camera of yours"):
        session.push(picture(1))
    session.start(source("shapeworld"))
    with pytest.raises(NotAllowed, match="cannot be moved to another second"):
        session.seek(3)
    with pytest.raises(NotAllowed, match="stop that before pushing frames"):
        session.see(picture(1))
    with pytest.raises(ValueError, match=r"speed must lie between 0\.1 and 8"):
        session.set_speed(99)
    session.stop()
    assert session.see(picture(1), 500.0) == {"number": seen(session) - 1, "timestamp": 500.0}
    with pytest.raises(ValueError, match="a frame at 1 s came after one at 500 s"):
        session.see(picture(1), 1.0)


def test_sources_within_limits(clip, tmp_path):
    with pytest.raises(MediaError, match=r"mine\.mp4: lasts 4 s; expected at most 2 s"):
        open_file(clip, Limits(max_video_seconds=2), name="mine.mp4")
    (tmp_path / "secret-name").write_text("no video")
    with pytest.raises(MediaError, match=r"^mine\.mp4: is not a video") as failure:
        open_file(tmp_path / "secret-name", LIMITS, name="mine.mp4")
    assert "secret-name" not in str(failure.value)
    with pytest.raises(NotAllowed, match="--allow-cameras"):
        source("camera")
    with pytest.raises(ValueError, match=r"unknown sample '\.\./\.\./etc/passwd', expected one of shapes"):
        source("sample", name="../../etc/passwd")
    with pytest.raises(ValueError, match="unknown level 9"):
        source("shapeworld", level=9)
    with pytest.raises(ValueError, match=r"Limits\.max_sessions must be an integer >= 1, got 0"):
        Limits(max_sessions=0)
    with pytest.raises(ValueError, match="needs allow_urls"):
        Limits(allow_private_urls=True)


def test_subtitles_do_not_overlap():
    moments = [
        DialogueTurn(0, "One?", 1.0, [], "first"),
        DialogueTurn(1, "Two?", 2.5, [], "\n\nsecond\n\nline"),
        DialogueTurn(2, "Three?", 2.5, []),
    ]
    cues = [cue.splitlines() for cue in dialogue_srt(moments).split("\n\n")]
    assert cues[0] == ["1", "00:00:01,000 --> 00:00:02,500", "One?", "first"]
    assert cues[1] == ["2", "00:00:02,500 --> 00:00:04,500", "Two?", "second", "line"]
    assert cues[2][1] == "00:00:04,500 --> 00:00:06,500"
