"""The generated world as a source that a visitor of the page or the server may watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count

import numpy as np

from ..media.live import DISPLAY_FPS
from ..media.live_playback import Playback
from ..media.source import Frame
from ..serve.sources import WatchedStream
from .shapeworld.labels import caption
from .shapeworld.render import render_frames
from .shapeworld.scenes import Scene
from .shapeworld.simulate import sample_stream

SCENE_SECONDS = 120.0
WORLD_SIZE = 224


class DrawnPlayback(Playback):
    """Pictures drawn by `picture_at(seconds) -> uint8 (H, W, 3)`, in real time; it has no end."""

    def __init__(self, name: str, picture_at: Callable[[float], np.ndarray], *, speed: float = 1.0) -> None:
        super().__init__(name, speed=speed)
        self._picture_at = picture_at

    def frames(self) -> Iterator[Frame]:
        for number in count():
            timestamp = number / DISPLAY_FPS
            image = self._picture_at(timestamp)
            if number == 0:
                self._begin(0.0)
            if not self._wait_until(timestamp):
                return
            yield Frame(image, timestamp, number)


def open_world(seed: int = 0, level: int = 2) -> WatchedStream:
    """One scene after another, made while it runs. ValueError for a bad seed or level."""

    @lru_cache(maxsize=2)
    def scene(number: int) -> Scene:
        return sample_stream(seed + number, "test", level, SCENE_SECONDS, pace=1.5)

    def place(seconds: float) -> tuple[Scene, float]:
        number = int(seconds // SCENE_SECONDS)
        return scene(number), seconds - number * SCENE_SECONDS

    def picture_at(seconds: float) -> np.ndarray:
        current, moment = place(seconds)
        return render_frames(current, [moment], WORLD_SIZE)[0]

    def truth(seconds: float) -> str:
        return caption(*place(seconds))

    def start(_: float = 0.0) -> DrawnPlayback:
        return DrawnPlayback(f"ShapeWorld, seed {seed}, level {level}", picture_at)

    scene(0)  # a bad seed or level fails now
    return WatchedStream(start(), start, truth)
