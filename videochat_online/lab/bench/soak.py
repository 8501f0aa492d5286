"""Many sessions at once on one server, for minutes: errors, latency, memory, and whether what the server takes stays
flat. Prints a table and a json line; ends with 1 where there were errors or something grew.

    python -m videochat_online.lab.bench.soak --sessions 20 --seconds 300
    python -m videochat_online.lab.bench.soak --sessions 20 --sockets 10

Starts `videochat-online serve` in a process of its own; each session uploads a generated film, watches it in real time
at 2 fps and asks again and again, answers streamed. Those of `--sockets` show a picture each half second over the
realtime socket instead, each in a new connection every minute.

Flat: what the process takes beside what its sessions say they hold (`HELD`: each has a bound, but it takes an hour to
come to it), its threads and its open files are no more in the last third of the time than in the middle one (medians),
and threads and files go back to what they were before when all clients have left.
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
import urllib.request
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
START_SECONDS = 120.0
CONNECTION_SECONDS = 60.0
LOOK_SECONDS = 2.0
END_SECONDS = 60.0
LEAVE_SECONDS = 20.0
"""Until what served clients who have left must be gone."""
HELD = ("memory_bytes", "cache_bytes", "picture_bytes")
"""Of /metrics: feature maps, keys and values, and small pictures for the page."""
ALLOWED = {"other_mib": (1.05, 0.0), "threads": (1.0, 3.0), "files": (1.0, 3.0)}
"""Growth that is none: a factor, and so many more."""


@dataclass
class Counts:
    """What all sessions met together."""

    first: list[float] = field(default_factory=list)
    """Seconds from a question to the first piece of its answer."""
    whole: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    """Each session's last state."""
    looks: list[dict[str, float]] = field(default_factory=list)
    """What the server's process takes, every few seconds: before the first client, while they are there, and after."""
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
            try:
                server.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                print(f"the server did not end within {END_SECONDS:g} s")
    growth = found_growth(counts.looks)
    print(soak_report(options, counts, growth))
    return 1 if counts.errors or growth else 0


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
    metrics = f"http://127.0.0.1:{options.port}/metrics"
    counts.looks.append(_look(server.pid, metrics))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(LOOK_SECONDS)
        if time.monotonic() < until - 2 * LOOK_SECONDS:  # later some have left
            counts.looks.append(_look(server.pid, metrics))
    until = time.monotonic() + LEAVE_SECONDS
    counts.looks.append(_look(server.pid, metrics))
    while _remains(counts.looks) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        counts.looks[-1] = _look(server.pid, metrics)
    return counts


def _look(process: int, metrics: str) -> dict[str, float]:
    """MiB in all, what of it sessions hold and the rest; threads; open files, sockets among them."""
    with urllib.request.urlopen(metrics, timeout=120) as response:
        lines = [line.split() for line in response.read().decode().splitlines() if not line.startswith("#")]
    numbers = {name.removeprefix("videochat_online_"): float(value) for name, value in lines}
    place = Path(f"/proc/{process}")
    pages = int((place / "statm").read_text().split()[1])
    whole, held = pages * os.sysconf("SC_PAGE_SIZE") / 2**20, sum(numbers[name] for name in HELD) / 2**20
    threads, files = (len(list((place / name).iterdir())) for name in ("task", "fd"))
    return {"server_mib": whole, "held_mib": held, "other_mib": whole - held, "threads": threads, "files": files}


def found_growth(looks: list[dict[str, float]]) -> list[str]:
    """What grew from the middle third of the time to the last one, and what remains of clients who have left."""
    there = looks[1:-1]
    if len(there) < 6:
        return [f"{len(there)} looks are too few to judge by"]
    third, found = len(there) // 3, _remains(looks)
    for name, (factor, more) in ALLOWED.items():
        middle, last = (statistics.median(one[name] for one in part) for part in (there[third:-third], there[-third:]))
        if last > middle * factor + more:
            found.append(f"{name} grew from {middle:.1f} to {last:.1f}")
    return found


def _remains(looks: list[dict[str, float]]) -> list[str]:
    first, last = looks[0], looks[-1]
    more = {name: ALLOWED[name][1] for name in ("threads", "files")}
    return [f"{name}: {first[name]:g} at first, {last[name]:g} at the end" for name in more
            if last[name] > first[name] + more[name]]  # fmt: skip


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


def soak_report(options: argparse.Namespace, counts: Counts, growth: list[str]) -> str:
    """The table, and the same numbers as json."""

    def spread(values: list[float]) -> dict[str, float]:
        parts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        return {"median": parts[49], "p95": parts[94], "worst": max(values)} if values else {}

    def course(name: str) -> dict[str, float]:
        values = [look[name] for look in counts.looks]
        third = len(values) // 3
        return {"before": values[0], "a third in": values[third], "two thirds": values[-third], "last": values[-2],
                "clients gone": values[-1], "most": max(values)}  # fmt: skip

    numbers = {
        "sessions": options.sessions, "seconds": options.seconds, "questions": len(counts.whole),
        "errors": len(counts.errors), "first_token_s": spread(counts.first), "answer_s": spread(counts.whole),
        "lag_s": spread([state["lag"] for state in counts.states]),
        "frames_seen": sum(state["stats"]["frames_seen"] for state in counts.states),
        "frames_dropped": sum(state["frames_dropped"] for state in counts.states),
        **{name: course(name) for name in counts.looks[0]},
        "flat": "yes" if not growth else "NO: " + "; ".join(growth),
    }  # fmt: skip
    lines = [f"{name:16} {_shown(value)}" for name, value in numbers.items()]
    return "\n".join([*lines, *counts.errors[:10], json.dumps(numbers)])


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:.2f}" for name, number in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
