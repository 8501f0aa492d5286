"""A run against an endpoint that breaks in the middle and is resumed, from the command line to its exit status."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.evaluation.test_commands import flags  # noqa: F401 (a fixture)
from videochat_online.cli import main
from videochat_online.evaluation import endpoint as endpoint_module
from videochat_online.evaluation.afterwards import INCOMPLETE

TRIES = 7
QUESTIONS = 12


class StandIn(ThreadingHTTPServer):
    """Answers `reply` so many times, and then breaks in one of several ways; keeps what it has answered."""

    allow_reuse_address = True
    raw: bytes | None = None
    """Sent as it is, with `status`, where there is any."""
    status = 200

    def __init__(self, port: int, reply: str, *, answers: float = float("inf"), then: str = "") -> None:
        self.reply, self.left, self.then = reply, answers, then
        self.answered: list[str] = []
        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, document = 200, {"choices": [{"message": {"content": self.server.reply}}]}
        if self.server.left <= 0:
            if self.server.then == "cuts the connection":
                self.close_connection = True
                self.connection.close()
                return
            status, document = 503, {"error": {"message": "restarting"}}
        else:
            self.server.answered.append(json.dumps(body["messages"]))
            self.server.left -= 1
            if self.server.left <= 0 and self.server.then == "dies":
                self.server.end()  # this answer is still given, nobody listens any more
        data = self.server.raw or json.dumps(document).encode()
        self.send_response(status if self.server.raw is None else self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None: ...


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandIn]]:
    own_time = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)  # retries do not wait
    monkeypatch.setattr(endpoint_module, "time", own_time)
    servers: list[StandIn] = []

    def start(reply: str, *, port: int = 0, **options: Any) -> StandIn:
        servers.append(StandIn(port, reply, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def status_of(*arguments: object) -> int:
    """Of the program, however it ends."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def lines_of(file: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line["response"] for line in lines}


@pytest.mark.parametrize("mode", [("sliding_window",), ("streaming", "--multi-turn")])
@pytest.mark.parametrize("answers", [6, QUESTIONS + 3], ids=["within a video", "blind"])
@pytest.mark.parametrize("then", ["dies", "says 503", "cuts the connection"])
def test_a_run_that_breaks_asks_nothing_twice_and_loses_nothing(
    then: str,
    answers: int,
    mode: tuple[str, ...],
    stand_in: Callable[..., StandIn],
    flags: list[object],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    local = [item for item in flags if item not in ("--device", "cpu")]
    first = stand_in("(A)", answers=answers, then=then)
    address = f"http://127.0.0.1:{first.server_port}/v1"
    command = ["eval", *local, "--mode", *mode, "--fps", 1, "--frames", 2, "--endpoint", address, "--model", "m"]
    # 1. it breaks: status 2, one line that says how to go on, no report; what was answered is kept
    assert status_of(*command, "--output", tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"gave no answer in {TRIES} tries" in error and "--resume" in error
    assert not (tmp_path / "result.json").exists()
    kept, blind = lines_of(tmp_path / "predictions.jsonl"), lines_of(tmp_path / "blind/predictions.jsonl")
    assert (len(kept), len(blind)) == (min(answers, QUESTIONS), max(answers - QUESTIONS, 0))
    first.end()
    # 2. nobody is there: nothing changes
    assert status_of(*command, "--output", tmp_path, "--resume") == 2
    assert lines_of(tmp_path / "predictions.jsonl") == kept
    # 3. it goes on: every other question once
    second = stand_in("(B)", port=first.server_port)
    assert status_of(*command, "--output", tmp_path, "--resume") == INCOMPLETE  # --limit
    asked = first.answered + second.answered
    assert len(asked) == 2 * QUESTIONS
    for file, before in (("predictions.jsonl", kept), ("blind/predictions.jsonl", blind)):
        found = lines_of(tmp_path / file)
        assert len(found) == QUESTIONS and found.items() >= before.items()
        assert all(found[key] == "(B)" for key in found.keys() - before.keys())
    used = json.loads((tmp_path / "endpoint.json").read_text())
    assert used["requests"] == 2 * QUESTIONS + 2 * TRIES and used["retries"] == 2 * (TRIES - 1)
    assert json.loads((tmp_path / "result.json").read_text())["questions"] == QUESTIONS


def said(content: str, usage: str = "{}") -> bytes:
    return f'{{"choices": [{{"message": {{"content": {content}}}}}], "usage": {usage}}}'.encode()


@pytest.mark.parametrize(
    ("raw", "status", "end"),
    [
        (said(r'"(B) \ud800"'), 200, "(B) ?"),
        (said('[{"type": "text", "text": "(B)"}, {"type": "refusal"}]'), 200, "(B)"),
        (said('"(B)"', '{"prompt_tokens": [1]}'), 200, "(B)"),
        (said('"(B)"', '{"prompt_tokens": 1e400, "completion_tokens": NaN}'), 200, "(B)"),
        (said('"(B)"', '{"completion_tokens": "many"}'), 200, "(B)"),
        (said('{"text": "(B)"}'), 200, "answers with no chat completion"),
        (b"[" * 100_000, 200, "answers with no chat completion"),
        (b"\x1b[2J\x07", 200, "answers with no chat completion: ?[2J?;"),
        (b'{"error": {"param": ["max_tokens"], "message": "no"}}', 400, "refuses the question (HTTP 400): no"),
    ],
    ids=[
        "half a sign",
        "parts",
        "a list",
        "infinite",
        "words",
        "an object",
        "deep",
        "control signs",
        "a list of names",
    ],
)
def test_whatever_a_server_says_is_a_reply_or_one_clear_error(
    raw: bytes,
    status: int,
    end: str,
    stand_in: Callable[..., StandIn],
    flags: list[object],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    local = [item for item in flags if item not in ("--device", "cpu")]
    server = stand_in("")
    server.raw, server.status = raw, status
    address = f"http://127.0.0.1:{server.server_port}/v1"
    asked = [*local, "--endpoint", address, "--model", "m", "--mode", "sliding_window", "--limit", "1", "--no-blind"]
    ended = status_of("eval", *asked, "--output", tmp_path / "run")
    output = capsys.readouterr()
    if end.startswith("("):
        assert ended == INCOMPLETE and list(lines_of(tmp_path / "run/predictions.jsonl").values()) == [end]
    else:
        assert ended == (INCOMPLETE if status == 400 else 2) and end in output.out + output.err
