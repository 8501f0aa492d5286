"""A session on a real RTSP stream of this machine that is cut off and brought back while somebody talks with it."""

from __future__ import annotations

import pytest

from videochat_online.serve.sources import SourceRequest, open_source


@pytest.mark.slow
def test_memory_and_dialogue_outlive_a_break(make_sessions, rtsp_server, free_port, wait_until):
    sessions = make_sessions(allow_urls=True, allow_private_urls=True, max_new_tokens=8)
    server = rtsp_server(free_port)
    session = sessions.create()
    request = SourceRequest("url", address=f"rtsp://127.0.0.1:{free_port}/live")
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
    rtsp_server(free_port)
    wait_until(lambda: seen() >= broken_at + 6)
    state = session.state()
    assert state["state"] == "playing" and state["problem"] is None and state["reconnects"] >= 1
    assert ask("And now?") > before
    assert [turn.question for turn in session.session.turns] == ["What do you see?", "Are you still there?", "And now?"]
    old = {frame["number"] for frame in held}
    now = {frame["number"] for frame in state["held"]}
    assert old & now and max(now) >= broken_at, "frames from before the break and from after it"
