"""A session on a real RTSP stream of this machine that is cut off and brought back while somebody talks with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from videochat_online.serve.sources import SourceRequest, open_source

SERVER = Path(__file__).parent.parent / "media" / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
NEEDED = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-rtsp gstreamer1.0-plugins-ugly"


@pytest.fixture
def rtsp_server() -> Iterator[Callable[[int], subprocess.Popen]]:
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode:
        pytest.skip(f"needs Debian's {NEEDED}")
    running = []

    def start(port: int) -> subprocess.Popen:
        running.append(subprocess.Popen([PYTHON, str(SERVER), str(port)], stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "ready\n"
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_memory_and_dialogue_outlive_a_break(make_sessions, rtsp_server, wait_until):
    sessions = make_sessions(allow_urls=True, allow_private_urls=True, max_new_tokens=8)
    server = rtsp_server(port := 18554)
    session = sessions.create()
    request = SourceRequest("url", address=f"rtsp://127.0.0.1:{port}/live")
    session.start(open_source(request, sessions.limits))

    def seen() -> int:
        return session.state()["stats"]["frames_seen"]

    def ask(question: str) -> float:
        moment, pieces = session.ask(question)
        assert "".join(pieces)
        return moment.timestamp

    wait_until(lambda: seen() >= 8)
    before = ask("What do you see?")
    server.kill()
    server.wait()
    wait_until(lambda: session.state()["state"] == "reconnecting")
    assert ask("Are you still there?") >= before, "memory answers while the camera is away"
    broken_at, held = seen(), session.state()["held"]
    rtsp_server(port)
    wait_until(lambda: seen() >= broken_at + 6)
    state = session.state()
    assert state["state"] == "playing" and state["problem"] is None and state["reconnects"] >= 1
    assert ask("And now?") > before
    assert [turn.question for turn in session.session.turns] == ["What do you see?", "Are you still there?", "And now?"]
    old = {frame["number"] for frame in held}
    now = {frame["number"] for frame in state["held"]}
    assert old & now and max(now) >= broken_at, "frames from before the break and from after it"
