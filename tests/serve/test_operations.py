"""What an operator relies on: probes, metrics, ids, logs without secrets, deadlines, limits, a graceful end."""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from videochat_online.cli import main
from videochat_online.serve import logs, routes
from videochat_online.serve.client import Client, RemoteSession, ServerError

sync_client = pytest.importorskip("websockets.sync.client", reason="pip install websockets")
exceptions = pytest.importorskip("websockets.exceptions")
running = pytest.importorskip("videochat_online.serve.running", reason="pip install 'videochat-online[demo]'")

ASK = {"question": "What is happening now?", "max_new_tokens": 8}


def get(server: SimpleNamespace, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def raw(server: SimpleNamespace, data: bytes, address: str = "127.0.0.1") -> socket.socket:
    place = urlsplit(server.address)
    opened = socket.create_connection((place.hostname, place.port), 60, (address, 0))
    opened.sendall(data)
    return opened


def value_of(metrics: str, name: str) -> float:
    return float(re.search(rf"^videochat_online_{re.escape(name)} (\S+)$", metrics, re.MULTILINE)[1])


def test_probes_need_no_token_and_metrics_do(serve, png):
    server, key = serve(token="open"), {"Authorization": "Bearer open"}
    assert get(server, "/health")[::2] == (200, '{"status":"ok"}')
    assert get(server, "/ready")[::2] == (200, '{"status":"ready"}')
    assert get(server, "/metrics")[0] == 401
    with Client(server.address, token="open").session() as session:
        for number in range(3):
            session.see(png(number), number)
        assert "".join(session.ask(**ASK))
        status, headers, found = get(server, "/metrics", **key)
        assert status == 200 and headers["content-type"].startswith("text/plain; version=")
        assert value_of(found, "sessions") == 1 and value_of(found, "frames_seen_total") == 3
        assert value_of(found, "first_token_seconds_count") == 1 and value_of(found, "encode_seconds_count") >= 1
        assert value_of(found, "memory_bytes") > 0 and value_of(found, "cache_bytes") > 0
        assert value_of(found, "questions_waiting") == value_of(found, "answers_running") == 0
        key_of_it = session.key
    for path in ("/s/door/v1/models", "/s/window/v1/models", "/v1/models/pocket", "/nothing/17", "/nothing/18"):
        get(server, path, **key)
    found = get(server, "/metrics", **key)[2]
    assert key_of_it not in found and "door" not in found, "names and ids are no labels"
    labels = re.findall(r'^videochat_online_requests_total\{route="([^"]+)"', found, re.MULTILINE)
    assert {"/v1/sessions/{session}/frames", "/s/{name}/v1/models", "other"} <= set(labels)
    assert not [label for label in labels if "17" in label or "pocket" in label]


def test_dropped_frames_are_counted_over_the_end_of_their_session(serve):
    server = serve()
    session = server.sessions.create()
    session.num_let_go = 5
    server.sessions.end(session.key)
    assert value_of(get(server, "/metrics")[2], "frames_dropped_total") == 5


def test_every_answer_has_the_id_of_its_request(serve):
    server = serve(token="open")
    for path in ("/health", "/v1/models", "/nothing"):  # answered, 401, 404
        assert get(server, path, **{"X-Request-Id": "mine-7"})[1]["x-request-id"] == "mine-7"
    for bad in ("x" * 65, "a b", ""):
        assert re.fullmatch(r"[0-9a-f]{16}", get(server, "/health", **{"X-Request-Id": bad})[1]["x-request-id"])
    with pytest.raises(exceptions.InvalidStatus) as caught:
        sync_client.connect(
            server.address.replace("http", "ws") + "/v1/realtime", additional_headers={"X-Request-Id": "m"}
        )
    assert caught.value.response.headers["X-Request-Id"] == "m"


def test_a_bug_is_told_by_its_id_and_its_text_stays_in_the_log(serve, png, monkeypatch, caplog):
    def mistake(*arguments: object) -> None:
        raise AttributeError("a bug of ours")

    server = serve()
    session = server.sessions.create()
    monkeypatch.setattr(routes, "picture_of", mistake)
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc)
    path = f"/v1/sessions/{session.key}/frames"
    connection.request("POST", path, png(1), {"X-Request-Id": "mine"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["X-Request-Id"]) == (500, "mine") and b"bug" not in answer.read()
    assert any("a bug of ours" in str(record.exc_info) for record in caplog.records)


SECRETS = ("hunter2", "pass/word", "iVBORw0KGgo", "sk-private", "the-servers-token")


def test_logs_tell_requests_and_no_secrets(serve, monkeypatch):
    server, out = serve(token="the-servers-token"), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    logs.start_logging("json", token="the-servers-token")
    path = "/v1/sessions/abc/dialogue?token=hunter2"
    get(server, path, **{"Authorization": "Bearer the-servers-token", "X-Request-Id": "mine"})
    get(server, path, **{"X-Request-Id": "the-servers-token"})
    logging.getLogger("x").error(
        "rtsp://admin:hunter2@cam/1, rtsp://a:pass/word@cam, data:image/png;base64,iVBORw0KGgo= and Bearer sk-private, "
        "openai-insecure-api-key.sk-private and the-servers-token"
    )
    try:
        raise ValueError("rtsp://admin:hunter2@cam/1 gives data:image/png;base64,iVBORw0KGgo=")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    for handler in root.handlers:
        handler.flush()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    told = next(line for line in lines if line.get("request") == "mine")
    assert (told["method"], told["route"], told["status"]) == ("GET", "/v1/sessions/{session}/dialogue", 404)
    assert told["client"] == "127.0.0.1" and told["seconds"] > 0 and told["level"] == "info"
    assert len(lines) >= 3 and "abc" not in out.getvalue() and "cam" in lines[-1]["error"]
    assert [secret for secret in SECRETS if secret in out.getvalue()] == []


def test_one_clients_sessions_and_requests_are_bounded_and_others_come_in(serve, monkeypatch, wait_until):
    server = serve(max_sessions=5, max_client_sessions=2, max_client_requests=3)
    head = "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    new = f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()

    def status(address: str, data: bytes = new) -> int:
        with closing(raw(server, data, address)) as opened:
            return int(opened.makefile("rb").read().split(b" ")[1])

    assert [status("127.0.0.2") for _ in range(3)] == [201, 201, 429]
    assert status("127.0.0.3") == 201
    slow = [raw(server, f"{head}Content-Length: 2\r\n\r\n".encode(), "127.0.0.2") for _ in range(3)]
    busy = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    wait_until(lambda: status("127.0.0.2", busy) == 429)
    assert status("127.0.0.2", busy.replace(b"/v1/models", b"/health")) == 200, "a proxy's probe is always answered"
    assert status("127.0.0.3", busy) == 200
    for opened in slow:
        opened.close()
    wait_until(lambda: status("127.0.0.2", busy) == 200)


def left(server: SimpleNamespace, method: str, path: str, body: bytes, *, missing: int = 0) -> socket.socket:
    """A request, whole but for so many bytes, whose answer is not waited for."""
    kind = "application/json" if body.startswith(b"{") else "image/png"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body) + missing}"
    )
    return raw(server, f"{head}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("waits_for", ["a first frame", "its turn", "its turn, alone"])
def test_who_leaves_the_queue_gives_the_place_back(serve, wait_until, png, waits_for):
    server = serve()
    session, turns = server.sessions.create(), server.sessions.turns
    path, body = f"/v1/sessions/{session.key}/questions", json.dumps(ASK).encode()
    if waits_for == "a first frame":
        Client(server.address).call("PUT", f"/v1/sessions/{session.key}/source", {"kind": "push"})
    elif waits_for == "its turn, alone":
        path, asked = "/v1/chat/completions", {"model": "pocket", "messages": [{"role": "user", "content": "What?"}]}
        body = json.dumps(asked).encode()
    turns._num_free = 0  # somebody else is being answered, for ever
    opened = [left(server, "POST", path, body) for _ in range(8)]
    wait_until(lambda: turns.num_entered == 8)
    for one in opened:
        one.close()
    wait_until(lambda: turns.num_entered == 0)
    assert server.sessions.running == set()
    turns._num_free = 1


def test_who_leaves_while_pictures_wait_to_be_decoded_gives_the_place_back(serve, wait_until, png):
    server = serve()
    key, reading = server.sessions.create().key, server.sessions.reading
    reading._num_free = 0
    opened = left(server, "POST", f"/v1/sessions/{key}/frames", png(1))
    wait_until(lambda: reading.num_waiting == 1)
    opened.close()
    wait_until(lambda: reading.num_entered == 0)
    assert server.sessions.get(key).session.stats()["frames_seen"] == 0


@pytest.mark.parametrize(("method", "place"), [("POST", "frames"), ("PUT", "video"), ("POST", "questions")])
def test_who_leaves_before_the_body_is_whole_is_no_fault_of_ours(serve, wait_until, caplog, method, place):
    server = serve()
    session = server.sessions.create()
    left(server, method, f"/v1/sessions/{session.key}/{place}", b"{", missing=9).close()
    route = f"/v1/sessions/{{session}}/{place}"
    wait_until(lambda: f'requests_total{{route="{route}",status="499"}} 1.0' in get(server, "/metrics")[2])
    assert list(session.folder.iterdir()) == [] and not [one for one in caplog.records if one.levelname == "ERROR"]


def test_paths_that_are_none_are_one_series(serve):
    server = serve()
    for path in ("/v1/nothing", "/s/x/nothing", "/nothing", "/s/x/v1/%0anothing"):
        assert get(server, path)[0] == 404
    assert re.findall(r'requests_total{route="(.*)"', get(server, "/metrics")[2]) == ['other",status="404']


def test_a_body_that_comes_too_slowly_ends_its_request(serve):
    server = serve(body_seconds=0.2)
    session = server.sessions.create()
    for path, kind in ((f"/v1/sessions/{session.key}/frames", "image/png"), ("/v1/sessions", "application/json")):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
        with closing(raw(server, head.encode() + b"{")) as opened:
            answer = opened.makefile("rb").read()  # until the server ends the connection
        assert answer.startswith(b"HTTP/1.1 408 ") and b"too slowly" in answer


def test_a_head_that_does_not_come_ends_its_connection(serve, monkeypatch):
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.2)
    server = serve()
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for data in (b"", b"GET /hea", whole + b"GET /he"):
        with closing(raw(server, data)) as opened:
            answer = opened.makefile("rb").read()
        assert answer.count(b"HTTP/1.1 200") == data.count(whole)


