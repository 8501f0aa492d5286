"""Frames as a short video file, for models that take nothing else. Knows no benchmark.

The files lie in a temporary folder that goes with the process; only the newest are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import count
from pathlib import Path

import av
import numpy as np

from .visuals import Clip

CLIPS_KEPT = 256
ENCODING = {"crf": "10", "preset": "veryfast"}
"""With full colour resolution: about one step of a byte away from the frames."""


class ClipFolder:
    """A temporary folder that holds the newest `kept` clips."""

    def __init__(self, kept: int = CLIPS_KEPT) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ovbench_clips_")
        self._numbers, self._paths, self.kept = count(), list[Path](), kept

    def new_path(self) -> Path:
        """A path that is free, after removing the oldest clip where there are too many."""
        self._paths.append(Path(self._folder.name) / f"{next(self._numbers):06d}.mp4")
        while len(self._paths) > self.kept:
            self._paths.pop(0).unlink(missing_ok=True)
        return self._paths[-1]


@cache
def clip_folder() -> ClipFolder:
    """This process's folder, made when the first clip is written."""
    return ClipFolder()


def write_clip(clip: Clip, folder: ClipFolder | None = None) -> Path:
    """An mp4 file of the clip's frames at their mean rate."""
    path = (folder or clip_folder()).new_path()
    rate = _rate(clip.timestamps)
    width, height = clip.frames[0].size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=ENCODING)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"  # odd sizes are allowed
        for image in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


def _rate(timestamps: Sequence[float]) -> Fraction:
    """Frames per second, about."""
    span = timestamps[-1] - timestamps[0]
    rate = (len(timestamps) - 1) / span if span > 0 else 1.0
    return Fraction(rate).limit_denominator(1000)
