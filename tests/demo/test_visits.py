"""What pages do to sessions, without a browser: uploads, cameras, pages that are left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from videochat_online.demo import visits as module
from videochat_online.demo.visits import Visit, Visits, parse_levels
from videochat_online.media.source import MediaError
from videochat_online.serve.limits import Limits, NotAllowed, SessionSettings, TooLarge, UnknownSession
from videochat_online.serve.sessions import Sessions
from videochat_online.serve.sources import SourceRequest


@pytest.fixture
def sessions(pocket):
    with Sessions(*pocket, limits=Limits(max_sessions=2, max_upload_bytes=100_000)) as sessions:
        yield sessions


@pytest.fixture
def visit(sessions) -> Visit:
    return Visit(sessions)


def sent(sessions: Sessions, clip: Path, name: str) -> str:
    return str(shutil.copy(clip, sessions.files.uploads / name))


def test_an_upload_moves_into_the_session_and_replaces_the_last(visit, sessions, clips):
    for clip, name in ((clips.one, "a.mp4"), (clips.two, "b.mp4")):
        visit.start_upload(sent(sessions, clip, name), name)
        session = visit.running()
        assert session.state()["source"] == name and len(list(session.folder.iterdir())) == 1
    with pytest.raises(MediaError, match=r"^bad\.mp4: is not a video"):
        visit.start_upload(sent(sessions, clips.bad, "bad.mp4"), "bad.mp4")
    assert session.state()["source"] == "b.mp4" and len(list(session.folder.iterdir())) == 1
    assert list(sessions.files.uploads.iterdir()) == []
    sessions.end(session.key)
    assert not session.folder.exists()


def test_uploads_that_are_gone_or_too_large(visit, sessions):
    with pytest.raises(NotAllowed, match=r"x\.mp4 is gone: send it again"):
        visit.start_upload(str(sessions.files.uploads / "x.mp4"), "x.mp4")
    assert len(sessions) == 0
    big = sessions.files.uploads / "big.mp4"
    big.write_bytes(b"\0" * 100_001)
    with pytest.raises(TooLarge, match=r"big\.mp4 has 100,001 bytes, at most 100,000"):
        visit.start_upload(str(big), "big.mp4")
    assert not big.exists()


def test_a_camera_is_the_stream_until_something_else_is_chosen(visit):
    import numpy as np

    picture = np.zeros((4, 6, 3), np.uint8)
    assert not visit.camera_frame(picture, begins=False) and visit.session is None
    assert visit.camera_frame(picture, begins=True)
    session = visit.running()
    assert session.watches_pushes
    assert not visit.camera_frame(picture, begins=False), "the stream is running already"
    visit.start(SourceRequest("shapeworld"))
    assert not visit.camera_frame(picture, begins=False) and "ShapeWorld" in session.state()["source"]
    assert visit.camera_frame(picture, begins=True) and session.watches_pushes, "the camera was started again"
    assert visit.running() is session
    assert not visit.camera_frame(picture, begins=True), "a page that was loaded again goes on with its stream"
    session.stop()
    assert not visit.camera_frame(picture, begins=False) and session.state()["state"] == "over"
    session.play()
    assert not visit.camera_frame(picture, begins=False) and session.watches_pushes


def test_settings_and_ended_sessions(visit, sessions):
    visit.change(SessionSettings(fps=4, policy="fifo"))
    session = visit.start(SourceRequest("shapeworld"))
    assert session.settings.fps == 4 and not visit.has_ended
    sessions.end(session.key)  # as the idle watch does
    assert visit.session is None and visit.has_ended
    with pytest.raises(NotAllowed, match="start a stream first"):
        visit.running()
    assert visit.start(SourceRequest("shapeworld")).settings.fps == 4 and not visit.has_ended


@pytest.fixture
def left(monkeypatch) -> list:
    """What is to be done some seconds after pages were left, to be done by the test: (call, key)."""
    waiting: list = []

    class Timer:
        def __init__(self, seconds, call, arguments):
            waiting.append((call, *arguments))

        def start(self):
            pass

    monkeypatch.setattr(module.threading, "Timer", Timer)
    return waiting


def test_a_page_is_remembered_from_its_first_start_until_it_is_left(sessions, left):
    visits = Visits(sessions)
    assert visits.look("me") is not visits.look("me"), "a look leaves nothing behind"
    mine = visits.enter("me")
    assert visits.look("me") is visits.enter("me") is mine is not visits.enter("you")
    mine.start(SourceRequest("shapeworld"))
    visits.leave("me")
    visits.leave("me")
    visits.leave("you")
    ((end, key),) = left
    assert len(sessions) == 1, "it may be loaded again"
    end(key)
    assert len(sessions) == 0 and visits.look("me") is not mine
    end(key)


def test_a_page_that_is_loaded_again_goes_on(sessions, left):
    visits = Visits(sessions)
    visit = visits.enter("before")
    visit.change(SessionSettings(fps=4))
    session = visit.start(SourceRequest("shapeworld"))
    visits.leave("before")
    again = visits.enter("after")
    assert again.resume(session.key) is session
    ((end, key),) = left
    end(key)
    assert again.session is session and again.start(SourceRequest("shapeworld")).settings.fps == 4
    twin = visits.enter("a copy of the tab")
    twin.resume(session.key)
    visits.leave("after")
    end(key)
    assert twin.session is session, "somebody still looks at it"
    with pytest.raises(UnknownSession):
        twin.resume("made up")
    assert twin.session is session


def test_levels_as_text():
    assert parse_levels(" 1/2/3 ") == (1, 2, 3) == parse_levels("1,2,3") and parse_levels(" ") is None
    with pytest.raises(ValueError, match="written as 2/2/12, got 'many'"):
        parse_levels("many")
