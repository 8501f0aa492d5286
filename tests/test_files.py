"""Files that are whole or not there; one writer a folder, by processes that really are several; digests."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videochat_online.files import LOCK_FILE, digest, flush_tree, locked, whole, write_json, write_text

HOLD = """
import os, sys, time
from pathlib import Path
from videochat_online.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a data worker, which outlives a killed trainer for some seconds
        print("held", flush=True)  # said by the child: before it runs, it still has the file that it inherited
        time.sleep(600)
    sys.stdin.read()
"""


def test_a_folder_has_one_writer_and_a_killed_one_holds_nothing(tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        told = rf"run is being written by another process \(process {holder.pid} on "
        with pytest.raises(ValueError, match=told), locked(folder):
            pass
        holder.kill()
        holder.wait()
        with locked(folder):
            assert f"process {os.getpid()} on" in (folder / LOCK_FILE).read_text()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)  # the child that was left
        holder.communicate()


def test_a_lock_is_free_after_its_end(tmp_path: Path):
    for _ in range(2):
        with locked(tmp_path), pytest.raises(ValueError, match="another process"), locked(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).read_bytes() == b""


def test_a_child_does_not_free_what_its_parent_holds(tmp_path: Path):
    with locked(tmp_path):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        with pytest.raises(ValueError, match="another process"), locked(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file cannot be written to"), locked(tmp_path / "file"):
        pass


def test_digest_of_files_one_after_the_other(tmp_path: Path):
    for name, words in (("a", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(words)
    assert digest(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    assert digest(tmp_path / "a", tmp_path / "b") == hashlib.sha256(b"onetwo").hexdigest()


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path: Path, durable: bool):
    path = tmp_path / "report.json"
    path.write_text("older")
    with pytest.raises(KeyError), whole(path, durable=durable) as beside:
        beside.write_text("hal")
        raise KeyError
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]
    with whole(path, durable=durable) as beside:
        beside.write_text("newer")
        assert path.read_text() == "older" and beside.parent == path.parent
    assert path.read_text() == "newer" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError) as caught, whole(tmp_path / "no/report.json", durable=durable) as beside:
        beside.write_text("x")
    assert caught.value.filename == str(tmp_path / "no/report.json")  # and not the name beside it


def test_json_is_readable_and_its_folder_is_made(tmp_path: Path):
    write_json(tmp_path / "a" / "b.json", {"é": [1]})
    assert (tmp_path / "a" / "b.json").read_text("utf-8") == '{\n "é": [\n  1\n ]\n}\n'


def test_nobody_else_replaces_files():
    """Each home-made way forgets something: the flush, the other process, what is left of a failed one."""
    package = Path(__file__).parent.parent / "videochat_online"
    own = {path.name for path in package.rglob("*.py") if "os.replace(" in path.read_text("utf-8")}
    assert own == {"files.py"}


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
        assert pipe.is_fifo()
    finally:
        os.close(reader)


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "elsewhere" / "file.json")
    write_json(link, [1])
    assert link.is_symlink() and json.loads((tmp_path / "elsewhere/file.json").read_text()) == [1]


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o007], indirect=True, ids=oct)
def test_files_get_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int):
    """safetensors makes its files 0600: a colleague could not read the model."""
    write_json(tmp_path / "a.json", [1])
    write_text(tmp_path / "b.txt", "b")
    for name, durable in (("c", True), ("d", False)):
        with whole(tmp_path / name, durable=durable) as beside:
            save_file({"x": torch.zeros(2)}, beside)
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    save_file({"x": torch.zeros(2)}, tmp_path / "tree" / "inner" / "e")
    flush_tree(tmp_path / "tree")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(("a.json", "b.txt", "c", "d", "e"), 0o666 & ~umask)
