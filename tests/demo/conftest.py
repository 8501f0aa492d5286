"""The demo page on a real server in this process, and visitors in headless Chromium."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.demo.states import FLAGS, context_of
from videochat_online.lab.bench.measure import write_clip
from videochat_online.processing import load_model
from videochat_online.serve.limits import Limits
from videochat_online.serve.sessions import Sessions

INSTALL = "needs {}: pip install 'videochat-online[demo]' playwright, apt-get install chromium"


@pytest.fixture(scope="session")
def pocket():
    return load_model("pocket")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("clips")
    bad = folder / "bad.mp4"
    bad.write_bytes(b"this is no video" * 100)
    one = write_clip(folder / "one.mp4", width=64, height=48, num_frames=300, fps=10)
    two = write_clip(folder / "two.mp4", width=96, height=64, num_frames=300, fps=10)
    return SimpleNamespace(one=one, two=two, bad=bad)


@pytest.fixture
def demo(pocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The page at .address; .sessions are the visitors'."""
    pytest.importorskip("gradio", reason=INSTALL.format("gradio"))
    uvicorn = pytest.importorskip("uvicorn", reason=INSTALL.format("uvicorn"))
    from videochat_online.demo.page import add_page
    from videochat_online.serve.api import create_app

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the page sets it: put back afterwards
    limits = Limits(
        max_sessions=3, max_new_tokens=24, allow_urls=True, allow_private_urls=True, max_upload_bytes=2**20
    )  # fmt: skip
    with Sessions(*pocket, limits=limits) as sessions:
        app = create_app(sessions)
        app = add_page(app, sessions)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/", sessions=sessions, uploads=sessions.files.uploads)
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    api = pytest.importorskip("playwright.sync_api", reason=INSTALL.format("playwright"))
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip(INSTALL.format("chromium"))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(demo, browser) -> Iterator[Callable]:
    """visit(width=..., dark=...) -> a page of a new visitor, loaded."""
    contexts = []

    def open_page(*, width: int = 1440, height: int = 900, dark: bool = False):
        context = context_of(browser, (width, height), dark)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(demo.address, wait_until="domcontentloaded")
        page.locator(".v-go:enabled").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
