"""What there is to know about a video file before a frame is asked for: every frame's time, and the size.

The times come from the packets: the file is read through, and one frame is decoded. Where packets look damaged, these
are decoded, too, and the index has the frames that come out, as FFmpeg's programs have. All decoders share this index,
so their frames have the same numbers and times.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .container import A_VIDEO, UNDAMAGED, decoded, in_order, open_stream, to_the_end
from .integrity import broken_at, damage_check, missing_bytes
from .picture import Size, upright_size
from .source import MediaError, check_file, each, reading, warn

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

USUAL_RATE = Fraction(25)
"""Frames a second of a stream that says nothing about time (FFmpeg's own default)."""
NO_TIME = -(2**63)
A_WHOLE_VIDEO = "a complete video file"
MAX_FRAMES = 24 * 3600 * 60
"""A day at 60 frames a second: the index takes 40 bytes a frame."""
BACK_SECONDS = (1.0, 0.1)
"""Time that goes back by more has jumped; by less, it is out of order, which is rare in transport streams."""
AHEAD_SECONDS = 10.0
TIME_MAY_LEAP = 0x200
"""FFmpeg's AVFMT_TS_DISCONT."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The frames of a stream in the order of display; in a file they stand in the order of decoding."""

    ticks: np.ndarray
    """int64 (num_frames,): start of display in units of `time_base`, ascending."""
    stamps: np.ndarray
    """int64 (num_frames,): the same as the file has it, where time may leap."""
    time_base: Fraction
    """Seconds a tick."""
    spans: np.ndarray
    """int64 (num_frames,): for how many ticks the file says that each frame is shown; 0 where it does not say."""
    keyframes: np.ndarray
    """int64: numbers of the frames at which decoding can start, ascending; the first is 0."""
    has_times: bool
    """Whether decoded frames carry `stamps`, ascending. If not, they are to be counted from the file's start."""
    has_open_groups: bool
    """Whether frames stored after a keyframe are shown before it, so that decoding which starts there loses them."""

    def number_of(self, pts: int | None) -> int | None:
        """The frame with this time; None where there is none. For timelines that have times."""
        number = 0 if pts is None else int(np.searchsorted(self.stamps, pts))
        return number if pts is not None and number < len(self.stamps) and self.stamps[number] == pts else None


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The video stream of a file: FFmpeg's best that can be decoded."""

    path: Path
    times: Timeline
    fps: float
    """Mean frames a second."""
    duration: float
    """Seconds from the first frame's start to the last frame's end."""
    size: Size
    """(W, H) in pixels, upright, as stored: pixels may be wider than high."""
    is_damaged: bool
    """Whether something is missing or damaged; what cannot be decoded is left out."""

    @property
    def start_offset(self) -> float:
        """Seconds: what the container calls the time of the first frame."""
        return float(int(self.times.ticks[0]) * self.times.time_base)

    @property
    def timestamps(self) -> np.ndarray:
        """float64 (num_frames,), seconds from the first frame's start to each frame's."""
        # One product and one quotient of exact numbers give the nearest double: 4.4, not 4.4000001.
        return self._seconds(self.times.ticks)

    @property
    def ends(self) -> np.ndarray:
        """float64 (num_frames,), seconds likewise: when the display of each frame ends, by what the file says of it."""
        said = self._seconds(self.times.ticks + self.times.spans)
        return np.where(self.times.spans > 0, said, np.append(self.timestamps[1:], self.duration))

    def _seconds(self, ticks: np.ndarray) -> np.ndarray:
        since = (ticks - self.times.ticks[0]).astype(np.float64)
        return since * self.times.time_base.numerator / self.times.time_base.denominator


def index_video(path: Path, *, strict: bool = False) -> VideoIndex:
    """Index of the file's video stream. MediaError for everything that is not a video file.

    Of a file that is damaged or cut off: what can be decoded, with one warning; MediaError where `strict`.
    """
    # 1. open the container, find its video stream
    check_file(path, A_VIDEO)
    problem = missing_bytes(path)
    container, stream = open_stream(path)
    with container:
        # 2. walk the packets: the time of every frame, and what looks damaged
        packets, problem, starts_hidden = _walk(path, container, stream, problem)
        times, suspects = _in_display_order(packets, container, stream, starts_hidden)
        rate, num_said = stream.average_rate, max(stream.frames, len(times.ticks))
    # 3. decode what looks damaged
    if len(suspects):
        times, lost = _without_lost(path, times, suspects)
        if len(lost):
            others = f", nor {len(lost) - 1} more" if len(lost) > 1 else ""
            problem = problem or f"frame {lost[0]} cannot be decoded{others}; expected {UNDAMAGED}"
    if problem and strict:
        raise MediaError(f"{path}: {problem}")
    # 4. decode the first frame: only it says which way is up
    size = upright_size(first_frame(path, skip_damage=not strict))
    duration, fps = _duration_and_fps(times, rate)
    if problem:
        warn(path, f"{problem}; {len(times.ticks)} of {num_said} frames are read, over {duration:.1f} s")
    return VideoIndex(path, times, fps, duration, size, is_damaged=bool(problem))


def _walk(
    path: Path, container: InputContainer, stream: VideoStream, problem: str | None
) -> tuple[np.ndarray, str | None, bool]:
    """int64 (num_packets, 5), in the order of the file; and what is wrong with it, where it ends too early.

    Columns: pts and dts (or NO_TIME), duration, whether a keyframe, whether it looks damaged. Last: whether decoding
    starts at a keyframe that is not shown, because the film was trimmed (by an edit list) behind it.
    """
    table, starts_hidden, looks_damaged = array("q"), False, damage_check(stream)

    def damage() -> str:
        return f"damaged after {len(table) // 5} frames"

    try:
        for packet in each(to_the_end(container.demux(stream)), path, damage, A_WHOLE_VIDEO):
            if packet.size == 0 or packet.is_discard:
                starts_hidden |= packet.is_discard and packet.is_keyframe and not table
                continue
            pts, dts = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
            is_suspect = packet.is_corrupt or looks_damaged(packet)
            table.extend((pts, dts, packet.duration or 0, packet.is_keyframe, is_suspect))
            if len(table) > 5 * MAX_FRAMES:
                raise MediaError.about(path, f"has more than {MAX_FRAMES:,} frames", "a shorter video")
            is_whole = not packet.is_corrupt
    except MediaError as error:
        if not table or len(table) > 5 * MAX_FRAMES:
            raise
        problem = problem or str(error).removeprefix(f"{path}: ")
    if not table:
        raise MediaError(f"{path}: {problem}") if problem else MediaError.about(path, "has zero frames", A_WHOLE_VIDEO)
    if not is_whole:
        problem = problem or f"is cut off within frame {len(table) // 5 - 1}; expected {A_WHOLE_VIDEO}"
    packets = np.frombuffer(table, dtype=np.int64).reshape(-1, 5).copy()
    gaps = _gaps(packets, container, stream)
    if problem is None and gaps.any():
        is_damage = gaps & np.logical_or(packets[:, 4], np.roll(packets[:, 4], -1))
        if (place := broken_at(path)) is not None:
            problem = f"is damaged at byte {place:,}; expected {UNDAMAGED}"
        elif is_damage[:-1].any():
            problem = f"is damaged behind frame {int(is_damage.argmax())}; expected {UNDAMAGED}"
    if problem:
        packets[-1, 4] = True
        packets[gaps, 4] = True
    return packets, problem, starts_hidden


def _gaps(packets: np.ndarray, container: InputContainer, stream: VideoStream) -> np.ndarray:
    """bool (num_packets,): behind which packets others may be lost: time passes there, or nobody knows how much."""
    times = np.where(packets[:, 1] == NO_TIME, packets[:, 0], packets[:, 1]).astype(np.float64)
    steps = np.diff(times, append=times[-1])
    usual = np.median(steps[:-1]) if len(steps) > 1 else 0
    gaps = (steps > 1.5 * usual) & (steps < AHEAD_SECONDS / (stream.time_base or 1))
    shown = float((times[-1] - times[0] + 3 * usual) * (stream.time_base or 0))
    gaps[-1] = container.duration is None or shown < container.duration / 1e6
    return gaps


def _in_display_order(
    packets: np.ndarray, container: InputContainer, stream: VideoStream, starts_hidden: bool
) -> tuple[Timeline, np.ndarray]:
    """Sorted by time, and int64: the numbers of the frames that look damaged, ascending.

    What would be shown before the first keyframe cannot be decoded and is left out.
    """
    pts, dts, durations, is_key, is_suspect = packets.T
    has_pts, has_dts = ((times != NO_TIME).all() for times in (pts, dts))
    if stream.time_base is None or not (has_pts or has_dts):  # a raw stream: only the rate it names
        period = 1 / (stream.guessed_rate or USUAL_RATE)
        numbers, spans = np.arange(len(packets)), np.ones(len(packets), dtype=np.int64)
        return Timeline(numbers, numbers, period, spans, numbers[:1], False, False), np.flatnonzero(is_suspect)
    if container.format.name == "avi" and stream.codec_context.has_b_frames and has_dts:
        has_pts = False  # AVI stores no display times, and what FFmpeg makes up for them can be out of order
    jumps = _jumps(dts, durations, stream.time_base, may_leap=bool(container.format.flags & TIME_MAY_LEAP))
    stamps, is_key = pts if has_pts else dts, is_key.astype(bool)
    ticks = stamps - np.cumsum(jumps)
    is_key[0] |= not is_key.any()
    latest_key = np.maximum.accumulate(np.where(is_key, np.arange(len(is_key)), -1))
    has_open_groups = bool((ticks < ticks[latest_key])[latest_key >= 0].any())
    decodable = np.flatnonzero((ticks >= ticks[is_key].min()) | starts_hidden)
    order = decodable[np.argsort(ticks[decodable], kind="stable")]
    has_times = bool(has_pts and (np.diff(stamps[order]) > 0).all())
    keyframes = np.union1d([0], np.flatnonzero(is_key[order]))
    times = Timeline(
        ticks[order], stamps[order], stream.time_base, durations[order], keyframes, has_times, has_open_groups
    )
    return times, np.flatnonzero(is_suspect[order])


def _jumps(dts: np.ndarray, durations: np.ndarray, time_base: Fraction, *, may_leap: bool) -> np.ndarray:
    """int64 (num_packets,): by how many ticks the time of each packet is off the end of the one before; mostly 0.

    As in FFmpeg's programs (ffmpeg_demux.c), time that goes back continues, and in transport streams and their like
    (`may_leap`) time that leaps forward as well: there a wrap of 33 bits looks like that.
    """
    off, known = np.zeros_like(dts), np.flatnonzero(dts != NO_TIME)  # Matroska's first ones are not known
    steps = np.diff(dts[known])
    usual = int(np.median(steps)) if len(steps) else 0
    off[known[1:]] = steps - np.where(durations > 0, durations, max(usual, 0))[known[:-1]]
    back, ahead = BACK_SECONDS[may_leap], AHEAD_SECONDS if may_leap else math.inf
    return np.where((off < -back / time_base) | (off > ahead / time_base), off, 0)


def _without_lost(path: Path, times: Timeline, suspects: np.ndarray) -> tuple[Timeline, np.ndarray]:
    """The timeline without the frames that do not come out of the decoder; and the numbers that these had.

    Decodes from the last sound keyframe before what looks damaged to the first one behind it.
    """
    num_frames = len(times.ticks)
    first, stop = 0, num_frames
    if times.has_times and not times.has_open_groups:
        sound = np.setdiff1d(times.keyframes, suspects)
        first = int(max(sound[sound < suspects[0]], default=0))
        stop = int(min(sound[sound > suspects[-1]], default=num_frames))
    found = _decoded_numbers(path, times, first, stop)
    if first > 0 and (not found or min(found) > first):  # the seek went too far
        first, found = 0, _decoded_numbers(path, times, 0, stop)
    lost = np.setdiff1d(np.arange(first, stop), found)
    kept = np.setdiff1d(np.arange(num_frames), lost)
    if len(kept) == 0:
        raise MediaError.about(path, "no frame can be decoded", A_VIDEO)
    keyframes = np.union1d([0], np.flatnonzero(np.isin(kept, times.keyframes)))
    spans = np.append(times.spans[kept[:-1]], times.spans[-1])
    return replace(times, ticks=times.ticks[kept], stamps=times.stamps[kept], spans=spans, keyframes=keyframes), lost


def _decoded_numbers(path: Path, times: Timeline, first: int, stop: int) -> list[int]:
    """Numbers of the frames that come out of the decoder from keyframe `first` on, below `stop`."""
    container, stream = open_stream(path, num_threads=1)
    numbers: list[int] = []
    with container:
        if first > 0:
            with reading(path, f"frame {first} cannot be reached", UNDAMAGED):
                container.seek(int(times.stamps[first]), stream=stream)
        frames = decoded(container, stream, path, "is damaged", skip_damage=True, has_sought=first > 0)
        for count, frame in enumerate(in_order(frames) if times.has_times else frames):
            number = times.number_of(frame.pts) if times.has_times else count
            if number is not None and number < stop:
                numbers.append(number)
            elif number is not None:
                break
    return numbers


def _duration_and_fps(times: Timeline, rate: Fraction | None) -> tuple[float, float]:
    """Seconds, and frames a second: the container's exact rate where it fits the times, else measured."""
    num_frames, span = len(times.ticks), int(times.ticks[-1] - times.ticks[0])
    last = Fraction(int(times.spans[-1]))
    if last == 0 and num_frames > 1:
        last = Fraction(span, num_frames - 1)
    duration = (span + last) * times.time_base or 1 / (rate or USUAL_RATE)
    measured = num_frames / duration
    fps = rate if rate and abs(rate / measured - 1) < 0.05 else measured
    return float(duration), float(fps)


def first_frame(path: Path, *, skip_damage: bool = False) -> VideoFrame:
    """The first picture that can be decoded, or must be where damage is not skipped. MediaError where there is none."""
    container, stream = open_stream(path, num_threads=1)
    with container:
        frame = next(decoded(container, stream, path, "frame 0 cannot be decoded", skip_damage=skip_damage), None)
    if frame is None:
        raise MediaError.about(path, "no frame can be decoded", A_VIDEO)
    return frame
