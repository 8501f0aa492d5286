"""Scenes as mp4 files: H.264, constant frame rate, frame i shown at exactly i / fps seconds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files import whole
from .render import render_frames
from .scenes import Scene

CHUNK_FRAMES = 64


def video_times(seconds: float, fps: int) -> NDArray[np.float64]:
    """Start of display of every frame of a video of that length."""
    return np.arange(round(seconds * fps)) / fps


def write_mp4(path: str | Path, scene: Scene, *, fps: int = 8, size: int = 128) -> Path:
    """Render the whole scene to `path`; the file appears only when it is complete. `size` must be even."""
    import av

    if size % 2:
        raise ValueError(f"H.264 needs an even frame size, got {size}")
    if fps < 1:
        raise ValueError(f"fps must be at least 1, got {fps}")
    path = Path(path)
    with whole(path, durable=False) as beside, av.open(str(beside), "w", format="mp4") as container:
        options = {"crf": "20", "preset": "veryfast", "bf": "0", "g": str(4 * fps)}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1  # the same bytes each time
        times = video_times(scene.seconds, fps)
        for first in range(0, len(times), CHUNK_FRAMES):
            for offset, picture in enumerate(render_frames(scene, times[first : first + CHUNK_FRAMES], size)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = first + offset, Fraction(1, fps)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