def test_who_does_not_read_is_cut(serve, monkeypatch, wait_until):
    monkeypatch.setattr(running, "UNREAD_SECONDS", 0.2)
    server = serve()
    connections = server.server.server_state.connections
    ask = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    place = urlsplit(server.address)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect((place.hostname, place.port))
        opened.sendall(ask * 40)  # more than the system's buffers take
        wait_until(lambda: connections)
        wait_until(lambda: not connections)
    head = b"GET /s/door/v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    item = {"role": "user", "content": [{"type": "text", "text": "x" * 4000}]}
    said = json.dumps({"type": "conversation.item.create", "item": item}).encode()
    frame = b"\x81\xfe" + len(said).to_bytes(2, "big") + bytes(4) + said  # masked with zeros
    with closing(raw(server, head)) as opened:
        wait_until(lambda: server.sessions.sockets)
        with pytest.raises(OSError):
            for _ in range(20_000):
                opened.sendall(frame)
    wait_until(lambda: not server.sessions.sockets)


def test_decoding_is_bounded_and_never_blocks_the_event_loop(serve, png, monkeypatch, wait_until):
    server, goes_on, inside = serve(), threading.Event(), []
    decode = routes.picture_of

    def slow(data: bytes, name: str) -> Any:
        inside.append(threading.current_thread())
        assert goes_on.wait(60)
        return decode(data, name)

    monkeypatch.setattr(routes, "picture_of", slow)
    client = Client(server.address)
    with client.session() as session:
        sending = [threading.Thread(target=session.see, args=(png(number), 0.0)) for number in range(20)]
        for one in sending:
            one.start()
        places = server.sessions.reading._num_places
        wait_until(lambda: server.sessions.reading.num_entered == 20 and len(inside) >= places)
        assert len(inside) == places < 20 and threading.main_thread() not in inside
        assert client.call("GET", "/v1/models")["data"], "the loop answers while pictures are decoded"
        goes_on.set()
        for one in sending:
            one.join(60)
        assert session.state()["stats"]["frames_seen"] == 20


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


def test_an_answer_does_not_wait_long_for_other_threads(monkeypatch):
    seen, before = [], sys.getswitchinterval()
    monkeypatch.setattr(running.Server, "run", lambda self, sockets: seen.append(sys.getswitchinterval()))
    monkeypatch.setattr("videochat_online.serve.commands.start_logging", lambda *arguments, **named: None)
    try:
        assert main(["serve", "--port", "0"]) == 0
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(0.0005)]
