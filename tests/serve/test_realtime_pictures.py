"""Pictures that come by the realtime socket: one queue with those of HTTP, seen in turns, let go where too many."""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from videochat_online.serve.live_session import LiveSession

from .test_realtime import Talk, connected, error_of


@pytest.fixture
def gate(monkeypatch) -> Iterator[SimpleNamespace]:
    """`seen`: who sees which picture, in order, and how many places are held then; one waits until `open`."""
    monkeypatch.setattr("videochat_online.serve.sessions.os.cpu_count", lambda: 2)  # one place for pictures
    found, see_all = SimpleNamespace(seen=[], opened=threading.Event()), LiveSession._see_all
    found.open = found.opened.set

    def slow(session: LiveSession, images: Any, seconds: Any) -> int:
        found.seen += [(session.client, int(image[0, 0, 0])) for image in images]
        assert found.opened.wait(60)
        return see_all(session, images, seconds)

    monkeypatch.setattr(LiveSession, "_see_all", slow)
    yield found
    found.open()


@contextmanager
def connected_from(server: Any, client: str, path: str) -> Iterator[Talk]:
    """A client with an address of its own."""
    place = urlsplit(server.address)
    opened = socket.create_connection((place.hostname, place.port), source_address=(client, 0))
    with opened, connected(server, path, sock=opened) as talk:
        yield talk


