"""Frames of a video file through decord, the faster decoder where it is installed.

Numbers and times come from the shared index. decord's global bridge is left alone: whatever it is set to,
pictures arrive here as numpy. PyAV is loaded before it (the index needs it), or decord's libvpx would take the place
of PyAV's own. With `or_pyav` a file that decord cannot read is read by PyAV, and the log says so.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .pyav_source import PyavReader
from .source import MediaError, VideoReader, reading
from .video_index import VideoIndex

logger = logging.getLogger(__name__)

FOR_DECORD = "a file that decord reads, or backend='pyav'"
SEEKABLE_FORMATS = ("mp4", "matroska", "avi", "flv")
"""Containers (FFmpeg's names) in which decord finds the frame asked for; in MPEG streams it is off by some."""
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
        except MediaError as error:
            self._fall_back(error)

    def _release(self) -> None:
        self._decoder = None
        if self._pyav is not None:
            self._pyav.close()

    def _image(self, index: int) -> np.ndarray:
        if self._pyav is None:
            try:
                return self._decoded(index)
            except MediaError as error:
                self._fall_back(error)
        assert self._pyav is not None, "_fall_back opens it or raises"
        return self._pyav._image(index)

    def _decoded(self, index: int) -> np.ndarray:
        with reading(self.name, f"decord cannot read frame {index}", FOR_DECORD):
            picture = self._decoder[index]
            image = picture.asnumpy() if hasattr(picture, "asnumpy") else np.asarray(picture)
        if image.shape != (self.size[1], self.size[0], 3):  # it takes the padding of narrow pictures for channels
            what = f"its picture has shape {image.shape} instead of {(self.size[1], self.size[0], 3)}"
            raise MediaError.about(self.name, f"decord cannot read frame {index} ({what})", FOR_DECORD)
        return image

    def _fall_back(self, error: MediaError) -> None:
        if not self._or_pyav:
            raise error
        logger.warning("%s; PyAV reads it from here on", str(error).removesuffix(f"; expected {FOR_DECORD}"))
        self._decoder = None
        self._pyav = PyavReader(self._index, size=self.size, num_threads=self._num_threads)


def _open_decord(index: VideoIndex, size: tuple[int, int], num_threads: int) -> Any:
    """decord's own reader. MediaError for files in which it would give other frames than those asked for."""
    import decord

    def refused(why: str) -> MediaError:
        return MediaError.about(index.path, f"decord cannot read it ({why})", FOR_DECORD)

    if not any(name in index.format for name in SEEKABLE_FORMATS):
        raise refused(f"it seeks inexactly in {index.format} files")
    if index.times.has_open_groups or not index.times.has_times:
        raise refused("it miscounts frames after a seek where groups of pictures are open or have no times")
    decord.logging.set_level(decord.logging.QUIET)
    with reading(index.path, "decord cannot read it", FOR_DECORD):
        decoder = decord.VideoReader(
            str(index.path),
            ctx=decord.cpu(0),
            width=size[0],
            height=size[1],
            num_threads=num_threads,
            fault_tol=NO_GUESSED_FRAMES,
        )
        num_frames = len(decoder)
    if num_frames != index.num_frames:
        raise refused(f"it counts {num_frames} frames, the container holds {index.num_frames}")
    return decoder
