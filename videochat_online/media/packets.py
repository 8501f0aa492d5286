"""When each frame of a video stream is shown, from its packets alone: the file is read through, nothing is decoded.

Packets stand in the file in the order of decoding; here they are put in the order of display.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .container import to_the_end
from .source import MediaError, each

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

USUAL_RATE = Fraction(25)
"""Frames a second of a stream that says nothing about time (FFmpeg's own default)."""


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """The frames of a stream in the order of display."""

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


def frame_times(path: Path, container: InputContainer, stream: VideoStream) -> FrameTimes:
    """The times of all frames of `stream`. MediaError if there are none or the file breaks off."""
    packets = _walk(path, container, stream)
    num_packets = len(packets.is_key)
    has_pts, has_dts = len(packets.pts) == num_packets, len(packets.dts) == num_packets
    if stream.time_base is None or not (has_pts or has_dts):  # a raw stream: only the rate it names
        period = 1 / (stream.average_rate or USUAL_RATE)
        return FrameTimes(np.arange(num_packets), period, 1, np.zeros(1, dtype=np.int64), False, False)
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        has_pts = False  # AVI stores no display times, and what FFmpeg makes up for them can be out of order
    return _in_display_order(packets, stream.time_base, has_pts)


@dataclass(eq=False)
class _Packets:
    """One entry a packet, in the order of the file; packets without a time leave none."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    duration: array[int] = field(default_factory=lambda: array("q"))
    is_key: array[int] = field(default_factory=lambda: array("b"))


def _walk(path: Path, container: InputContainer, stream: VideoStream) -> _Packets:
    packets, is_whole = _Packets(), True

    def damage() -> str:
        return f"damaged after {len(packets.is_key)} frames"

    for packet in each(to_the_end(container.demux(stream)), path, damage, "a complete video file"):
        if packet.size == 0 or packet.is_discard:
            continue
        is_whole = not packet.is_corrupt
        if packet.pts is not None:
            packets.pts.append(packet.pts)
        if packet.dts is not None:
            packets.dts.append(packet.dts)
        packets.duration.append(packet.duration or 0)
        packets.is_key.append(packet.is_keyframe)
    if not packets.is_key:
        raise MediaError.about(path, "has zero frames", "a video with at least one")
    if not is_whole:
        raise MediaError.about(path, f"is cut off within frame {len(packets.is_key) - 1}", "a complete video file")
    return packets


def _in_display_order(packets: _Packets, time_base: Fraction, has_pts: bool) -> FrameTimes:
    """Sorted by time. What would be shown before the first keyframe cannot be decoded and is left out."""
    ticks = np.array(packets.pts if has_pts else packets.dts, dtype=np.int64)
    durations = np.array(packets.duration, dtype=np.int64)
    is_key = np.array(packets.is_key, dtype=bool)
    is_key[0] |= not is_key.any()
    latest_key = np.maximum.accumulate(np.where(is_key, np.arange(len(is_key)), -1))
    has_open_groups = bool((ticks < ticks[latest_key])[latest_key >= 0].any())
    decodable = np.flatnonzero(ticks >= ticks[is_key].min())
    order = decodable[np.argsort(ticks[decodable], kind="stable")]
    has_times = has_pts and bool((np.diff(ticks[order]) > 0).all())
    keyframes = np.flatnonzero(is_key[order])
    return FrameTimes(ticks[order], time_base, int(durations[order[-1]]), keyframes, has_times, has_open_groups)
