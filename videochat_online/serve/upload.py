"""Bytes that come over the network, never more than allowed: a video into a session's folder, a picture into memory."""

import io
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from ..media.picture import MAX_PIXELS, begin_image, upright_rgb
from .limits import NotAllowed, TooLarge, UnknownSession
from .live_session import LiveSession


async def save_upload(stream: AsyncIterator[bytes], session: LiveSession, most: int) -> Path:
    """Write a body to a new file of the session's folder; nothing is left of one that is too large or breaks off."""
    if not session.receiving.acquire(blocking=False):
        raise NotAllowed("this session is being sent a video already: one at a time")
    path = upload_path(session)
    try:
        with path.open("xb") as file:
            async for chunk in bounded(stream, most):
                file.write(chunk)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):  # the folder went with its session
            raise UnknownSession("the session ended before its video had come") from error
        raise
    finally:
        session.receiving.release()
    return path


def upload_path(session: LiveSession) -> Path:
    """A name that the server chooses, in the session's own folder."""
    return session.folder / f"upload-{secrets.token_hex(8)}.video"


async def decode_image(stream: AsyncIterator[bytes], most: int) -> np.ndarray:
    """uint8 (H, W, 3) of a picture's bytes, upright; MediaError for anything else."""
    return picture_of(b"".join([chunk async for chunk in bounded(stream, most)]), "the frame sent")


def picture_of(data: bytes, name: str) -> np.ndarray:
    """uint8 (H, W, 3), upright. MediaError where it is no picture, TooLarge before its pixels take memory."""
    with begin_image(io.BytesIO(data), name) as image:
        if image.width * image.height > MAX_PIXELS:
            raise TooLarge(f"a picture of {image.width}x{image.height} is too large, at most {MAX_PIXELS:,} pixels")
        return np.asarray(upright_rgb(image, name))


async def bounded(stream: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The stream's chunks; TooLarge as soon as they are more than `most` bytes."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        if size > most:
            raise TooLarge(f"more than {most:,} bytes were sent, which is all this server takes")
        yield chunk
