"""A model behind an OpenAI-compatible address: our own server, and one that fails in all the ways servers do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_commands import config_in, flags, run  # noqa: F401 (a fixture)
from videochat_online.evaluation import endpoint as endpoint_module
from videochat_online.evaluation.afterwards import INCOMPLETE
from videochat_online.evaluation.endpoint import EndpointResponder, parse_price
from videochat_online.evaluation.predictions import read_predictions
from videochat_online.media.source import MediaError
from videochat_online.processing import load_model


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn", reason="needs the server: pip install 'videochat-online[demo]'")
    from videochat_online.serve.api import create_app
    from videochat_online.serve.sessions import Sessions

    with Sessions(*load_model("pocket")) as sessions:
        server = uvicorn.Server(uvicorn.Config(create_app(sessions), port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            pass
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(10)


def test_our_own_endpoint_gives_the_answers_of_the_direct_run(own_server, flags, tmp_path: Path, capsys):  # noqa: F811
    """Twelve frames a question, which the memory thins here and there alike; blind questions, too."""
    window = [*flags, "--mode", "sliding_window", "--frames", 12]
    direct = [*window, "--memory", "2/2/12", "--answer", "generate", "--output", tmp_path / "direct"]
    assert run(*direct) == INCOMPLETE  # --limit
    remote = [item for item in window if item not in ("--device", "cpu")]
    remote += ["--endpoint", own_server, "--endpoint-images", "png", "--price", "1/2", "--output", tmp_path / "remote"]
    assert run(*remote) == INCOMPLETE
    for folder in ("", "blind"):
        a, b = (read_predictions(tmp_path / name / folder) for name in ("direct", "remote"))
        assert {key: one.response for key, one in a.items()} == {key: one.response for key, one in b.items()}
        assert len(a) == 12
    config = config_in(tmp_path / "remote")
    assert (config["endpoint"], config["max_frames"], config["adapter"]) == (own_server, 12, "endpoint")
    used = json.loads((tmp_path / "remote/endpoint.json").read_text())
    assert used["requests"] == 24 and used["retries"] == 0
    assert used["cost"] == pytest.approx((used["prompt_tokens"] + 2 * used["completion_tokens"]) / 1e6)
    assert "endpoint: 24 requests" in capsys.readouterr().err
    assert run(*remote, "--resume") == INCOMPLETE  # nothing is asked or counted again
    assert json.loads((tmp_path / "remote/endpoint.json").read_text())["requests"] == 24
    (tmp_path / "remote/endpoint.json").write_text('{"requests": ')
    assert run(*remote, "--resume") == INCOMPLETE
    assert "what was spent before is not counted" in capsys.readouterr().err


# ---- a server of which nothing is to be expected ---------------------------------------------------------------------

GOOD = {"choices": [{"message": {"content": " (B) "}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}


def failing(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SimpleNamespace]]:
    """scripted((status, document or text, headers?), ...) -> responder, what it was sent, how long it waited."""
    servers = []

    def make(*replies: tuple, **options: Any) -> SimpleNamespace:
        left, bodies, waits = list(replies), [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                bodies[-1]["key"] = self.headers["Authorization"]
                status, document, *more = left.pop(0)
                if status == 0:  # the connection breaks
                    self.close_connection = True
                    self.connection.close()
                    return
                data = (document if isinstance(document, str) else json.dumps(document)).encode()
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *words: Any) -> None: ...

        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own_time = SimpleNamespace(sleep=waits.append, monotonic=time.monotonic)  # that of no other thread
        monkeypatch.setattr(endpoint_module, "time", own_time)
        address = f"http://127.0.0.1:{server.server_port}/v1"
        responder = EndpointResponder(address, "m", 2, **options)
        return SimpleNamespace(responder=responder, bodies=bodies, waits=waits)

    yield make
    for server in servers:
        server.shutdown()


def ask(server: SimpleNamespace, *, keep: bool = False) -> str:
    conversation = server.responder.open("Watch.")
    conversation.see([np.zeros((4, 6, 3), np.uint8)] * 3, [0.0, 1.0, 2.0])
    return conversation.ask("What?", max_new_tokens=5, keep=keep)


def test_what_is_sent(scripted):
    server = scripted((200, GOOD), (200, GOOD), key="secret")
    conversation = server.responder.open("Watch.")
    conversation.see([np.zeros((4, 6, 3), np.uint8)] * 3, [0.0, 1.0, 2.0])
    assert conversation.ask("What?", max_new_tokens=5, keep=True) == "(B)"
    conversation.ask("And?", max_new_tokens=6, keep=False)
    first, second = server.bodies
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("m", 0, 5)
    assert first["key"] == "Bearer secret"
    system, user = first["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Watch."}]}
    texts = [part.get("text") for part in user["content"]]
    assert texts == ["Frame2 at 1.0s: ", None, "\n", "Frame3 at 2.0s: ", None, "\n", "What?"]  # the newest two
    assert user["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][3]["content"] == [{"type": "text", "text": "And?"}]
    with pytest.raises(ValueError, match="probabilities"):
        conversation.score_options("What?", ["A"])


def test_what_fails_for_a_moment_is_tried_again(scripted):
    busy = (429, failing("slow down"), {"Retry-After": "7"})
    server = scripted(busy, (503, "<html>"), (0, ""), (408, ""), (200, GOOD))
    assert ask(server) == "(B)"
    assert server.waits == [7.0, 2.0, 4.0, 8.0]
    assert (server.responder.usage.requests, server.responder.usage.retries) == (5, 4)
    assert server.responder.usage.prompt_tokens == 7


def test_what_never_answers_says_so_and_names_the_way_on(scripted):
    server = scripted(*[(500, failing("broken\nhere"))] * 3, retries=2)
    with pytest.raises(ValueError, match=r"gave no answer in 3 tries \(HTTP 500: broken here\).*--resume"):
        ask(server)
    nobody = EndpointResponder("http://127.0.0.1:9/v1", "m", 1, retries=1)
    with pytest.raises(ValueError, match=r"in 2 tries \(no answer"):
        nobody.complete([], 1)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        ((401, failing("bad key")), ValueError, r"cannot be asked \(HTTP 401\): bad key"),
        ((404, failing("no such model")), ValueError, "no such model"),
        ((429, failing("no money", code="insufficient_quota")), ValueError, "no money"),
        ((400, failing("too long", param="messages")), MediaError, r"refuses the question \(HTTP 400\): too long"),
        ((413, "too large"), MediaError, "too large"),
        ((200, "<html>a web page"), ValueError, "no chat completion.*ends in /v1"),
        ((200, {"choices": []}), ValueError, "no chat completion"),
    ],
)
def test_what_is_refused_is_not_tried_again(reply, error, message, scripted):
    server = scripted(reply)
    with pytest.raises(error, match=message) as caught:
        ask(server)
    assert isinstance(caught.value, MediaError) == (error is MediaError) and server.waits == []


def test_options_that_a_server_calls_otherwise(scripted, capsys):
    server = scripted(
        (400, failing("use max_completion_tokens", param="max_tokens")),
        (400, failing("only the default", param="temperature")),
        (200, GOOD),
        (200, GOOD),
    )
    assert ask(server) == ask(server) == "(B)"
    assert [{*body} & {"max_tokens", "max_completion_tokens", "temperature"} for body in server.bodies] == [
        {"temperature", "max_tokens"},
        {"temperature", "max_completion_tokens"},
        {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]
    assert server.bodies[-1]["max_completion_tokens"] == 5
    assert capsys.readouterr().err.count("note: the server takes no") == 2


def test_answers_without_words_or_counts(scripted):
    server = scripted((200, {"choices": [{"message": {"content": None}}]}))
    assert ask(server) == "" and server.responder.usage.without_usage == 1


def test_a_rate_is_kept(scripted):
    server = scripted(*[(200, GOOD)] * 3, requests_per_minute=6)
    clock = iter(range(100, 1000))
    endpoint_module.time.monotonic = lambda: float(next(clock))
    for _ in range(3):
        ask(server)
    assert server.waits[0] == 0.0 and all(9 <= wait <= 10 for wait in server.waits[1:])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--endpoint", "rtsp://a/b"], "expected an http or https"),
        (["--endpoint", "http://a/v1", "--adapter", "transformers"], "goes without --adapter"),
        (["--endpoint", "http://a/v1", "--answer", "likelihood"], "probabilities"),
        (["--endpoint", "http://a/v1", "--memory", "2/2/12"], "are for our models"),
        (["--endpoint", "http://a/v1", "--small-frames", "pooled"], "--small-frames are for our models"),
        (["--endpoint", "http://a/v1", "--dtype", "float16"], "--dtype: for a model that runs here"),
        (["--endpoint", "http://a/v1", "--price", "5"], "such as 0.15/0.6"),
    ],
)
def test_flags_that_do_not_go_together(more, message, annotations, videos, tmp_path):
    with pytest.raises(ValueError, match=message):
        run("ovbench", "--annotations", annotations, "--videos", videos, "--output", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_prices():
    assert parse_price("0.15/0.6") == (0.15, 0.6)
    for text in ("", "a/b", "1/2/3", "-1/2"):
        with pytest.raises(ValueError, match="--price"):
            parse_price(text)


def test_a_password_is_not_shown(scripted):
    responder = EndpointResponder("http://me:pass-word@127.0.0.1:9/v1", "m", 1, retries=0)
    with pytest.raises(ValueError) as caught:
        responder.complete([], 1)
    assert "pass-word" not in str(caught.value)
