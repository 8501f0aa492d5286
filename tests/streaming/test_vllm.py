"""A real vLLM server has our answers, token for token. It lives in an environment of its own: shell/test_vllm.sh."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from videochat_online import StreamingSession, load_model, open_video
from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.bench.serve import Endless
from videochat_online.model.engine import Engine, EngineError
from videochat_online.streaming.language import sampling

from .sessions import pictures

PYTHON = Path(os.environ.get("VLLM_PYTHON") or Path(__file__).parent.parent.parent / ".venv-vllm/bin/python")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs vLLM in .venv-vllm: bash shell/test_vllm.sh installs it"),
]
START_SECONDS = 900.0  # a busy machine takes minutes; one that died is seen at once
QUESTIONS = (
    "What is happening now?",
    "Where is the yellow square?",
    "What happened before that?",
    "How many are there?",
)


def started(command: list[str], folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The server that a printed command starts, on a port of its own, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [port if before == "--port" else word for before, word in zip(["", *command], command, strict=False)]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [str(PYTHON), *command[1:], "--dtype", "float32", "--enforce-eager"],
            stdout=out, stderr=out, cwd=folder, env={**os.environ, **quiet, "PYTHONPATH": ""}, start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server, f"http://127.0.0.1:{port}"
        except OSError:
            if server.poll() is None and time.monotonic() < until:
                time.sleep(0.3)
                continue
            with suppress(ProcessLookupError):  # it would hold its memory for ever
                os.killpg(server.pid, 15)
            raise AssertionError(log.read_text("utf-8", "replace")[-4000:]) from None


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    done = subprocess.run(
        [sys.executable, "-m", "videochat_online.cli", "export-llm", "pocket", str(folder / "llm")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    printed = done.stdout
    command = shlex.split(printed[printed.index("python -m") :].replace("\\\n", " "))
    server, address = started(command, folder, folder / "log")
    yield address
    os.killpg(server.pid, 15)
    server.wait(60)


@pytest.fixture(scope="module")
def at_vllm(vllm):
    return load_model("pocket", device="cpu", engine=Engine(vllm))


def test_every_token_is_ours_over_evictions(pocket, at_vllm):
    """Sixty frames of the film through a memory of sixteen, a question at each fifth; streamed; the dialogue grows."""
    here, there = StreamingSession(*pocket), StreamingSession(*at_vllm)
    frames = list(open_video(SHIPPED_MODELS["pocket"] / "sample.mp4"))[::4]
    asked = 0
    for number, frame in enumerate(frames):
        for session in (here, there):
            session.see(frame.image, frame.timestamp)
        if number % 5 == 4:
            question = QUESTIONS[asked % len(QUESTIONS)]
            asked += 1
            answer = here.ask(question, max_new_tokens=32)
            assert "".join(there.ask_stream(question, max_new_tokens=32)) == answer
            assert there._last_answer.ids == here._last_answer.ids
    assert asked >= 8 and there.stats()["frames_seen"] > sum(there.stats()["frames_held"])
    here.ask("And now?", keep=False)
    there.ask("And now?", keep=False)
    assert there.ask("And now?", keep=False) == here.ask("And now?", keep=False)
    assert there.stats()["cached_tokens"] >= 128  # its prefix cache, of blocks of 128 positions


def test_sixteen_at_once_each_get_their_own(pocket, at_vllm):
    def asked(model, seed):
        session = StreamingSession(*model)
        session.see_many(pictures(12, seed), [k / 2 for k in range(12)])
        session.ask(QUESTIONS[seed % 4], max_new_tokens=24)
        return session._last_answer.ids

    alone = [asked(pocket, seed) for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda seed: asked(at_vllm, seed), range(16))) == alone


def test_options_and_limits_are_honoured(at_vllm):
    session = StreamingSession(*at_vllm)
    session.see_many(pictures(8), [k / 2 for k in range(8)])
    draw = lambda seed: session.ask("What is it?", keep=False, max_new_tokens=24, **sampling(1.5, seed=seed))  # noqa: E731
    assert draw(1) == draw(1) and len({draw(seed) for seed in range(6)}) > 1
    session.ask("What is it?", keep=False, max_new_tokens=1)
    assert len(session._last_answer.ids) == 1
    assert session.ask("What is it?", keep=False)


def counted(address: str, name: str) -> float:
    """One of the server's own counts."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_leaving_an_answer_ends_it_at_the_server(vllm, at_vllm, wait_until):
    """None of these answers ends by itself: fewer tokens than all of them have mean that leaving has ended one."""
    model, given = at_vllm
    session = StreamingSession(model, Endless(given.tokenizer, given.template, given.transform))
    session.see_many(pictures(8), [k / 2 for k in range(8)])
    made, most = counted(vllm, "generation_tokens_total"), 3000
    for _ in range(4):
        pieces = session.ask_stream("What is it?", max_new_tokens=most, keep=False)
        next(pieces)
        pieces.close()
    wait_until(lambda: not counted(vllm, "num_requests_running"), 120)
    assert counted(vllm, "generation_tokens_total") - made < 4 * most


def test_what_vllm_refuses_is_one_error(at_vllm, monkeypatch):
    session = StreamingSession(*at_vllm)
    session.see_many(pictures(4), [0.0, 1.0, 2.0, 3.0])
    engine = session.model.engine
    answer = engine.answer
    monkeypatch.setattr(engine, "answer", lambda body, is_left: answer({**body, "prompt_embeds": "AAAA"}, is_left))
    with pytest.raises(EngineError, match="refuses"):
        session.ask("What is it?")
    monkeypatch.undo()
    monkeypatch.setattr(engine, "model", "another")
    with pytest.raises(EngineError, match=r"HTTP 404.*another"):
        session.ask("What is it?")
    monkeypatch.undo()
    assert session.ask("What is it?")
