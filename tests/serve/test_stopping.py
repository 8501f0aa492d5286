"""A server that is stopped: what is being answered ends well or is told so, and clients come again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from videochat_online.serve.client import Client, RemoteSession, ServerError

from .test_operations import ASK, exceptions, get, left, raw, running, sync_client


@pytest.fixture
def endless(monkeypatch) -> Callable[[], None]:
    """Answers that end when the test says so; gives what ends them well."""
    enough = threading.Event()

    def run(work: Any) -> Any:
        while not enough.wait(0.01):
            yield "and "
        yield "so on."

    monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", run)
    return enough.set


def test_a_server_that_is_stopped_lets_answers_end_and_closes_sockets(serve, endless, png, wait_until):
    server = serve(shutdown_seconds=60.0)
    client, url = Client(server.address), server.address.replace("http", "ws")
    session = RemoteSession(client, client.call("POST", "/v1/sessions", {})["id"])  # the server ends it
    session.see(png(1), 0.0)
    pieces = session.ask("What?")
    assert next(pieces) == "and "
    with sync_client.connect(f"{url}/s/door/v1/realtime") as talk:
        assert json.loads(talk.recv())["type"] == "session.created"
        server.server.should_exit = True
        wait_until(lambda: get(server, "/ready")[0] == 503)
        assert get(server, "/health")[0] == 200
        for call in (lambda: next(session.ask("More?")), lambda: client.call("POST", "/v1/sessions", {})):
            with pytest.raises(ServerError, match=r"the server is being stopped \(HTTP 503\)"):
                call()
        endless()
        assert "".join(pieces).endswith("so on."), "what was begun is said to its end"
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            talk.recv(timeout=60)
        assert caught.value.rcvd.code == 1001


def test_a_socket_that_comes_while_a_server_is_stopped_is_refused_quietly(serve, endless, png, wait_until, caplog):
    server = serve(shutdown_seconds=60.0)
    client, url = Client(server.address), server.address.replace("http", "ws")
    session = RemoteSession(client, client.call("POST", "/v1/sessions", {})["id"])
    session.see(png(1), 0.0)
    server.sessions.named("door")
    pieces, refused = session.ask("What?"), []
    assert next(pieces) == "and "
    server.server.should_exit = True
    wait_until(lambda: get(server, "/ready")[0] == 503)

    def come(path: str) -> None:
        with pytest.raises(exceptions.InvalidStatus) as caught:
            sync_client.connect(f"{url}{path}")
        refused.append((caught.value.response.status_code, b"is being stopped" in caught.value.response.body))

    come("/s/door/v1/realtime")  # that is there, but nothing begins
    server.sessions.refusals.pauses = (60.0, 0.0, 60.0)  # of somebody who was refused often
    waits = [threading.Thread(target=come, args=(path,)) for path in ("/v1/realtime", "/s/door/v1/realtime")]
    for one in waits:
        one.start()
    wait_until(lambda: len(server.sessions.moments) == 2)
    endless()
    assert "".join(pieces).endswith("so on.")
    for one in waits:
        one.join(30)
    assert refused == [(503, True)] * 3
    usual = "ASGI callable returned without completing handshake."  # uvicorn's, see logs.py
    assert {one.getMessage() for one in caplog.records if one.levelname == "ERROR"} <= {usual}


def test_what_waits_when_a_server_is_stopped_is_told_so(serve, wait_until, png, caplog):
    server = serve(shutdown_seconds=0.1)
    sessions, client = server.sessions, Client(server.address)
    keys = [sessions.create().key for _ in range(2)]
    client.call("PUT", f"/v1/sessions/{keys[0]}/source", {"kind": "push"})
    sessions.reading._num_free = 0
    bodies = [("questions", json.dumps(ASK).encode()), ("frames", png(1))]
    opened = [
        left(server, "POST", f"/v1/sessions/{key}/{place}", body)
        for key, (place, body) in zip(keys, bodies, strict=True)
    ]
    opened.append(raw(server, f"GET /v1/sessions/{keys[0]}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()))
    wait_until(lambda: sessions.turns.num_entered == sessions.reading.num_waiting == 1)
    with closing(opened[2]), opened[2].makefile("rb") as told:
        while b": listening" not in told.readline():
            pass
        server.server.should_exit = True
        for one in opened[:2]:
            with closing(one):
                assert b" 503 " in one.makefile("rb").readline()
        assert b"event: end" in told.read()
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


def test_an_answer_that_does_not_end_in_time_is_ended_with_an_error(serve, endless, png):
    server = serve(shutdown_seconds=0.2)
    client = Client(server.address)
    session = RemoteSession(client, client.call("POST", "/v1/sessions", {})["id"])
    session.see(png(1), 0.0)
    pieces = session.ask("What?")
    assert next(pieces) == "and "
    server.server.should_exit = True
    with pytest.raises(ServerError, match="the server is being stopped"):
        list(pieces)


def test_a_stopped_server_does_not_wait_for_a_token_that_takes_long(serve, png, wait_until, monkeypatch, caplog):
    """A long prompt, say: whoever listens is told in time, and nothing is logged as a fault of ours."""
    goes_on, inside = threading.Event(), []

    def run(work: Any) -> Any:
        inside.append(work)
        yield "and "
        assert goes_on.wait(60)

    monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", run)
    monkeypatch.setattr(running, "LAST_SECONDS", 2)
    server = serve(shutdown_seconds=0.1)
    client, url = Client(server.address), server.address.replace("http", "ws")
    whole, streamed = (client.call("POST", "/v1/sessions", {})["id"] for _ in range(2))
    for key in (whole, streamed):
        RemoteSession(client, key).see(png(1), 0.0)
    pieces = RemoteSession(client, streamed).ask("What?")
    assert next(pieces) == "and "
    body = json.dumps({**ASK, "stream": False}).encode()
    waits = left(server, "POST", f"/v1/sessions/{whole}/questions", body)
    with closing(waits), sync_client.connect(f"{url}/s/door/v1/realtime") as talk:
        talk.send(json.dumps({"type": "response.create", "response": {"instructions": "Say."}}))
        wait_until(lambda: len(inside) == 3 and server.sessions.turns.num_held == 3)
        server.server.should_exit = True
        assert b" 503 " in waits.makefile("rb").readline()
        with pytest.raises(ServerError, match="the server is being stopped"):
            list(pieces)
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            while True:
                talk.recv(timeout=60)
        assert caught.value.rcvd.code == 1001
    wait_until(lambda: not server.server.servers or not server.server.servers[0].is_serving())
    goes_on.set()
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []
