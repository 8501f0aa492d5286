"""One pocket model for all tests of the server, sessions on it, and an application over them."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.media.conftest import free_port, rtsp_server  # noqa: F401 (fixtures)
from videochat_online.lab.bench.measure import write_clip
from videochat_online.processing import load_model
from videochat_online.serve.limits import Limits
from videochat_online.serve.sessions import Sessions


@pytest.fixture(scope="session")
def pocket():
    return load_model("pocket")


@pytest.fixture
def make_sessions(pocket) -> Iterator[Callable[..., Sessions]]:
    """make_sessions(limit=...) -> Sessions, ended after the test."""
    made = []

    def make(*, gate=None, webhooks=None, **limits) -> Sessions:
        made.append(Sessions(*pocket, limits=Limits(**limits), gate=gate, webhooks=webhooks))
        return made[-1]

    yield make
    for sessions in made:
        sessions.close()


@pytest.fixture
def sessions(make_sessions) -> Sessions:
    return make_sessions(max_new_tokens=32)


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """4 seconds."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", width=64, height=48, num_frames=40, fps=10)


@pytest.fixture(scope="session")
def picture() -> Callable[[int], np.ndarray]:
    """picture(k): another one for each number."""
    return lambda k: np.random.default_rng(k).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="session")
def png(picture) -> Callable[[int], bytes]:
    def encode(k: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(picture(k)).save(out, "PNG")
        return out.getvalue()

    return encode


@pytest.fixture(scope="session")
def data_uri(png) -> Callable[[int], str]:
    return lambda k: "data:image/png;base64," + base64.b64encode(png(k)).decode()


@pytest.fixture
def serve(make_sessions) -> Iterator[Callable[..., SimpleNamespace]]:
    """serve(token=..., limit=...) -> address, sessions and app of a running server; skips without its packages."""
    pytest.importorskip("fastapi", reason="needs the server: pip install 'videochat-online[demo]'")
    for package in ("uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason="needs the server: pip install 'videochat-online[demo]'")
    from videochat_online.serve.api import create_app
    from videochat_online.serve.commands import LOOPBACK_NAMES
    from videochat_online.serve.running import Server

    running = []

    def start(*, token: str | None = None, **limits) -> SimpleNamespace:
        sessions = make_sessions(**{"max_new_tokens": 32, "shutdown_seconds": 1.0} | limits)
        app = create_app(sessions, token=token, hosts=LOOPBACK_NAMES)
        server = Server(app, sessions, port=0, log_level="error")
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        running.append((server, thread))
        return SimpleNamespace(address=f"http://127.0.0.1:{port}", sessions=sessions, app=app, server=server)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
