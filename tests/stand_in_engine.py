"""A small stand-in for vLLM's server: its protocol on a socket, the words from our own language model, and every fault.

`fault` is what the next completions meet; `bodies` are the requests as they came; `left` is set when a client went away
in the middle of an answer.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from videochat_online.files import SHIPPED_MODELS
from videochat_online.model.engine import served_name

BLOCK = 16
"""Positions that it caches together."""


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model: Any, *, name: str | None = None, positions: int = 2048) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.positions = model, positions
        self.name = served_name(SHIPPED_MODELS["pocket"]) if name is None else name
        self.fault = ""
        self.bodies: list[dict[str, Any]] = []
        self.left, self.go_on = threading.Event(), threading.Event()
        self.known: set[bytes] = set()
        self.keys: set[str | None] = set()
        self.connections: list[socket.socket] = []
        self.models: Any = {"data": [{"id": self.name, "max_model_len": positions}]}

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None: ...

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(server: StandIn) -> Iterator[StandIn]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        for connection in server.connections:  # those that are kept alive, too: it is gone
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        self._whole(200, self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["Authorization"])
        fault = self.server.fault
        if fault.isdigit():
            return self._whole(int(fault), {"error": {"message": "not like this"}})
        if fault == "page":
            return self._whole(502, "<html>Bad\nGateway</html>")
        if fault == "mute":
            self._await_leaving()
            return None
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._answer(body, fault)
        except OSError:
            self.server.left.set()
        return None

    def _answer(self, body: dict[str, Any], fault: str) -> None:
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        ids = self.server.model.generate(
            inputs_embeds=embeds[None], max_new_tokens=body["max_tokens"], eos_token_id=body["stop_token_ids"],
            pad_token_id=0,
        )[0].tolist()  # fmt: skip
        for number, id_ in enumerate(ids):
            choice = {"index": 0, "text": "?", "token_ids": [id_]}
            if fault == "no ids":
                del choice["token_ids"]
            self._event({"choices": [choice]})
            if number == 0 and fault == "dies":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if number == 0 and fault == "stalls":
                self._await_leaving()
                return
            if number == 0 and fault == "fails":
                self._event({"error": {"message": "EngineCore is dead", "code": 500}})
                return
            if number == 0 and fault == "no json":
                self._line("data: {half")
                return
        if fault != "ends early":
            usage = {"prompt_tokens_details": {"cached_tokens": self._cached(embeds)}}
            self._event({"choices": [], "usage": usage})
            self._line("data: [DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _cached(self, embeds: torch.Tensor) -> int:
        """As a prefix cache of blocks counts; at least one position is computed."""
        starts = [embeds[:end].numpy().tobytes() for end in range(BLOCK, len(embeds), BLOCK)]
        count = sum(start in self.server.known for start in starts)
        self.server.known |= set(starts)
        return count * BLOCK

    def _await_leaving(self) -> None:
        """Until the client closes its end, or the test says so."""
        self.connection.settimeout(0.02)
        while not self.server.go_on.is_set():
            try:
                if not self.connection.recv(1):
                    self.server.left.set()
                    break
            except TimeoutError:
                continue
            except OSError:
                self.server.left.set()
                break
        self.close_connection = True

    def _event(self, document: dict[str, Any]) -> None:
        self._line(f"data: {json.dumps(document)}")

    def _line(self, text: str) -> None:
        data = f"{text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _whole(self, status: int, document: Any) -> None:
        data = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
