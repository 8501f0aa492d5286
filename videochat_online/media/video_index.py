"""What there is to know about a video file before decoding it: the time of every frame, where decoding can start.

Built by walking the file's packets (PyAV); only the first frame is decoded, to see that it can be and which
way up it is. Both decoders share this index, so their frames have the same numbers and times.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .container_size import declared_size
from .source import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

A_VIDEO = "a video file"
NOT_VIDEO_FORMATS = ("tty", "_pipe", "image2")
"""FFmpeg draws text files as video and opens still images as one-frame videos; neither is meant here."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The frames of one video stream, in the order of display."""

    path: Path
    ticks: np.ndarray
    """int64 (num_frames,): start of display in units of `time_base`, ascending."""
    keyframes: np.ndarray
    """int64: numbers of the frames at which decoding can start, ascending; the first is 0."""
    time_base: Fraction
    """Seconds a tick."""
    fps: float
    """Mean frames a second."""
    duration: float
    """Seconds from the first frame's start to the last frame's end."""
    size: tuple[int, int]
    """(W, H) in pixels, upright."""
    rotation: int
    """Degrees to turn a decoded picture counter-clockwise to have it upright: 0, 90, 180 or 270."""
    has_times: bool
    """Whether decoded frames carry the times of `ticks`. If not, they are counted from the file's start."""

    @property
    def num_frames(self) -> int:
        return len(self.ticks)

    @property
    def start_offset(self) -> float:
        """Seconds: what the container calls the time of the first frame."""
        return float(int(self.ticks[0]) * self.time_base)

    @property
    def timestamps(self) -> np.ndarray:
        """float64 (num_frames,), seconds from the first frame's start."""
        # One product and one quotient of exact numbers: the nearest double, so 4.4 is 4.4 and not 4.4000001.
        ticks = (self.ticks - self.ticks[0]).astype(np.float64)
        return ticks * self.time_base.numerator / self.time_base.denominator


def index_video(path: Path) -> VideoIndex:
    """Index of the file's first video stream. MediaError for everything that is not a whole video file.

    1. Open the container and find its video stream. 2. Walk the packets: the time of every frame.
    3. See that the file is complete. 4. Decode the first frame.
    """
    container, stream = open_stream(path)
    with container:
        packets = _walk_packets(path, container, stream)
        _check_complete(path)
        has_times = packets.has_times and not (container.format.name == "avi" and stream.codec_context.has_b_frames)
        rate = stream.average_rate
        time_base = stream.time_base
    if not packets.has_ticks or time_base is None:  # a raw stream: frames only, at the rate it names
        time_base, packets = 1 / (rate or Fraction(25)), packets.counted()
    size, rotation = _first_frame(path)
    duration, fps = _duration_and_fps(packets, time_base, rate)
    return VideoIndex(path, packets.ticks, packets.keyframes, time_base, fps, duration, size, rotation, has_times)


