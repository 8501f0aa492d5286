"""Ten rude clients of each kind, and what a polite one notices of them. Prints a table and a json line.

    python -m videochat_online.lab.bench.fair
    python -m videochat_online.lab.bench.fair --tree ../another-checkout      the server of another version

Starts `videochat-online serve` in a process of its own for each kind. The polite client, in this process, asks for the
models and asks a question about a stream, in turn; the rude ones are in a third process, each with an address of its
own (127.0.0.2, ...: Linux). Times are in milliseconds: quiet, and with the rude clients; the ratio is that of the p95.
The last row is what a machine can do: no rude clients, but a busy program for each core, which asks the server nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...command_line import CommandParser

NUM_RUDE = 10
LIMIT = "programs"
START_SECONDS = 120.0
QUESTION = {"question": "What is happening now?", "max_new_tokens": 8, "stream": False}
LONG = {"question": "What happened before that?", "max_new_tokens": 256, "stream": True}
HEAD = "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"


def main(arguments: list[str] | None = None) -> int:
    """For each kind: 1. a server 2. a quiet time 3. the rude clients 4. a row of the table."""
    parser = CommandParser(description="Ten rude clients of each kind, and what a polite one notices.")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default: %(default)g)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two requests of the polite client")
    parser.add_argument("--tree", type=Path, help="a checkout whose server is measured, instead of this one")
    parser.add_argument("--kinds", nargs="+", choices=[*RUDE, LIMIT], default=[*RUDE, LIMIT])
    options = parser.parse_args(arguments)
    rows: dict[str, dict[str, float]] = {}
    print(f"{'p95 in ms':18}{'models quiet':>14}{'rude':>8}{'ratio':>7}{'question quiet':>16}{'rude':>8}{'ratio':>7}")
    for kind in options.kinds:
        row = rows[kind] = _measured(kind, options)
        print(
            f"{kind:18}{row['models_quiet']:14.1f}{row['models_rude']:8.1f}{row['models_ratio']:7.1f}"
            f"{row['question_quiet']:16.1f}{row['question_rude']:8.1f}{row['question_ratio']:7.1f}"
            + (f"  ({row['errors']} errors)" if row["errors"] else ""),
            flush=True,
        )
    print(json.dumps(rows))
    return 0


def _measured(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    server, port = _start_server(options.tree)
    try:
        polite = Polite(port)
        quiet = polite.visit(options)
        start, cores = multiprocessing.get_context("spawn").Process, os.cpu_count() or 1
        rude = (
            [start(target=_compute, daemon=True) for _ in range(cores)] if kind == LIMIT
            else [start(target=_be_rude, args=(kind, port), daemon=True)]
        )  # fmt: skip
        for process in rude:
            process.start()
        time.sleep(5.0)  # until all of them are at it
        loud = polite.visit(options)
        for process in rude:
            process.terminate()
            process.join()
    finally:
        server.kill()
        server.wait()
    row: dict[str, Any] = {"errors": polite.num_errors}
    for name in ("models", "question"):
        row[f"{name}_quiet"], row[f"{name}_rude"] = _p95(quiet[name]), _p95(loud[name])
        row[f"{name}_ratio"] = row[f"{name}_rude"] / row[f"{name}_quiet"]
    return row


def _p95(seconds: list[float]) -> float:
    return 1000 * statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else float("nan")


def _start_server(tree: Path | None) -> tuple[subprocess.Popen, int]:
    command = [sys.executable, "-m", "videochat_online.cli", "serve", "--port", "0"]
    place = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"PYTHONPATH": str(tree)} if tree else {})
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=place, cwd=tree)
    assert server.stderr is not None
    for line in server.stderr:
        if " is ready" in line:
            return server, int(line.split(" ")[0].rpartition(":")[2])
    raise RuntimeError("the server ended before it was ready")


class Polite:
    """One who asks, waits for the answer, and pauses."""

    def __init__(self, port: int) -> None:
        self.port, self.num_errors = port, 0
        self.key = self._ask("POST", "/v1/sessions", {})["id"]
        for number in range(8):
            self._ask("POST", f"/v1/sessions/{self.key}/frames?timestamp={number}", _picture(224, number))
        self._ask("POST", f"/v1/sessions/{self.key}/questions", QUESTION)

    def visit(self, options: argparse.Namespace) -> dict[str, list[float]]:
        """Seconds of each request."""
        taken: dict[str, list[float]] = {"models": [], "question": []}
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            for name, request in (
                ("models", ("GET", "/v1/models", None)),
                ("question", ("POST", f"/v1/sessions/{self.key}/questions", QUESTION)),
            ):
                started = time.perf_counter()
                try:
                    self._ask(*request)
                except (OSError, ValueError, http.client.HTTPException):
                    self.num_errors += 1
                taken[name].append(time.perf_counter() - started)
                time.sleep(options.pause)
        return taken

    def _ask(self, method: str, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise ValueError(f"{answer.status} {text!r:.200}")
        return json.loads(text)


def _picture(side: int, seed: int) -> bytes:
    """A PNG of noise and areas: large ones take long to decode."""
    rows = np.random.default_rng(seed).integers(0, 256, (max(1, side // 8), side, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.repeat(rows, 8, axis=0)).save(data, "PNG", compress_level=1)
    return data.getvalue()


# ---- rude clients: ten of each, who never wait and never slow down ---------------------------------------------------


def _compute() -> None:
    while True:
        pass


def _be_rude(kind: str, port: int) -> None:
    asyncio.run(_all_rude(kind, port))


async def _all_rude(kind: str, port: int) -> None:
    await asyncio.gather(*(RUDE[kind](Rude(port, f"127.0.0.{2 + number}")) for number in range(NUM_RUDE)))


class Rude:
    """One client with its own address."""

    def __init__(self, port: int, address: str) -> None:
        self.port, self.address = port, address

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0), limit=2**16)

    async def ask(self, method: str, path: str, body: Any = None, *, reads: bool = True) -> tuple[int, Any]:
        """Status and JSON; without `reads` the connection is left open, unread."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        reader, writer = await self.open()
        head = HEAD.format(method=method, path=path, kind=kind) + f"Content-Length: {len(data)}\r\n"
        writer.write(head.encode() + (b"Connection: close\r\n\r\n" if reads else b"\r\n") + data)
        await writer.drain()
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            self.held = [*getattr(self, "held", [])[-200:], writer]
            return 0, None
        text = await reader.read(-1)
        writer.close()
        head_, _, rest = text.partition(b"\r\n\r\n")
        status = int(head_.split(b" ")[1]) if head_ else 0
        return status, json.loads(rest) if rest.startswith(b"{") else None

    async def session(self) -> str:
        while True:
            status, found = await self.ask("POST", "/v1/sessions", {})
            if status == 201:
                return str(found["id"])


