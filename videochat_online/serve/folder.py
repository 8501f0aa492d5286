"""The folder in which one server keeps its visitors' files: gone when the server ends, or when the next one starts.

A server holds a lock on its folder, and the system frees the lock with the process, however that ends. So a folder
whose lock is free was left by a server that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

PREFIX = "videochat-online-server-"
CANNOT_LOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)
"""Some network file systems: their folders go with the server, but not where it is killed."""
log = logging.getLogger(__name__)


class ServerFolder:
    """A new folder among the system's temporary files; what killed servers left there is removed first."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir()).resolve()
        remove_left(parent)
        made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))  # not taken for one that was left: no lock yet
        lock = _opened(made)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in CANNOT_LOCK:
                raise
        self.path = made.rename(parent / made.name[1:])
        self.sessions, self.uploads = self.path / "sessions", self.path / "uploads"
        self.sessions.mkdir()
        self.uploads.mkdir()
        self.remove = weakref.finalize(self, _remove, self.path, lock)
        """Removes it, once; at the interpreter's end at the latest."""

    def remove_broken_uploads(self, older_than: float) -> None:
        """Remove what came of uploads to the page that broke off, if nothing was written to it for so many seconds.

        It lies beside the folders of whole uploads, which gradio knows and removes itself.
        """
        before = time.time() - older_than
        for path in self.uploads.glob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was whole in this moment, and got its name
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()


def remove_left(parent: Path) -> None:
    """Remove the folders of servers that are not running any more. Only our own user's are looked at."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            if path.lstat().st_uid != os.getuid():
                continue
            lock = _opened(path)
        except OSError:  # it went in the meantime, or is none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its server is running
            os.close(lock)
            continue
        _remove(path, lock)
        log.warning("removed the visitors' files in %s: its server was killed", path)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