def grey(shade: int, damaged: int = 0) -> bytes:
    """A picture that is known by its shade; with bytes missing at its end."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, shade, shade)).save(out, "PNG", compress_level=0)
    return out.getvalue()[: len(out.getvalue()) - damaged]


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def posted(server: Any, path: str, body: bytes, kind: str = "image/png") -> threading.Thread:
    def post() -> None:
        request = urllib.request.Request(server.address + path, body, {"Content-Type": kind})
        urllib.request.urlopen(request, timeout=60).read()

    thread = threading.Thread(target=post)
    thread.start()
    return thread


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="addresses of loopback")
def test_pictures_of_sockets_and_of_http_wait_in_one_queue(serve, gate, wait_until):
    server = serve()
    reading, polite = server.sessions.reading, server.sessions.create()
    polite.client = "polite"
    path = f"/v1/sessions/{polite.key}/frames"
    with connected_from(server, "127.0.0.2", "/s/rude/v1/realtime") as talk:
        for shade in (1, 2, 3):
            added, _ = talk.show(uri(grey(shade)), id=f"item {shade}")
            assert added["type"] == "conversation.item.added", "on its arrival, not when it was seen"
        wait_until(lambda: gate.seen)
        sending = posted(server, path, grey(9))
        wait_until(lambda: reading.num_waiting == 1)
        with connected_from(server, "127.0.0.2", "/s/rude/v1/realtime") as another:
            another.show(uri(grey(4)))
            wait_until(lambda: reading.num_waiting == 2)
            assert gate.seen == [("127.0.0.2", 1)] and reading.num_held == 1, "one place, and it is held"
            gate.open()
            sending.join(60)
            talk.say("What is happening?")
            assert talk.answer()[1][-1]["response"]["status"] == "completed"
            wait_until(lambda: len(gate.seen) == 5)
    assert gate.seen[:2] == [("127.0.0.2", 1), ("polite", 9)], "who had nothing goes first"
    assert [shade for _, shade in gate.seen if shade < 4] == [1, 2, 3], "items of a socket keep their order"


def test_all_pictures_are_seen_in_a_turn(serve, gate, wait_until):
    """By whatever door they come."""
    server = serve()
    reading, session = server.sessions.reading, server.sessions.named("door")
    question = {"role": "user", "content": [{"type": "text", "text": "What?"}]}
    question["content"].append({"type": "image_url", "image_url": {"url": uri(grey(3))}})
    body = json.dumps({"model": "pocket", "messages": [question], "max_tokens": 1}).encode()
    with connected(server, "/s/door/v1/realtime") as talk:
        talk.show(uri(grey(1)))
        wait_until(lambda: len(gate.seen) == 1)
        doors = [
            posted(server, f"/v1/sessions/{session.key}/frames", grey(2)),
            posted(server, "/s/door/v1/chat/completions", body, "application/json"),
        ]
        wait_until(lambda: reading.num_waiting == 2)
        assert reading.num_held == len(gate.seen) == 1
        gate.open()
        for door in doors:
            door.join(60)
    assert sorted(shade for _, shade in gate.seen) == [1, 2, 3]


def test_a_full_queue_of_pictures_is_told_and_the_conversation_goes_on(serve, gate, wait_until):
    server = serve(max_waiting=1)
    session = server.sessions.create()
    sending = posted(server, f"/v1/sessions/{session.key}/frames", grey(1))
    wait_until(lambda: gate.seen)
    with connected(server, "/s/door/v1/realtime") as talk:
        content = [{"type": "input_image", "image_url": uri(grey(2))}]
        talk.send("conversation.item.create", event_id="mine", item={"role": "user", "content": content})
        error = talk.until("error")[-1]["error"]
        assert (error["event_id"], error["type"], error["code"]) == ("mine", "server_error", "server_error")
        assert "wait already" in error["message"] and server.sessions.named("door").num_dropped == 1
        gate.open()
        sending.join(60)
        talk.show(uri(grey(3)))
        talk.say("What?")
        assert talk.answer()[1][-1]["response"]["status"] == "completed"
    assert [shade for _, shade in gate.seen] == [1, 3]


def test_pictures_beyond_those_that_wait_let_the_oldest_go(serve, gate, monkeypatch, wait_until):
    monkeypatch.setattr("videochat_online.serve.realtime.MOST_WAITING", 2)
    server = serve(max_request_bytes=3 * len(uri(grey(1))))
    with connected(server, "/s/door/v1/realtime") as talk:
        for shade in range(1, 6):
            talk.show(uri(grey(shade)))
            wait_until(lambda: gate.seen)
        wait_until(lambda: server.sessions.num_dropped == 2)
        content = [{"type": "input_image", "image_url": uri(grey(shade))} for shade in (6, 7)]
        talk.send("conversation.item.create", item={"role": "user", "content": content})
        wait_until(lambda: server.sessions.num_dropped == 3)
        gate.open()
        wait_until(lambda: len(gate.seen) == 4)
        talk.until("conversation.item.done")
        talk.say("What?")
        talk.answer()
    assert [shade for _, shade in gate.seen] == [1, 5, 6, 7]


def test_a_client_that_vanishes_leaves_no_place_in_the_queue_of_pictures(serve, gate, wait_until):
    server = serve()
    session, reading = server.sessions.create(), server.sessions.reading
    sending = posted(server, f"/v1/sessions/{session.key}/frames", grey(1))
    wait_until(lambda: gate.seen)
    with connected(server) as talk:
        talk.show(uri(grey(2)))
        wait_until(lambda: reading.num_waiting == 1)
        talk.socket.socket.close()
    wait_until(lambda: reading.num_entered == 1 and len(server.sessions) == 1)
    gate.open()
    sending.join(60)
    assert [shade for _, shade in gate.seen] == [1]


def test_a_damaged_picture_is_told_by_the_id_of_its_event(serve, wait_until):
    server = serve()
    with connected(server) as talk:
        content = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": uri(grey(1, 999))}]
        talk.send("conversation.item.create", event_id="mine", item={"role": "user", "content": content})
        error = talk.until("error")[-1]["error"]
        assert (error["event_id"], error["param"]) == ("mine", "item.content[1].image_url")
        said = {"role": "assistant", "content": content}
        talk.send("conversation.item.create", item=said)
        assert "only the user" in error_of(talk)["message"]
        assert talk.answer()[1][-1]["response"]["status"] == "completed"
