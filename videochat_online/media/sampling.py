"""Which frames of a source to look at: pure functions from counts and times to frame indices.

Knows no files and no pixels. A frame's time is the start of its display; nothing here ever picks
a frame that starts after the moment asked about. A rate is met by taking every n-th frame,
n = the source's mean rate / the rate wanted, rounded half to even (as the released weights were trained).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Times = Sequence[float] | np.ndarray

BOUNDARY_SECONDS = 1e-6
"""The second a window opens at is off by float noise; a frame that starts this close to it starts at it."""


def sample_fps(num_frames: int, video_fps: float, fps: float, max_frames: int | None = None) -> list[int]:
    """Frames at the middles of the periods 1/fps of a whole video of constant rate `video_fps`.

    More than `max_frames` are thinned evenly. Frames repeat when `fps` exceeds `video_fps`;
    the list is empty when the video is shorter than half a period.

    >>> sample_fps(100, video_fps=10.0, fps=1.0, max_frames=4)
    [5, 35, 65, 95]
    """
    _check(num_frames=num_frames, video_fps=video_fps, fps=fps, max_frames=max_frames)
    period = 1 / fps
    middles = np.arange(period / 2, num_frames / video_fps + period / 2, period)
    indices = np.around(middles * video_fps).astype(int)
    return thin(indices[indices < num_frames].tolist(), max_frames)


def sample_uniform(num_frames: int, n: int) -> list[int]:
    """The middle frames of `n` equal parts of a video; every frame if it has fewer than `n`.

    >>> sample_uniform(100, 3)
    [16, 49, 82]
    """
    _check(num_frames=num_frames, n=n)
    edges = np.linspace(0, num_frames, min(n, num_frames) + 1).astype(int).tolist()
    return [(first + after - 1) // 2 for first, after in pairwise(edges)]


def sample_window(
    timestamps: Times,
    end: float,
    seconds: float,
    fps: float,
    max_frames: int | None = None,
    *,
    video_fps: float,
) -> list[int]:
    """The last `seconds` up to the moment `end`, at `fps`, ascending; what a question asked at `end` sees.

    The newest frame is the one on screen at `end`; the window reaches `seconds` back from that frame's start and
    takes in the frame then on screen. So it depends on nothing that comes after `end`, and past the end of the
    source it is the source's last window. Frames are counted back from the newest; more than `max_frames` are
    thinned evenly. Before the first frame there is nothing to see.
    `video_fps`: the source's mean rate.

    >>> sample_window([0.0, 0.5, 1.0, 1.5, 2.0], end=1.7, seconds=1.0, fps=1.0, video_fps=2.0)
    [1, 3]
    """
    times = _checked_times(timestamps)
    _check(fps=fps, max_frames=max_frames, video_fps=video_fps)
    if not (math.isfinite(end) and math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a window needs a finite end and seconds >= 0, got end={end!r}, seconds={seconds!r}")
    last = _on_screen(times, end)
    if last < 0 or max_frames == 1:
        return [last] if last >= 0 else []
    first = max(0, _on_screen(times, float(times[last]) - seconds + BOUNDARY_SECONDS))
    backwards = range(last, first - 1, -_step(fps, video_fps))
    return thin(list(reversed(backwards)), max_frames)


def sample_pass(
    timestamps: Times, fps: float, start: float = 0.0, end: float | None = None, *, video_fps: float
) -> list[int]:
    """One pass at `fps` over the frames that start within [start, end] seconds (to the last one without `end`).

    `video_fps`: the source's mean rate.

    >>> sample_pass([0.0, 0.5, 1.0, 1.5, 2.0], fps=1.0, start=0.5, video_fps=2.0)
    [1, 3]
    """
    times = _checked_times(timestamps)
    _check(fps=fps, video_fps=video_fps)
    if math.isnan(start) or (end is not None and math.isnan(end)):
        raise ValueError(f"start and end must be seconds, got start={start!r}, end={end!r}")
    first = int(np.searchsorted(times, start, side="left"))
    last = len(times) - 1 if end is None else _on_screen(times, end)
    return list(range(first, last + 1, _step(fps, video_fps)))


def _on_screen(times: np.ndarray, moment: float) -> int:
    """The last frame that starts no later than `moment`; -1 before the first."""
    return int(np.searchsorted(times, moment, side="right")) - 1


def _step(fps: float, video_fps: float) -> int:
    """Every how many frames make `fps`; rounded to 1e-6 first, so that float noise does not decide a half."""
    return max(1, round(round(video_fps / fps, 6)))


def thin(indices: list[int], max_frames: int | None) -> list[int]:
    """`max_frames` of these, evenly spread, the first and the last among them; all where they are no more."""
    if max_frames is None or len(indices) <= max_frames:
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, max_frames).astype(int)]


def _checked_times(timestamps: Times) -> np.ndarray:
    times = np.asarray(timestamps, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0 or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError(f"timestamps must be one or more finite, ascending seconds, got shape {times.shape}: {times}")
    return times


def _check(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and (not math.isfinite(value) or value <= 0):
            raise ValueError(f"{name} must be a number > 0, got {value!r}")
