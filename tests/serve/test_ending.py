"""However a server ends, its visitors' files go: with it, or when the next one starts. Real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from videochat_online.serve.client import Client
from videochat_online.serve.sessions import PREFIX, ServerFolder, remove_left

COMMAND = [sys.executable, "-m", "videochat_online.cli"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen, str]]]:
    """start("serve", ...) -> a process that is ready, and its address; its temporary files are in tmp_path."""
    for package in ("uvicorn", "gradio"):
        if find_spec(package) is None:
            pytest.skip("needs the server: pip install 'videochat-online[demo]'")
    running = []

    def run(*arguments: str) -> tuple[subprocess.Popen, str]:
        place = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
        process = subprocess.Popen([*COMMAND, *arguments, "--port", "0"], env=place, stderr=subprocess.PIPE, text=True)
        running.append(process)
        for line in process.stderr:
            if found := re.match(r"(http://[\d.:]+)\S* is ready", line):
                return process, found[1]
        raise AssertionError("it ended before it was ready")

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()


def folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if PREFIX in path.name]


def watch(address: str, clip: Path) -> None:
    """A visitor who is still there when the server ends."""
    client = Client(address)
    session = client.call("POST", "/v1/sessions", {})["id"]
    client.call("PUT", f"/v1/sessions/{session}/video", clip.read_bytes())


def ends_by(number: int, tmp_path: Path, program: str) -> int:
    """Status of a small program that holds a server's folder and is then sent a signal."""
    # whoever runs the tests may ignore SIGHUP (nohup), and children inherit that
    start = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    start += "from videochat_online.serve.commands import unwound_by_signals\n"
    start += "from videochat_online.serve.sessions import ServerFolder\n"
    place = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", start + program]
    with subprocess.Popen(command, env=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(folders(tmp_path)) == 1
        process.send_signal(number)
        try:
            return process.wait(60)
        finally:
            process.kill()  # leaving the block waits for it


WAITS = "with unwound_by_signals():\n folder = ServerFolder()\n print('ready', flush=True)\n while True: time.sleep(1)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_takes_its_folder_with_it(number, tmp_path):
    assert ends_by(number, tmp_path, f"import time\n{WAITS}") == 0
    assert folders(tmp_path) == []


def test_a_killed_process_leaves_its_folder_to_the_next(tmp_path, monkeypatch):
    assert ends_by(signal.SIGKILL, tmp_path, f"import time\n{WAITS}") == -signal.SIGKILL
    assert len(folders(tmp_path)) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = ServerFolder()
    assert folders(tmp_path) == [folder.path]
    folder.remove()


def test_nohup_is_respected(tmp_path):
    ignored = "import time\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    program = ignored + WAITS.replace("print(", "signal.raise_signal(signal.SIGHUP); print(")
    assert ends_by(signal.SIGTERM, tmp_path, program) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number"),
    [("serve", signal.SIGINT), ("serve", signal.SIGTERM), ("serve", signal.SIGHUP), ("demo", signal.SIGTERM)],
)
def test_a_signal_takes_the_files_away(start, command, number, clip, tmp_path):
    process, address = start(command)
    watch(address, clip)
    if command == "demo":
        send_to_the_page(address, clip)
    assert len(list(tmp_path.rglob("*.video"))) == 1
    process.send_signal(number)
    assert process.wait(60) == 0
    assert folders(tmp_path) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == clip.read_bytes()]


def send_to_the_page(address: str, clip: Path) -> None:
    """An upload that no event has named yet lies in gradio's folder."""
    from tests.demo.visitor import Visitor

    Visitor(address).upload(clip)


@pytest.mark.slow
def test_the_next_start_removes_what_a_killed_server_left(start, clip, tmp_path):
    killed, address = start("serve")
    watch(address, clip)
    running, other = start("serve")
    watch(other, clip)
    killed.kill()
    killed.wait()
    assert len(folders(tmp_path)) == 2
    third, _ = start("serve")
    assert len(folders(tmp_path)) == 2 and len(list(tmp_path.rglob("*.video"))) == 1, "that of the running server"
    for process in (running, third):
        process.terminate()
        assert process.wait(60) == 0
    assert folders(tmp_path) == []


def test_folders_of_others_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = ServerFolder()
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(victim)
    (tmp_path / f"{PREFIX}file").write_text("")
    remove_left(tmp_path)
    assert mine.uploads.is_dir() and victim.is_dir() and len(folders(tmp_path)) == 3
    (tmp_path / f"{PREFIX}left").mkdir()
    monkeypatch.setattr("os.getuid", lambda: os.geteuid() + 1)
    remove_left(tmp_path)
    assert (tmp_path / f"{PREFIX}left").is_dir(), "another user's"
    monkeypatch.undo()
    remove_left(tmp_path)
    assert not (tmp_path / f"{PREFIX}left").exists()
    mine.remove()
    mine.remove()
    assert not mine.path.exists()
