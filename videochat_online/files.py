"""Files that are whole or not there, written by one process at a time, and known by what is in them.

Files are written beside their place, flushed to the disk, then renamed. The kernel keeps the locks: a killed process
holds none.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What the system says on a file system that cannot lock, as some of clusters."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let this process alone write to `folder`, which is made where it is missing; its file .lock stays.

    Raises ValueError where another process has it, naming that process, and where the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to: {error}") from error
    # A data worker inherits the file, and would hold the lock for some seconds after its trainer was killed.
    os.register_at_fork(after_in_child=file.close)
    with file:
        if not lock(file):
            file.seek(0)
            raise ValueError(
                f"{folder} is being written by another process ({file.read().strip()}); "
                "wait for its end, or choose another folder"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # so that folders of equal content stay equal


def lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False where another process has it. Warns where files cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"{file.name}: this file system cannot lock: see that no other process writes it", stacklevel=2)
    return True


def digest(*paths: Path) -> str:
    """SHA-256 over the bytes of files, one after the other. Raises OSError where one cannot be read."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                found.update(block)
    return found.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def replace_folder(staged: Path, folder: Path) -> None:
    """Give a folder whose files are flushed its name, in the place of an older one."""
    if folder.exists():
        shutil.rmtree(folder)
    staged.rename(folder)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Make every file below `folder`, and every name, survive a power cut."""
    for path in files_below(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for inner in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        flush_folder(inner)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, in order of name."""
    yield from sorted(path for path in folder.rglob("*") if path.is_file())
