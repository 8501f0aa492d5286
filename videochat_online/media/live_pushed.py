"""Frames that somebody else sends: a browser's camera, a program with pictures of its own."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .image_source import to_rgb
from .live import LiveSource
from .source import Frame, MediaError


class PushedFrames(LiveSource):
    """`push()` from any thread; without a time of its own a frame is as old as the first one was pushed ago."""

    def __init__(self, name: str = "pushed frames") -> None:
        super().__init__(name)
        self._arrived: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._first: float | None = None
        self._last = -math.inf
        self._num = 0

    def push(self, image: np.ndarray | Image.Image, timestamp: float | None = None) -> float:
        """Take in a picture (PIL, or uint8 (H, W, 3)); returns its seconds. ValueError where time goes back."""
        picture = rgb_array(image)
        with self._lock:
            if self.stopped.is_set():
                raise ValueError(f"{self.name} has been stopped and takes no more frames")
            now = time.monotonic()
            self._first = now if self._first is None else self._first
            seconds = now - self._first if timestamp is None else float(timestamp)
            if not math.isfinite(seconds) or seconds < self._last:
                raise ValueError(f"{self.name}: a frame at {seconds} s came after one at {self._last} s")
            self._arrived.put(Frame(picture, seconds, self._num))
            self._last, self._num = seconds, self._num + 1
        return seconds

    def stop(self) -> None:
        super().stop()
        self._arrived.put(None)

    def frames(self) -> Iterator[Frame]:
        while (frame := self._arrived.get()) is not None:
            self.state = "playing"
            yield frame


def rgb_array(image: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 (H, W, 3); MediaError for anything else than a picture."""
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    is_rgb = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_rgb or 0 in image.shape:
        got = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise MediaError.about("a pushed frame", f"is {got}", "a PIL image or uint8 (H, W, 3)")
    return image
