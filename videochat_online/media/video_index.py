"""What there is to know about a video file before a frame is asked for: every frame's time, the size, which way is up.

The times come from the packets: the file is read through, and one frame is decoded. All decoders share this index, so
their frames have the same numbers and times.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .container import A_VIDEO, check_whole, open_stream, to_the_end
from .picture import Size, Steps, upright_size, upright_steps
from .source import MediaError, each, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

USUAL_RATE = Fraction(25)
"""Frames a second of a stream that says nothing about time (FFmpeg's own default)."""
NO_TIME = -(2**63)


@dataclass(frozen=True, eq=False)
class Timeline:
    """The frames of a stream in the order of display; in a file they stand in the order of decoding."""

    ticks: np.ndarray
    """int64 (num_frames,): start of display in units of `time_base`, ascending."""
    time_base: Fraction
    """Seconds a tick."""
    last_ticks: int
    """How long the last frame is shown, in ticks; 0 if the file does not say."""
    keyframes: np.ndarray
    """int64: numbers of the frames at which decoding can start, ascending; the first is 0."""
    has_times: bool
    """Whether decoded frames carry the times of `ticks`. If not, they are to be counted from the file's start."""
    has_open_groups: bool
    """Whether frames stored after a keyframe are shown before it, so that decoding which starts there loses them."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """One video stream of a file."""

    path: Path
    format: str
    """FFmpeg's name of the container, "mov,mp4,m4a,3gp,3g2,mj2" or "matroska,webm" for example."""
    num_streams: int
    """Video streams in the file; this is the index of the first that can be decoded."""
    times: Timeline
    fps: float
    """Mean frames a second."""
    duration: float
    """Seconds from the first frame's start to the last frame's end."""
    size: Size
    """(W, H) in pixels, upright, as stored: pixels may be wider than high."""
    upright: Steps
    """How the first picture is brought upright."""

    @property
    def start_offset(self) -> float:
        """Seconds: what the container calls the time of the first frame."""
        return float(int(self.times.ticks[0]) * self.times.time_base)

    @property
    def timestamps(self) -> np.ndarray:
        """float64 (num_frames,), seconds from the first frame's start to each frame's."""
        # One product and one quotient of exact numbers give the nearest double: 4.4, not 4.4000001.
        ticks = (self.times.ticks - self.times.ticks[0]).astype(np.float64)
        return ticks * self.times.time_base.numerator / self.times.time_base.denominator


def index_video(path: Path) -> VideoIndex:
    """Index of the file's first video stream. MediaError for everything that is not a whole video file."""
    # 1. open the container, find its video stream, see that the file is complete
    container, stream = open_stream(path)
    with container:
        check_whole(path)
        # 2. walk the packets: the time of every frame
        times = _in_display_order(_walk(path, container, stream), container, stream)
        duration, fps = _duration_and_fps(times, stream.average_rate)
        num_streams = len(container.streams.video)
    # 3. decode the first frame: only it says which way is up
    size, steps = _first_frame(path)
    return VideoIndex(path, container.format.name, num_streams, times, fps, duration, size, steps)


def _walk(path: Path, container: InputContainer, stream: VideoStream) -> np.ndarray:
    """int64 (num_packets, 4), in the order of the file: pts and dts (or NO_TIME), duration, whether a keyframe."""
    table, is_whole = array("q"), True

    def damage() -> str:
        return f"damaged after {len(table) // 4} frames"

    for packet in each(to_the_end(container.demux(stream)), path, damage, "a complete video file"):
        if packet.size == 0 or packet.is_discard:
            continue
        is_whole = not packet.is_corrupt
        pts = NO_TIME if packet.pts is None else packet.pts
        dts = NO_TIME if packet.dts is None else packet.dts
        table.extend((pts, dts, packet.duration or 0, packet.is_keyframe))
    if not table:
        raise MediaError.about(path, "has zero frames", "a video with at least one")
    if not is_whole:
        raise MediaError.about(path, f"is cut off within frame {len(table) // 4 - 1}", "a complete video file")
    return np.frombuffer(table, dtype=np.int64).reshape(-1, 4)


def _in_display_order(packets: np.ndarray, container: InputContainer, stream: VideoStream) -> Timeline:
    """Sorted by time. What would be shown before the first keyframe cannot be decoded and is left out."""
    pts, dts, durations, is_key = packets.T
    has_pts, has_dts = (packets[:, :2] != NO_TIME).all(axis=0)
    if stream.time_base is None or not (has_pts or has_dts):  # a raw stream: only the rate it names
        period = 1 / (stream.average_rate or USUAL_RATE)
        return Timeline(np.arange(len(packets)), period, 1, np.zeros(1, dtype=np.int64), False, False)
    if container.format.name == "avi" and stream.codec_context.has_b_frames and has_dts:
        has_pts = False  # AVI stores no display times, and what FFmpeg makes up for them can be out of order
    ticks, is_key = pts if has_pts else dts, is_key.astype(bool)
    is_key[0] |= not is_key.any()
    latest_key = np.maximum.accumulate(np.where(is_key, np.arange(len(is_key)), -1))
    has_open_groups = bool((ticks < ticks[latest_key])[latest_key >= 0].any())
    decodable = np.flatnonzero(ticks >= ticks[is_key].min())
    order = decodable[np.argsort(ticks[decodable], kind="stable")]
    has_times = bool(has_pts and (np.diff(ticks[order]) > 0).all())
    keyframes = np.flatnonzero(is_key[order])
    return Timeline(ticks[order], stream.time_base, int(durations[order[-1]]), keyframes, has_times, has_open_groups)


def _duration_and_fps(times: Timeline, rate: Fraction | None) -> tuple[float, float]:
    """Seconds, and frames a second: the container's exact rate where it fits the times, else measured."""
    num_frames, span = len(times.ticks), int(times.ticks[-1] - times.ticks[0])
    last = Fraction(times.last_ticks)
    if last == 0 and num_frames > 1:
        last = Fraction(span, num_frames - 1)
    duration = (span + last) * times.time_base or 1 / (rate or USUAL_RATE)
    measured = num_frames / duration
    fps = rate if rate and abs(rate / measured - 1) < 0.05 else measured
    return float(duration), float(fps)


def _first_frame(path: Path) -> tuple[Size, Steps]:
    """Upright (W, H) of the first picture, and how it is brought upright."""
    container, stream = open_stream(path, num_threads=1)
    with container:
        with reading(path, "frame 0 cannot be decoded", A_VIDEO):
            frame = next(container.decode(stream), None)
        if frame is None:
            raise MediaError.about(path, "no frame can be decoded", A_VIDEO)
    return upright_size(frame), upright_steps(frame)
