"""What visitors send: never more than allowed, kept in one folder of the server, and gone when the server ends.

A server holds a lock on its folder, and the system frees the lock with the process, however that ends. So a folder
whose lock is free was left by a server that was killed, and the next server removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..media.picture import MAX_PIXELS, begin_image, upright_rgb
from .limits import NotAllowed, TooLarge, UnknownSession

if TYPE_CHECKING:
    from .live_session import LiveSession

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


async def save_upload(stream: AsyncIterator[bytes], session: LiveSession) -> Path:
    """Write a body to a new file of the session's folder; nothing is left of one that is too large or breaks off."""
    if not session.receiving.acquire(blocking=False):
        raise NotAllowed("this session is being sent a video already: one at a time")
    path = session.upload_path()
    try:
        with path.open("xb") as file:
            async for chunk in bounded(stream, session.limits.max_upload_bytes):
                file.write(chunk)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):  # the folder went with its session
            raise UnknownSession("the session ended before its video had come") from error
        raise
    finally:
        session.receiving.release()
    return path


def sent_image(data: bytes, name: str) -> Image.Image:
    """An image whose pixels are not read yet. MediaError where it is none, TooLarge for one of too many pixels."""
    image = begin_image(io.BytesIO(data), name)
    if image.width * image.height > MAX_PIXELS:
        raise TooLarge(f"a picture of {image.width}x{image.height} is too large, at most {MAX_PIXELS:,} pixels")
    return image


def picture_of(data: bytes, name: str) -> np.ndarray:
    """uint8 (H, W, 3), upright. Errors as `sent_image`, and MediaError where it is damaged."""
    with sent_image(data, name) as image:
        return np.asarray(upright_rgb(image, name))


async def bounded(stream: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The stream's chunks; TooLarge as soon as they are more than `most` bytes."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > most:
            raise TooLarge(f"more than {most:,} bytes were sent, which is all this server takes")
        yield chunk
