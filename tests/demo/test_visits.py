"""What pages do to sessions, without a browser: uploads, cameras, pages that are left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from videochat_online.demo.events import parse_levels
from videochat_online.demo.visits import CAMERA_PAUSE, Visits
from videochat_online.media.source import MediaError
from videochat_online.serve.limits import Limits, NotAllowed, SessionSettings, TooLarge
from videochat_online.serve.sessions import Sessions
from videochat_online.serve.sources import SourceRequest


@pytest.fixture
def visits(pocket):
    with Sessions(*pocket, limits=Limits(max_sessions=2, max_upload_bytes=100_000)) as sessions:
        yield Visits(sessions)


def sent(visits: Visits, clip: Path, name: str) -> str:
    return str(shutil.copy(clip, visits.sessions.files.uploads / name))


def test_an_upload_moves_into_the_session_and_replaces_the_last(visits, clips):
    for clip, name in ((clips.one, "a.mp4"), (clips.two, "b.mp4")):
        session = visits.start_upload("me", sent(visits, clip, name), name)
        assert session.state()["source"] == name and len(list(session.folder.iterdir())) == 1
    with pytest.raises(MediaError, match=r"^bad\.mp4: is not a video"):
        visits.start_upload("me", sent(visits, clips.bad, "bad.mp4"), "bad.mp4")
    assert session.state()["source"] == "b.mp4" and len(list(session.folder.iterdir())) == 1
    assert list(visits.sessions.files.uploads.iterdir()) == []
    visits.leave("me")
    visits.leave("me")
    assert not session.folder.exists() and len(visits.sessions) == 0


def test_uploads_that_are_gone_or_too_large(visits):
    with pytest.raises(NotAllowed, match=r"x\.mp4 is gone: send it again"):
        visits.start_upload("me", str(visits.sessions.files.uploads / "x.mp4"), "x.mp4")
    assert len(visits.sessions) == 0
    big = visits.sessions.files.uploads / "big.mp4"
    big.write_bytes(b"\0" * 100_001)
    with pytest.raises(TooLarge, match=r"big\.mp4 has 100,001 bytes, at most 100,000"):
        visits.start_upload("me", str(big), "big.mp4")
    assert not big.exists()


def test_a_camera_is_the_stream_until_something_else_is_chosen(visits, clips, monkeypatch):
    import numpy as np

    picture, now = np.zeros((4, 6, 3), np.uint8), [1000.0]
    monkeypatch.setattr("videochat_online.demo.visits.time.monotonic", lambda: now[0])
    session = visits.camera_frame("me", picture)
    assert session is not None and session.watches_pushes
    assert visits.camera_frame("me", picture) is None, "the stream is running already"
    visits.start("me", SourceRequest("shapeworld"))
    now[0] += 0.3
    assert visits.camera_frame("me", picture) is None and "ShapeWorld" in session.state()["source"]
    now[0] += CAMERA_PAUSE + 0.1
    assert visits.camera_frame("me", picture) is session and session.watches_pushes, "the camera was started again"
    session.stop()
    now[0] += 0.3
    assert visits.camera_frame("me", picture) is None and session.state()["state"] == "over"
    session.play()
    assert visits.camera_frame("me", picture) is None and session.watches_pushes


def test_settings_and_ended_sessions(visits):
    visits.change("me", SessionSettings(fps=4, policy="fifo"))
    session = visits.start("me", SourceRequest("shapeworld"))
    assert session.settings.fps == 4 and not visits.has_ended("me")
    visits.sessions.end(session.key)  # as the idle watch does
    assert visits.session("me") is None and visits.has_ended("me")
    with pytest.raises(NotAllowed, match="start a stream first"):
        visits.running("me")
    assert visits.start("me", SourceRequest("shapeworld")).settings.fps == 4 and not visits.has_ended("me")


def test_levels_as_text():
    assert parse_levels(" 1/2/3 ") == (1, 2, 3) == parse_levels("1,2,3") and parse_levels(" ") is None
    with pytest.raises(ValueError, match="written as 2/2/12, got 'many'"):
        parse_levels("many")
