"""Files that are whole or not there, written by one process at a time; and those that come with the program.

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
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import uuid4

T = TypeVar("T")

PACKAGE = Path(__file__).parent
SHIPPED_MODELS = {"pocket": PACKAGE / "pocket"}
"""Models that come with the package, by the name `load_model` knows them by."""
LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What the system says on a file system that cannot lock, as some of clusters."""


def shipped(path: str | Path) -> Path:
    """The file or folder of anno_data/ or shell/deepspeed/ of that name, whatever the working folder is.

    Each stands once in the source tree, where users know it. setup.py puts both inside the package of a wheel.
    """
    inside = PACKAGE / path
    return inside if inside.exists() else PACKAGE.parent / path


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


@contextmanager
def whole(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A free name beside `path` to write to: that file takes the place of `path` when the block ends without an error.

    A link stays, and what it leads to is replaced. Not `durable`: a power cut may leave an empty file, for the many
    small files that can be made again. Raises OSError where it cannot be written; an older file then stays as it was.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.chmod(usual_mode(path.parent))
        if durable:
            flush(beside)
        os.replace(beside, path)
    except OSError as error:
        if error.filename == str(beside):  # nobody knows this name
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
    if durable:
        flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step; its folder is made where it is missing. Raises OSError where that fails.

    A device or a pipe, such as /dev/stdout, is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """As `write_text`; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """What a JSON file holds. ValueError, naming it, where it cannot be read or holds another `kind` of value."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # some tools mark UTF-8
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        problem = f"{path} cannot be read as JSON (cut off, or another kind of file?): {error}"
        raise ValueError(f"{problem}; expected {expected}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path}: expected {expected}, got {type(found).__name__}")
    return found


def replace_folder(staged: Path, folder: Path) -> None:
    """Give a folder whose files are flushed its name, in the place of an older one."""
    if folder.exists():
        shutil.rmtree(folder)
    staged.rename(folder)
    flush(folder.parent)


def flush(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Make every file below `folder`, and every name, survive a power cut, and its files as readable as others."""
    mode = usual_mode(folder)
    for path in [folder, *folder.rglob("*")]:
        if path.is_file():
            path.chmod(mode)
        flush(path)


def usual_mode(folder: Path) -> int:
    """The mode that a new file of `folder` gets: 0666 less the umask. Some libraries, as safetensors, take 0600.

    Seen on a file, because asking for the umask would change it for the other threads.
    """
    probe = folder / f".{uuid4().hex}"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


def files_below(folder: Path) -> list[Path]:
    """Every file below `folder`, in order of name."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
