"""Decoded frames on disk, in the size the encoder takes them: a video is decoded once, not in every epoch and sample.

Bytes are those that a resize of the decoded frame gives, so that training on them is training on the video. One folder
a video, named by its path, size and time of change; safe to share between processes and to delete at any moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np

from ..media.readers import VideoReader
from ..media.shards import shard_of
from ..media.transforms import FrameTransform
from .clip import OpenFile

ABOUT, TIMES, FRAMES, HELD = "about.json", "times.npy", "frames", "held"


class FrameCacheError(ValueError):
    """The cache cannot be written or read. Not a sample's fault: training ends with it."""


@dataclass(frozen=True)
class FrameCache:
    """Frames of the video files that `open_video` opens, as `transform` resizes them, in `folder`."""

    folder: Path
    transform: FrameTransform
    open_video: OpenFile

    def open(self, path: Path) -> VideoReader:
        """A reader of a video file whose frames are `transform.size` squared.

        MediaError: what is wrong with the video; FrameCacheError: what is wrong with the folder.
        """
        # another entry where the file, the size of its pictures or the way to them has changed
        status = (shard_of(path) or path).stat()
        key = f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|{self.transform.size}"
        key += "" if self.transform.filter == FrameTransform.filter else f"|{self.transform.filter}"
        entry = self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]
        if not (entry / ABOUT).is_file():
            with self.open_video(path) as video, _caching("written", self.folder):
                _make_entry(entry, video)
        return CachedReader(path, entry, self)


class CachedReader(VideoReader):
    """Takes held frames from the entry; decodes the others, and the video is opened for the first of them only."""

    def __init__(self, path: Path, entry: Path, cache: FrameCache) -> None:
        with _caching("read", entry, (OSError, ValueError, EOFError)):  # what is not whole is no json and no array
            about = json.loads((entry / ABOUT).read_text("utf-8"))
            times = np.load(entry / TIMES)
        super().__init__(str(path), times, size=(cache.transform.size, cache.transform.size), **about)
        self._path, self._cache = path, cache
        self._frames: BinaryIO = (entry / FRAMES).open("r+b", buffering=0)
        self._held: BinaryIO = (entry / HELD).open("r+b", buffering=0)
        self._video: VideoReader | None = None

    def _release(self) -> None:
        self._frames.close()
        self._held.close()
        if self._video is not None:
            self._video.close()

    def _image(self, index: int) -> np.ndarray:
        # 1. held
        side = self._cache.transform.size
        num_bytes = side * side * 3
        if os.pread(self._held.fileno(), 1, index) == b"\1":
            with _caching("read", self._path, (OSError, ValueError)):
                pixels = np.empty((side, side, 3), np.uint8)
                if os.preadv(self._frames.fileno(), [pixels.data], index * num_bytes) < num_bytes:
                    raise ValueError(f"frame {index} is cut off")
                return pixels
        # 2. decoded, and held from now on
        if self._video is None:
            self._video = self._cache.open_video(self._path)
        image = self._cache.transform.resize(next(self._video.read([index])).image)
        with _caching("written", self._path):
            _write_all(self._frames, image.tobytes(), index * num_bytes)
            _write_all(self._held, b"\1", index)  # last: a frame that is held is whole
        return image


def _make_entry(entry: Path, video: VideoReader) -> None:
    """Whole at once: what another process made meanwhile is as good."""
    staged = entry.with_name(f".{entry.name}-{uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        np.save(staged / TIMES, video.timestamps)
        (staged / FRAMES).touch()
        (staged / HELD).write_bytes(bytes(video.num_frames))
        about = {"fps": video.fps, "duration": video.duration, "start_offset": video.start_offset}
        (staged / ABOUT).write_text(json.dumps(about), "utf-8")
        staged.rename(entry)
    except OSError:
        shutil.rmtree(staged, ignore_errors=True)
        if not (entry / ABOUT).is_file():
            raise


def _write_all(file: BinaryIO, data: bytes, offset: int) -> None:
    """Not through a memory map, where a full disk would kill the process."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


@contextmanager
def _caching(how: str, what: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Around what is done to the cache's own files: `how` is "written" or "read"."""
    try:
        yield
    except errors as error:
        way_out = "make room" if how == "written" else "delete its folder"
        raise FrameCacheError(
            f"the frame cache cannot be {how} ({what}): {error}; {way_out} or go without it"
        ) from error
