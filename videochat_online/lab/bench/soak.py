"""Many sessions at once on one server, for minutes: errors, latency, memory. Prints a table and a json line.

    python -m videochat_online.lab.bench.soak --sessions 20 --seconds 300
    python -m videochat_online.lab.bench.soak --sessions 20 --sockets 10

Starts `videochat-online serve` in a process of its own; each session uploads a generated film, watches it in real time
at 2 fps and asks again and again, answers streamed. Those of `--sockets` show a picture each half second over the
realtime socket instead, each in a new connection every minute.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...command_line import CommandParser
from ...serve.client import Client, ServerError
from ...serve.commands import port_number
from ..shapeworld.simulate import sample_stream
from ..shapeworld.video import write_mp4

QUESTIONS = ("What is happening now?", "How many objects are on the screen?", "What happened before that?")
START_SECONDS = 60.0
CONNECTION_SECONDS = 60.0


@dataclass
class Counts:
    """What all sessions met together."""

    first: list[float] = field(default_factory=list)
    """Seconds from a question to the first piece of its answer."""
    whole: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    """Each session's last state."""
    memory: list[float] = field(default_factory=list)
    """MiB of the server's process, every few seconds."""
    threads: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    """Open ones of the server's process, sockets among them."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def main(arguments: list[str] | None = None) -> int:
    """1. a film 2. a server 3. the sessions 4. the table."""
    parser = CommandParser(description="Many sessions at once on one server.")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--sockets", type=int, default=0, help="of these, over the realtime socket")
    parser.add_argument("--pause", type=float, default=15.0, help="mean seconds between two questions of a session")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--port", type=port_number, default=8765)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        film = write_mp4(Path(folder) / "film.mp4", sample_stream(0, "test", 2, min(3600, options.seconds + 60)), fps=4)
        server = _start_server(options)
        try:
            counts = _run(options, server, film)
        finally:
            server.terminate()
            server.wait(30)
    print(soak_report(options, counts))
    return 1 if counts.errors else 0


def _start_server(options: argparse.Namespace) -> subprocess.Popen:
    command = [sys.executable, "-m", "videochat_online.cli", "serve", "--port", str(options.port)]
    command += ["--model", options.model, "--max-sessions", str(options.sessions)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    client, until = Client(f"http://127.0.0.1:{options.port}"), time.monotonic() + START_SECONDS
    while True:
        try:
            client.call("GET", "/v1/models")
            if server.poll() is None:  # else another server has the port
                return server
            raise ValueError(f"the server did not start: is port {options.port} free?")
        except (OSError, ServerError):  # not there yet
            if time.monotonic() > until or server.poll() is not None:
                server.kill()
                raise
            time.sleep(0.3)


def _run(options: argparse.Namespace, server: subprocess.Popen, film: Path) -> Counts:
    counts, until = Counts(), time.monotonic() + options.seconds
    threads = [
        threading.Thread(target=_talk if k < options.sockets else _visit, args=(options, counts, film, k, until))
        for k in range(options.sessions)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counts.memory.append(_resident_mebibytes(server.pid))
        counts.threads.append(len(list(Path(f"/proc/{server.pid}/task").iterdir())))
        counts.files.append(len(list(Path(f"/proc/{server.pid}/fd").iterdir())))
        time.sleep(2.0)
    return counts


def _visit(options: argparse.Namespace, counts: Counts, film: Path, number: int, until: float) -> None:
    pause = random.Random(number)
    client = Client(f"http://127.0.0.1:{options.port}", timeout=120)
    try:
        with client.session(max_new_tokens=options.max_new_tokens) as session:
            session.upload(film)
            while (wait := pause.uniform(0.5, 1.5) * options.pause) < until - time.monotonic():
                time.sleep(wait)
                started = time.perf_counter()
                pieces = session.ask(pause.choice(QUESTIONS))
                next(pieces, None)
                first = time.perf_counter() - started
                for _ in pieces:
                    pass
                with counts.lock:
                    counts.first.append(first)
                    counts.whole.append(time.perf_counter() - started)
            state = session.state()
            with counts.lock:
                counts.states.append(state)
                if state["problem"]:
                    counts.errors.append(f"session {number}: {state['problem']}")
    except (OSError, ServerError) as error:
        with counts.lock:
            counts.errors.append(f"session {number}: {error}")


def _talk(options: argparse.Namespace, counts: Counts, film: Path, number: int, until: float) -> None:
    """As `_visit`, over the realtime socket."""
    from websockets.sync.client import connect

    pause = random.Random(number)
    shown = [_data_uri(pause) for _ in range(8)]
    address = f"ws://127.0.0.1:{options.port}/s/soak{number}/v1/realtime"
    try:
        while (end := min(until, time.monotonic() + CONNECTION_SECONDS)) - time.monotonic() > 1:
            with connect(address) as socket:
                asks_at = time.monotonic() + pause.uniform(0.5, 1.5) * options.pause
                while time.monotonic() < end:
                    content = [{"type": "input_image", "image_url": pause.choice(shown)}]
                    _say(socket, {"type": "conversation.item.create", "item": {"role": "user", "content": content}})
                    if time.monotonic() >= asks_at:
                        _ask_over(socket, options, counts, pause.choice(QUESTIONS))
                        asks_at = time.monotonic() + pause.uniform(0.5, 1.5) * options.pause
                    time.sleep(0.5)
    except Exception as error:  # whatever ends it is what is looked for
        with counts.lock:
            counts.errors.append(f"socket {number}: {type(error).__name__}: {error}")


def _ask_over(socket: Any, options: argparse.Namespace, counts: Counts, question: str) -> None:
    started, first = time.perf_counter(), None
    _say(socket, {"type": "response.create",
                  "response": {"instructions": question, "max_output_tokens": options.max_new_tokens}})  # fmt: skip
    while (event := json.loads(socket.recv(timeout=120)))["type"] != "response.done":
        if event["type"] == "error":
            raise ValueError(event["error"]["message"])
        if event["type"] == "response.output_text.delta" and first is None:
            first = time.perf_counter() - started
    if event["response"]["status"] not in ("completed", "incomplete"):
        raise ValueError(f"an answer ended as {event['response']['status_details']}")
    with counts.lock:
        counts.first += [] if first is None else [first]
        counts.whole.append(time.perf_counter() - started)


def _say(socket: Any, event: dict[str, Any]) -> None:
    socket.send(json.dumps(event))


def _data_uri(pause: random.Random) -> str:
    data = io.BytesIO()
    Image.effect_noise((320, 240), pause.randint(10, 90)).convert("RGB").save(data, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _resident_mebibytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak_report(options: argparse.Namespace, counts: Counts) -> str:
    """The table, and the same numbers as json."""

    def spread(values: list[float]) -> dict[str, float]:
        parts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        return {"median": parts[49], "p95": parts[94], "worst": max(values)} if values else {}

    def settled(values: list[float]) -> dict[str, float]:
        return {"a third in": values[len(values) // 3], "end": values[-1], "most": max(values)} if values else {}

    numbers = {
        "sessions": options.sessions, "seconds": options.seconds, "questions": len(counts.whole),
        "errors": len(counts.errors), "first_token_s": spread(counts.first), "answer_s": spread(counts.whole),
        "lag_s": spread([state["lag"] for state in counts.states]),
        "frames_seen": sum(state["stats"]["frames_seen"] for state in counts.states),
        "frames_dropped": sum(state["frames_dropped"] for state in counts.states),
        "server_mib": settled(counts.memory), "server_threads": settled(counts.threads),
        "server_files": settled(counts.files),
    }  # fmt: skip
    lines = [f"{name:16} {_shown(value)}" for name, value in numbers.items()]
    return "\n".join([*lines, *counts.errors[:10], json.dumps(numbers)])


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:.2f}" for name, number in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
