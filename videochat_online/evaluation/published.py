"""Which frames OVBench's published scripts show and which times they print, to the frame: for published numbers only.

A frame of a file is known by the END of its display, in single precision; one of a folder by its start. The frame on
screen is later than the question by its printed time, and the last question of a video sees the whole clip.
Knows no model and no benchmark. Checked against recordings of the scripts: tests/golden/eval_frames.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..media.image_source import ImageListReader
from ..media.sampling import thin
from .videos import OpenVideo


def known_times(video: OpenVideo) -> np.ndarray:
    """(num_frames,) float64 seconds by which the scripts know each frame, and which they print, ascending."""
    if isinstance(video.reader, ImageListReader):
        return video.timestamps
    return _single(video.reader.ends + (video.timestamps[0] - video.reader.timestamps[0]))  # a part begins later


def printed_times(video: OpenVideo, indices: Sequence[int]) -> list[float]:
    """The known times of these frames rounded to a tenth, in the precision they have."""
    times = known_times(video)[list(indices)]
    if isinstance(video.reader, ImageListReader):
        return [round(second, 1) for second in times.tolist()]
    return times.astype(np.float32).round(1).astype(np.float64).round(1).tolist()  # 2.1, not 2.0999999


def published_window(
    video: OpenVideo, moment: float, *, start: float, seconds: float, fps: float, max_frames: int | None
) -> list[int]:
    """What the sliding window shows: counted back from the frame that is on screen at `moment`.

    It reaches to the first frame not before the window's opening (where there is none, to the video's first), never
    before `start`.
    """
    times, is_folder = known_times(video), isinstance(video.reader, ImageListReader)
    starts = video.timestamps if is_folder else _single(video.timestamps)
    last = int(np.searchsorted(starts, moment, side="right")) - 1
    first = int(np.searchsorted(times, max(start, moment - seconds))) % len(times)
    step = max(1, round(round(video.reader.fps / fps, 6)))
    return thin(list(reversed(range(last, first - 1, -step))), max_frames)


def published_pass(video: OpenVideo, *, start: float, end: float, fps: float, multi_turn: bool) -> list[int]:
    """The frames of a clip that a streaming script shows: the first not before `start` to the last not after `end`.

    Every how many of the file's frames: the rates' quotient rounded (half to even); for folders, and in the script that
    keeps the dialogue, the quotient of whole numbers.
    """
    times, rate = known_times(video), video.reader.fps
    whole = multi_turn or isinstance(video.reader, ImageListReader)
    step = int(int(rate) // fps) if whole else round(round(rate / fps, 6))
    return list(range(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")), max(1, step)))


def _single(seconds: np.ndarray) -> np.ndarray:
    """As decord gives them: single precision, compared in double."""
    return seconds.astype(np.float32).astype(np.float64)