async def _again(call: Callable[[], Awaitable[Any]], times: int) -> None:
    """So many at once, each again as soon as it is over."""

    async def one() -> None:
        while True:
            try:
                await call()
            except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)

    await asyncio.gather(*(one() for _ in range(times)))


async def questions(rude: Rude) -> None:
    """45 questions at once to a session that watches nothing yet."""
    key = await rude.session()
    await rude.ask("PUT", f"/v1/sessions/{key}/source", {"kind": "push"})
    await _again(lambda: rude.ask("POST", f"/v1/sessions/{key}/questions", LONG), 45)


async def pictures(rude: Rude) -> None:
    """Four large PNGs at once."""
    key, data = await rude.session(), _picture(3200, 1)
    await _again(lambda: rude.ask("POST", f"/v1/sessions/{key}/frames", data), 4)


async def streams(rude: Rude) -> None:
    """Six answers as event streams that are not read; more of them every second."""
    key = await rude.session()
    await rude.ask("POST", f"/v1/sessions/{key}/frames", _picture(224, 1))

    async def unread() -> None:
        await rude.ask("POST", f"/v1/sessions/{key}/questions", LONG, reads=False)
        await asyncio.sleep(1.0)

    await _again(unread, 6)


async def bodies(rude: Rude) -> None:
    """Twenty bodies that come byte by byte."""
    key = await rude.session()

    async def slow() -> None:
        _, writer = await rude.open()
        head = HEAD.format(method="POST", path=f"/v1/sessions/{key}/frames", kind="image/png")
        writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    await _again(slow, 20)


async def sockets(rude: Rude) -> None:
    """Five realtime sockets that show and ask without end, and read nothing."""
    picture = "data:image/png;base64," + base64.b64encode(_picture(224, 1)).decode()
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": picture}]}

    async def unread() -> None:
        reader, writer = await rude.open()
        key = base64.b64encode(os.urandom(16)).decode()
        head = "GET /s/rude{}/v1/realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head = head.format(rude.address.rpartition(".")[2]) + f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        writer.write(f"{head}\r\n\r\n".encode())
        if b" 101 " not in await reader.readline():
            writer.close()
            return
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        shown = _frame(json.dumps({"type": "conversation.item.create", "item": item}).encode())
        asked = _frame(json.dumps({"type": "response.create", "response": {"instructions": "What?"}}).encode())
        while not writer.is_closing():
            writer.write(shown + asked)
            await asyncio.wait_for(writer.drain(), 30)
            await asyncio.sleep(0.05)

    await _again(unread, 5)


def _frame(data: bytes) -> bytes:
    """A masked text frame of a WebSocket; the mask is zero."""
    size = len(data)
    head = bytes([0x81]) + (
        bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big") if size < 2**16
        else bytes([0xFF]) + size.to_bytes(8, "big")
    )  # fmt: skip
    return head + bytes(4) + data


async def sessions(rude: Rude) -> None:
    """Twenty new sessions at once, again and again."""
    await _again(lambda: rude.ask("POST", "/v1/sessions", {}), 20)


RUDE: dict[str, Callable[[Rude], Awaitable[None]]] = {
    one.__name__: one for one in (questions, pictures, streams, bodies, sockets, sessions)
}


if __name__ == "__main__":
    sys.exit(main())
