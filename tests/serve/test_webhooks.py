"""Webhooks of standing instructions over real HTTP: receivers that take, refuse, break, hang, redirect, drip or are not
there; who may name an address; what is signed, counted, logged and never waited for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fastapi", reason="needs the server: pip install 'videochat-online[demo]'")

from tests.serve.test_ending import start  # noqa: F401 (a fixture)
from tests.serve.test_operations import get, value_of
from tests.serve.test_standing import post
from videochat_online.serve import webhooks
from videochat_online.serve.client import Client, ServerError
from videochat_online.serve.limits import Limits
from videochat_online.serve.webhooks import Webhooks
from videochat_online.streaming.standing import StandingEvent, Watchlist

SECRET = base64.b64encode(b"between us").decode()


class Receiver:
    """Answers by the path: /ok, /500, /404, /flaky (twice 503, then 200), /redirect (to /ok), /hang, /drip."""

    def __init__(self):
        self.got = []  # (path, headers, body)
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                name = self.path.rpartition("/")[2].partition("?")[0]
                if name == "hang":
                    receiver.release.wait(60)
                if name == "drip":
                    with suppress(OSError):
                        for byte in b"HTTP/1.0 200 OK\r\nX: " + b"x" * 2000:
                            self.wfile.write(bytes([byte]))
                            if receiver.release.wait(0.05):
                                break
                    return
                tries = sum(path == self.path for path, _, _ in receiver.got)
                status = {"500": 500, "404": 404, "redirect": 307, "hang": 500}.get(name, 200)
                self.send_response(503 if name == "flaky" and tries < 3 else status)
                if name == "redirect":
                    self.send_header("Location", "/hooks/ok")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *about):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def paths(self):
        return [path for path, _, _ in self.got]

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setattr(webhooks, "PAUSES", (0.0, 0.0, 0.0))
    made = Receiver()
    yield made
    made.close()


def test_an_operators_webhook_hears_all_signed_and_a_named_one_its_own(serve, png, receiver, wait_until):
    hooks = Webhooks([f"{receiver.address}/all?key=1"], [f"{receiver.address}/hooks"], secret=f"whsec_{SECRET}")
    server = serve(webhooks=hooks)
    with Client(server.address).session() as session:
        given = post(session, text="Is it dark?", threshold=0.001, webhook=f"{receiver.address}/hooks/door?key=2")
        assert given["webhook"] == receiver.address  # never its path
        post(session, text="Is it light?", threshold=0.001)
        post(session, text="Is it late?", threshold=0.001, quiet_hours="00:00-23:59")
        session.see(png(1), 0.0)
        wait_until(lambda: len(receiver.got) == 3)
        events = session.client.call("GET", f"/v1/sessions/{session.key}/standing")
        digest = hashlib.sha256(session.key.encode()).hexdigest()[:16]
        by_path = {}
        for path, headers, body in receiver.got:
            document = json.loads(body)
            assert (document["type"], document["session"]) == ("standing.said", digest)
            assert session.key not in body.decode() + str(headers)
            by_path.setdefault(path, []).append(document["data"])
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.digest(b"between us", signed, "sha256")).decode()
            assert headers["webhook-signature"] == f"v1,{expected}"
            assert headers["webhook-id"] == f"{digest}.{document['data']['id']}"
            assert headers["content-type"] == "application/json"
        assert by_path == {
            "/all?key=1": [events[0]["last"], events[1]["last"]],
            "/hooks/door?key=2": [events[0]["last"]],
        }
        wait_until(lambda: value_of(get(server, "/metrics")[2], "webhooks_sent_total") == 3)
        metrics = get(server, "/metrics")[2]
        assert value_of(metrics, "standing") == 3 and value_of(metrics, "standing_moments_total") == 3
        assert value_of(metrics, "standing_readouts_total") >= 3 and value_of(metrics, "readout_seconds_count") >= 1
        assert value_of(metrics, "readout_seconds_sum") > 0 and value_of(metrics, "webhooks_failed_total") == 0


@pytest.mark.parametrize(
    ("path", "tries", "problem"),
    [
        ("/500", 4, "it answered with status 500"),
        ("/404", 1, "it answered with status 404"),
        ("/redirect", 1, "it answered with status 307"),
        ("/flaky", 3, None),
    ],
)
def test_what_is_tried_again_and_what_is_given_up(serve, png, receiver, wait_until, caplog, path, tries, problem):
    server = serve(webhooks=Webhooks([receiver.address + path]))
    with Client(server.address).session() as session, caplog.at_level(logging.WARNING):
        post(session, text="Is it dark?", threshold=0.001, refractory=0, once=True)
        session.see(png(1), 0.0)
        counted = server.sessions.webhooks
        wait_until(lambda: counted.num_sent + counted.num_failed == 1)
        assert receiver.paths() == [path] * tries  # a redirect is not followed
        assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
        assert counted.num_failed == (problem is not None)
        assert value_of(get(server, "/metrics")[2], "webhooks_failed_total") == counted.num_failed
        said = f"a moment was not told to the webhook at {receiver.address}: {problem}"
        assert [one.getMessage() for one in caplog.records if "webhook" in one.name] == ([said] if problem else [])


def test_a_receiver_that_hangs_holds_up_nobody(serve, png, receiver, wait_until):
    """Frames, questions, events over HTTP and other receivers go on while one of them says nothing."""
    other = Receiver()
    server = serve(webhooks=Webhooks([f"{receiver.address}/hang", f"{other.address}/ok"]))
    with Client(server.address).session() as session:
        for number in range(3):
            post(session, text=f"Is it {number}?", threshold=0.001, once=True)
        session.see(png(1), 0.0)
        wait_until(lambda: len(other.got) == 3)
        session.see(png(2), 1.0)
        assert "".join(session.ask("What is happening now?", max_new_tokens=4))
        assert receiver.paths() == ["/hang"]  # one at a time, in order
        assert value_of(get(server, "/metrics")[2], "webhooks_waiting") == 3
        receiver.release.set()
        wait_until(lambda: server.sessions.webhooks.num_failed == 3)
    ids = [json.loads(body)["data"]["id"] for _, _, body in receiver.got]
    assert ids == sorted(ids) and [json.loads(body)["data"]["id"] for _, _, body in other.got] == [1, 2, 3]
    other.close()


def test_silence_and_dripping_are_cut(receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(webhooks, "MOST_SECONDS", 0.4)
    hooks = Webhooks([f"{receiver.address}/hang", f"{receiver.address}/drip"])
    for address in hooks._own:
        with pytest.raises(OSError):
            hooks._post(address, False, "1", b"{}")
    hooks.close()


def test_nobody_is_there(serve, png, wait_until, monkeypatch, caplog):
    monkeypatch.setattr(webhooks, "PAUSES", (0.0,))
    server = serve(webhooks=Webhooks(["http://127.0.0.1:9/secret-path", "http://no-such-host.invalid/x"]))
    with Client(server.address).session() as session, caplog.at_level(logging.WARNING):
        post(session, text="Is it dark?", threshold=0.001, once=True)
        session.see(png(1), 0.0)
        wait_until(lambda: server.sessions.webhooks.num_failed == 2)
        assert "secret-path" not in caplog.text and "webhook at http://127.0.0.1:9: " in caplog.text


def test_more_events_than_may_wait_are_given_up(receiver, monkeypatch, wait_until):
    monkeypatch.setattr(webhooks, "MOST_WAITING", 2)
    hooks = Webhooks([f"{receiver.address}/hang"])
    for number in range(5):
        hooks.send("key", said(number))
    wait_until(lambda: hooks.num_failed == 3)
    receiver.release.set()
    hooks.close()
    assert hooks.num_failed == 5


def test_a_server_that_ends_tries_what_waits_once_more_and_counts_the_rest(receiver, monkeypatch, caplog):
    monkeypatch.setattr(webhooks, "LAST_SECONDS", 0.2)
    hooks = Webhooks([f"{receiver.address}/ok", "http://localhost:9/x"])
    hooks.send("key", said(1))
    hooks.close()
    assert (hooks.num_sent, hooks.num_failed) == (1, 1)
    hooks.send("key", said(2))  # too late
    assert hooks.num_failed == 3
    hanging = Webhooks([f"{receiver.address}/hang"])
    for number in range(3):
        hanging.send("key", said(number))
    hanging.close()
    assert hanging.num_failed == 3 and not receiver.release.is_set()  # it hangs still
    assert caplog.text.count("the server is being stopped") == 4


def test_a_server_that_ends_leaves_a_receiver_whose_name_is_still_looked_up(monkeypatch):
    monkeypatch.setattr(webhooks, "LAST_SECONDS", 0.1)
    found, asked = threading.Event(), threading.Event()

    def look_up(*about):
        asked.set()
        found.wait(30)
        raise OSError

    monkeypatch.setattr("socket.create_connection", look_up)
    hooks = Webhooks(["http://hooks.example.org/x"])
    for number in range(2):
        hooks.send("key", said(number))
    assert asked.wait(10)
    started = time.monotonic()
    hooks.close()
    assert time.monotonic() - started < 5 and (hooks.num_failed, hooks.num_waiting) == (2, 0)
    assert all(one.daemon for one in threading.enumerate() if one.name == "videochat-online-webhook")
    found.set()


def said(number):
    standing = Watchlist().add("Is it dark?")
    standing.last = StandingEvent(number, "s1", "Is it dark?", 0.0, 0.9, "yes")
    return standing


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:7/hooks",  # another port
        "https://127.0.0.1:8/hooks",
        "http://127.0.0.1:8/",
        "http://127.0.0.1:8/hooksters",
        "http://127.0.0.1:8/hooks/../admin",
        "http://127.0.0.1:8/hooks/%2e%2e/admin",
        "http://127.0.0.1:8/hooks/..\\admin",
        "http://127.0.0.1:8@example.org/hooks",
        "http://me:pass@127.0.0.1:8/hooks",
        "http://127.0.0.1:8#@example.org/hooks",
        "http://127.0.0.1.example.org:8/hooks",
        "http://localhost:8/hooks",
        "http://0x7f000001:8/hooks",
    ],
)
def test_an_instruction_names_only_what_is_allowed(serve, address):
    server = serve(webhooks=Webhooks([], ["http://127.0.0.1:8/hooks/"]))
    with Client(server.address).session() as session:
        with pytest.raises(ServerError, match=r"posts to no such address.*--webhook-allow.*\(HTTP 403\)"):
            post(session, text="Is it dark?", webhook=address)
        assert session.client.call("GET", f"/v1/sessions/{session.key}/standing") == []  # and no half of it stands


def test_without_the_flag_none_may_be_named_and_what_is_no_address_is_said(serve):
    with Client(serve().address).session() as session:
        with pytest.raises(ServerError, match=r"\(HTTP 403\)"):
            post(session, text="Is it dark?", webhook="https://hooks.example.org/x")
        for wrong in ("ftp://example.org/x", "nonsense", "", "rtsp://example.org/x"):
            with pytest.raises(ServerError, match=r"(expected an address|http or https address).*\(HTTP 400\)"):
                post(session, text="Is it dark?", webhook=wrong)
        for wrong, problem in (("http://x/" + "a" * 2000, "2000 characters"), ("http://x/\ud800", "a webhook ")):
            with pytest.raises(ServerError, match=rf"{problem}.*\(HTTP 400\)"):
                post(session, text="Is it dark?", webhook=wrong)


def test_a_name_inside_this_network_is_refused_unless_allowed(serve):
    """As for the addresses of pictures; an IP address that the operator wrote is one they meant."""
    allowed = ["http://localhost:8/hooks", "http://127.0.0.1:8/hooks"]
    for limits in (Limits(), Limits(allow_urls=True, allow_private_urls=True)):
        server = serve(webhooks=Webhooks([], allowed, limits=limits))
        with Client(server.address).session() as session:
            assert post(session, text="Is it late?", webhook="http://127.0.0.1:8/hooks/a")["webhook"]
            if limits.allow_private_urls:
                assert post(session, text="Is it dark?", webhook="http://localhost:8/hooks")["webhook"]
            else:
                with pytest.raises(ServerError, match=r"localhost is inside a private network.*\(HTTP 403\)"):
                    post(session, text="Is it dark?", webhook="http://localhost:8/hooks")


def test_webhooks_go_on_with_the_sessions_next_stream(serve, clip, receiver, wait_until):
    server = serve(webhooks=Webhooks([], [f"{receiver.address}/hooks"]))
    with Client(server.address).session() as session:
        post(session, text="Is it dark?", threshold=0.001, webhook=f"{receiver.address}/hooks/a")
        for number in (1, 2):
            session.upload(clip)
            wait_until(lambda number=number: len(receiver.got) >= number)
