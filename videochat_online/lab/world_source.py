"""The generated world as a source that a visitor of the page or the server may watch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..media.live_playback import DrawnPlayback
from ..serve.sources import WatchedStream
from .shapeworld.labels import caption
from .shapeworld.render import render_frames
from .shapeworld.scenes import Scene
from .shapeworld.simulate import sample_stream

SCENE_SECONDS = 120.0
WORLD_SIZE = 224


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