def open_stream(path: Path, *, num_threads: int = 0) -> tuple[InputContainer, VideoStream]:
    """The opened container and its first video stream, ready to decode. MediaError where there is none."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video needs PyAV: pip install av") from error

    _check_file(path)
    try:
        # A file is only ever that file: playlists inside it cannot name others or the network.
        container = av.open(str(path), options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        what = f"not a video, or cut off before its index ({error.strerror})"
        raise MediaError.about(path, what, A_VIDEO) from error
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams or any(name in container.format.name for name in NOT_VIDEO_FORMATS):
        what = "has sound but no pictures" if container.streams.audio else "holds no video"
        container.close()
        raise MediaError.about(path, what, A_VIDEO)
    streams[0].thread_type = "AUTO"
    streams[0].codec_context.thread_count = num_threads
    return container, streams[0]


@dataclass(frozen=True, eq=False)
class _Packets:
    """The packets of a stream, one a frame, put in the order of display."""

    ticks: np.ndarray
    keyframes: np.ndarray
    last_ticks: int
    """How long the last frame is shown, in ticks; 0 if the file does not say."""
    has_ticks: bool
    has_times: bool

    def counted(self) -> _Packets:
        """The same frames, one tick apart."""
        return _Packets(np.arange(len(self.ticks)), np.zeros(1, dtype=np.int64), 1, False, False)


def _walk_packets(path: Path, container: InputContainer, stream: VideoStream) -> _Packets:
    from av.error import FFmpegError

    shown, sent, durations, keys = array("q"), array("q"), array("q"), array("b")
    num_packets, is_whole = 0, True
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            num_packets += 1
            is_whole = not packet.is_corrupt
            if packet.pts is not None:
                shown.append(packet.pts)
            if packet.dts is not None:
                sent.append(packet.dts)
            durations.append(packet.duration or 0)
            keys.append(packet.is_keyframe)
    except FFmpegError as error:
        raise MediaError.about(path, f"damaged after {num_packets} frames ({error.strerror})", A_VIDEO) from error
    if num_packets == 0:
        raise MediaError.about(path, "has zero frames", "a video with at least one")
    if not is_whole:
        raise MediaError.about(path, f"cut off within frame {num_packets - 1}", "a complete video file")
    has_pts, has_dts = len(shown) == num_packets, len(sent) == num_packets
    if not (has_pts or has_dts):
        return _Packets(np.arange(num_packets), np.zeros(1, dtype=np.int64), 1, False, False)
    ticks = np.frombuffer(shown if has_pts else sent, dtype=np.int64)
    return _in_display_order(ticks, np.frombuffer(durations, np.int64), np.frombuffer(keys, np.int8) > 0, has_pts)


def _in_display_order(ticks: np.ndarray, durations: np.ndarray, is_key: np.ndarray, has_pts: bool) -> _Packets:
    """Sorted by time; what would be shown before the first keyframe cannot be decoded and is left out."""
    if is_key.any():
        decodable = ticks >= ticks[is_key].min()
        ticks, durations, is_key = ticks[decodable], durations[decodable], is_key[decodable]
    order = np.argsort(ticks, kind="stable")
    ticks = ticks[order]
    keyframes = np.flatnonzero(is_key[order])
    if len(keyframes) == 0:
        keyframes = np.zeros(1, dtype=np.int64)
    has_times = has_pts and bool((np.diff(ticks) > 0).all())
    return _Packets(ticks, keyframes, int(durations[order[-1]]), True, has_times)


def _duration_and_fps(packets: _Packets, time_base: Fraction, rate: Fraction | None) -> tuple[float, float]:
    """Seconds, and frames a second: the container's exact rate where it fits the times, else measured."""
    num_frames, span = len(packets.ticks), int(packets.ticks[-1] - packets.ticks[0])
    last = Fraction(packets.last_ticks) or (Fraction(span, num_frames - 1) if num_frames > 1 else Fraction(0))
    duration = (span + last) * time_base or 1 / (rate or Fraction(25))
    measured = num_frames / duration
    fps = rate if rate and abs(rate / measured - 1) < 0.05 else measured
    return float(duration), float(fps)


def _first_frame(path: Path) -> tuple[tuple[int, int], int]:
    """Upright (W, H) and rotation of the first picture."""
    from av.error import FFmpegError

    container, stream = open_stream(path, num_threads=1)
    with container:
        try:
            frame = next(container.decode(stream), None)
        except FFmpegError as error:
            raise MediaError.about(path, f"frame 0 cannot be decoded ({error.strerror})", A_VIDEO) from error
        if frame is None:
            raise MediaError.about(path, "no frame can be decoded", A_VIDEO)
        rotation = round(frame.rotation / 90) * 90 % 360
        size = (frame.width, frame.height)
    return (size if rotation % 180 == 0 else (size[1], size[0])), rotation


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MediaError.about(path, "is not a file" if path.exists() else "does not exist", A_VIDEO)
    if path.stat().st_size == 0:
        raise MediaError.about(path, "is empty", A_VIDEO)


def _check_complete(path: Path) -> None:
    expected, actual = declared_size(path), path.stat().st_size
    if expected is not None and actual < expected:
        raise MediaError.about(path, f"is cut off at {actual:,} bytes", f"{expected:,} bytes by its own headers")
