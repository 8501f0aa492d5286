"""Frames of a video file through decord, the faster decoder where it is installed.

Numbers and times come from the shared index. decord's global bridge is left alone: whatever it is set to,
pictures arrive here as numpy. With `or_pyav` a file that decord cannot read is read by PyAV, and the log says so.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .pyav_source import PyavReader
from .source import MediaError, VideoReader
from .video_index import VideoIndex

logger = logging.getLogger(__name__)

NO_GUESSED_FRAMES = 1e-9
"""decord fills frames it cannot decode with their neighbours; with this share of them allowed it fails instead."""


class DecordReader(VideoReader):
    """`size` (W, H) scales while decoding; `num_threads` 0 leaves the number to decord."""

    def __init__(
        self, index: VideoIndex, *, size: tuple[int, int] | None = None, num_threads: int = 0, or_pyav: bool = False
    ) -> None:
        super().__init__(
            str(index.path),
            index.timestamps,
            fps=index.fps,
            duration=index.duration,
            size=size or index.size,
            start_offset=index.start_offset,
        )
        self._index = index
        self._num_threads = num_threads
        self._or_pyav = or_pyav
        self._pyav: PyavReader | None = None
        self._decoder: Any = None
        try:
            self._decoder = _open_decord(index, size or (-1, -1), num_threads)
        except _decord_errors() as error:
            self._fall_back(f"decord cannot open it ({_first_line(error)})", error)

    def _release(self) -> None:
        self._decoder = None
        if self._pyav is not None:
            self._pyav.close()

    def _image(self, index: int) -> np.ndarray:
        if self._pyav is None:
            try:
                picture = self._decoder[index]
                return picture.asnumpy() if hasattr(picture, "asnumpy") else np.asarray(picture)
            except _decord_errors() as error:
                self._fall_back(f"decord cannot decode frame {index} ({_first_line(error)})", error)
        assert self._pyav is not None, "_fall_back opens it or raises"
        return self._pyav._image(index)

    def _fall_back(self, what: str, error: Exception) -> None:
        if not self._or_pyav:
            raise MediaError.about(self.name, what, "a file that decord reads, or backend='pyav'") from error
        logger.warning("%s: %s; reading on with PyAV", self.name, what)
        self._decoder = None
        self._pyav = PyavReader(self._index, size=self.size, num_threads=self._num_threads)


def _open_decord(index: VideoIndex, size: tuple[int, int], num_threads: int) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    decoder = decord.VideoReader(
        str(index.path),
        ctx=decord.cpu(0),
        width=size[0],
        height=size[1],
        num_threads=num_threads,
        fault_tol=NO_GUESSED_FRAMES,
    )
    if len(decoder) != index.num_frames:
        raise RuntimeError(f"it counts {len(decoder)} frames, the container holds {index.num_frames}")
    return decoder


def _decord_errors() -> tuple[type[Exception], ...]:
    """What decord raises for files it cannot read or decode."""
    import decord

    return (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError, StopIteration)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
