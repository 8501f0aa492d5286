"""A session on a real stream: how old its picture is, what it answers meanwhile, and that it always ends at once."""

from __future__ import annotations

import socket
import time

import pytest

from tests.media.live_servers import MPEGTS, Broadcast, http_server, tcp_server
from videochat_online.serve.client import Client
from videochat_online.serve.sources import SourceRequest, open_source

LOCAL = {"allow_urls": True, "allow_private_urls": True, "max_new_tokens": 4}


def say_nothing(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def test_state_and_answers_say_how_old_the_picture_is(serve, wait_until):
    shown = Broadcast()

    def answer(handler) -> None:  # the picture stalls, the sound goes on
        handler.begin()
        shown.send("mpegts", handler.wfile.write, last=shown.now + 15, sound=60, options=MPEGTS)

    server = serve(**LOCAL)
    with http_server(answer) as camera, Client(server.address).session() as session:
        session.watch("url", address=camera.address.replace("//", "//me:geheim@") + "/live?pwd=geheim")
        wait_until(lambda: session.state()["state"] == "playing")
        wait_until(lambda: session.state()["state"] == "stalled", 30)
        state = session.state()
        assert 2.4 < state["age"] < 5 and "no new picture" in state["problem"] and state["frames_damaged"] == 0
        document = session.client.call(
            "POST", f"/v1/sessions/{session.key}/questions", {"question": "What now?", "stream": False}
        )
        assert document["age"] > 2.4
        chat = {"model": server.sessions.model_name, "session": session.key}
        whole = session.client.call(
            "POST", "/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": "Still?"}]}
        )
        assert whole["picture_age"] > 2.4
        dialogue = session.client.call("GET", f"/v1/sessions/{session.key}/dialogue")
        assert dialogue["dialogue"][0]["age"] > 2.4
        assert "geheim" not in str((state, document, dialogue))
        started = time.monotonic()
        shown.is_over.set()
    assert time.monotonic() - started < 2


def test_the_age_of_frames_that_are_sent(serve, png):
    with Client(serve().address).session() as session:
        assert session.state()["age"] is None
        session.see(png(1), 0.0)
        assert 0 <= session.state()["age"] < 30


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_session_ends_at_once_while_its_camera_says_nothing(scheme, serve, wait_until):
    server = serve(**LOCAL)
    with tcp_server(say_nothing) as port:
        session = server.sessions.create()
        request = SourceRequest("url", address=f"{scheme}://127.0.0.1:{port}/live")
        session.start(open_source(request, server.sessions.limits))
        wait_until(lambda: session.source._reader is not None and not session.source._reader.has_ended)
        reader, started = session.source._reader, time.monotonic()
        Client(server.address).call("DELETE", f"/v1/sessions/{session.key}")
        assert time.monotonic() - started < 1.5  # a second for the stream, the rest for HTTP on a busy machine
    wait_until(lambda: reader.has_ended, 5)
