"""What every source of frames has in common: RGB frames with seconds, read lazily by index; and its errors.

A source knows its times when it is opened and decodes a picture only when it is asked for one.
It never keeps decoded pictures, so a 10-hour file needs no more memory than a short one
(apart from 16 bytes a frame for the times). Not thread-safe: open one reader a thread.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
A_WHOLE_IMAGE = "a complete image file"


class MediaError(ValueError):
    """A file, folder or list that cannot be read as frames."""

    def __init__(self, message: str) -> None:
        # A file name that is not UTF-8 holds half characters, which no log, report or answer can be written with.
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))

    @classmethod
    def about(cls, source: object, what: str, expected: str) -> MediaError:
        return cls(f"{source}: {what}; expected {expected}")


class MediaWarning(UserWarning):
    """Something is missing in a source, of which the rest is read."""


def warn(source: object, what: str) -> None:
    """A MediaWarning; Python shows the same one only once."""
    warnings.warn(str(MediaError(f"{source}: {what}")), MediaWarning, stacklevel=2)


@contextmanager
def reading(
    source: object,
    what: str | Callable[[], str],
    expected: str,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
    """Around the calls of a library that opens or decodes `source`: whatever it raises is a MediaError.

    Damaged data make these libraries raise anything, from IndexError to MemoryError. So only their calls may stand
    inside, none of our own code, whose mistakes must stay visible. Around own code that reads a file: `errors=OSError`.

    Args:
        what: what is wrong with the source then, the library's reason is added; a function is called only then.
    """
    try:
        yield
    except MediaError:
        raise
    except errors as error:
        problem = what if isinstance(what, str) else what()
        raise MediaError.about(source, f"{problem} ({_reason(error)})", expected) from error


def each(items: Iterable[T], source: object, what: str | Callable[[], str], expected: str) -> Iterator[T]:
    """`items` of a library, made while it reads `source`. What is raised by the loop over them is not touched."""
    with reading(source, what, expected):
        yield from items


def _reason(error: Exception) -> str:
    """A library's error on one line."""
    if type(error).__name__ == "ExitError":  # PyAV's name for a time-out
        return "no answer in time"
    words = getattr(error, "strerror", None) or str(error)
    is_sentence = isinstance(error, OSError | ValueError | EOFError | SyntaxError | RuntimeError)
    if not words or (type(error).__module__ == "builtins" and not is_sentence):
        words = f"{type(error).__name__}: {words}"  # "list index out of range" alone says nothing
    return shorten(words, width=200)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source."""

    image: np.ndarray
    """uint8 (H, W, 3), RGB."""
    timestamp: float
    """Seconds from the source's first frame to the start of this frame's display."""
    index: int
    """Number of the frame in the source, counted from 0."""


class VideoReader(ABC):
    """Frames of one source, by index. Subclasses implement `_image`, and `_release` if they hold anything."""

    def __init__(
        self,
        name: str,
        timestamps: np.ndarray,
        *,
        fps: float,
        duration: float,
        size: tuple[int, int],
        start_offset: float = 0.0,
    ) -> None:
        self.name = name
        self.timestamps = timestamps
        """float64 (num_frames,), seconds, start of display; the first is 0.0."""
        self.fps = fps
        """Mean frames a second."""
        self.duration = duration
        """Seconds from the first frame's start to the last frame's end."""
        self.size = size
        """(W, H) in pixels of the frames that `read` gives."""
        self.start_offset = start_offset
        """Seconds: what the container calls the time of the first frame."""
        self._is_closed = False

    @property
    def num_frames(self) -> int:
        return len(self.timestamps)

    @property
    def ends(self) -> np.ndarray:
        """float64 (num_frames,), seconds, end of display."""
        return np.append(self.timestamps[1:], self.duration)

    def __len__(self) -> int:
        return self.num_frames

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames of `indices`, one at a time, in the order asked for.

        Ascending indices decode each frame at most once, and gaps are skipped by seeking. An index may be
        repeated. ValueError for an index outside the source, MediaError for a frame that cannot be decoded.
        """
        frame: Frame | None = None
        for index in indices:
            if self._is_closed:
                raise ValueError(f"{self.name}: frame {index} asked for, but the reader is closed")
            if not 0 <= index < self.num_frames:
                raise ValueError(f"{self.name}: frame {index} asked for, expected 0 <= index < {self.num_frames}")
            if frame is None or frame.index != index:
                frame = Frame(self._image(int(index)), float(self.timestamps[index]), int(index))
            yield frame

    def __iter__(self) -> Iterator[Frame]:
        return self.read(range(self.num_frames))

    @abstractmethod
    def _image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) of the valid frame number `index`."""

    def _release(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what the reader holds."""

    def close(self) -> None:
        """Free what the reader holds; it cannot be read afterwards."""
        self._is_closed = True
        self._release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def check_file(path: Path, expected: str) -> None:
    """MediaError unless `path` is a file with something in it."""
    with reading(path, "cannot be looked at", expected, errors=OSError):
        is_file, exists = path.is_file(), path.exists()
        is_empty = is_file and path.stat().st_size == 0
    if not is_file or is_empty:
        what = "is empty" if is_empty else "is not a file" if exists else "does not exist"
        raise MediaError.about(path, what, expected)


def check_size(size: tuple[int, int] | None) -> None:
    """ValueError unless `size` is None or a (width, height) in pixels."""
    if size is not None and (len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size)):
        raise ValueError(f"size must be (width, height) in pixels, both >= 1, got {size!r}")


def check_fps(fps: float, name: str = "fps") -> None:
    """ValueError unless `fps` is a finite number above 0."""
    if not math.isfinite(fps) or fps <= 0:
        raise ValueError(f"{name} must be a number > 0, got {fps!r}")
