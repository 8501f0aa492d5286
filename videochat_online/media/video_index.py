"""What there is to know about a video file before reading it: the time of every frame, its size, which way is up.

Both decoders share this index, so their frames have the same numbers and times. Uses PyAV; decodes one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .container import open_container, video_stream
from .container_size import declared_size
from .packets import USUAL_RATE, FrameTimes, frame_times
from .source import MediaError, check_file, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

A_VIDEO = "a video file"
NOT_VIDEO_FORMATS = ("tty", "_pipe", "image2")
"""FFmpeg draws text files as video and opens still images as one-frame videos; neither is meant here."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """One video stream of a file."""

    path: Path
    format: str
    """FFmpeg's name of the container, "mov,mp4,m4a,3gp,3g2,mj2" or "matroska,webm" for example."""
    times: FrameTimes
    fps: float
    """Mean frames a second."""
    duration: float
    """Seconds from the first frame's start to the last frame's end."""
    size: tuple[int, int]
    """(W, H) in pixels, upright."""
    rotation: int
    """Degrees to turn a decoded picture counter-clockwise to have it upright: 0, 90, 180 or 270."""

    @property
    def num_frames(self) -> int:
        return len(self.times.ticks)

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
    """Index of the file's first video stream. MediaError for everything that is not a whole video file.

    1. Open the container and find its video stream. 2. See that the file is complete.
    3. Walk the packets: the time of every frame. 4. Decode the first frame.
    """
    container, stream = open_stream(path)
    with container:
        _check_complete(path)
        times = frame_times(path, container, stream)
        duration, fps = _duration_and_fps(times, stream.average_rate)
    size, rotation = _first_frame(path)
    return VideoIndex(path, container.format.name, times, fps, duration, size, rotation)


def open_stream(path: Path, *, num_threads: int = 0) -> tuple[InputContainer, VideoStream]:
    """The opened container and its first video stream, ready to decode. MediaError where there is none."""
    check_file(path, A_VIDEO)
    # A playlist may name other files, not the network.
    options = {"protocol_whitelist": "file"}
    container = open_container(str(path), path, "is not a video, or cut off before its index", A_VIDEO, options=options)
    try:
        if any(name in container.format.name for name in NOT_VIDEO_FORMATS):
            raise MediaError.about(path, "holds no video", A_VIDEO)
        return container, video_stream(container, path, A_VIDEO, num_threads=num_threads)
    except MediaError:
        container.close()
        raise


def _check_complete(path: Path) -> None:
    with reading(path, "cannot be read", A_VIDEO, errors=OSError):
        expected, actual = declared_size(path), path.stat().st_size
    if expected is not None and actual < expected:
        raise MediaError.about(path, f"is cut off at {actual:,} bytes", f"{expected:,} bytes by its own headers")


def _duration_and_fps(times: FrameTimes, rate: Fraction | None) -> tuple[float, float]:
    """Seconds, and frames a second: the container's exact rate where it fits the times, else measured."""
    num_frames, span = len(times.ticks), int(times.ticks[-1] - times.ticks[0])
    last = Fraction(times.last_ticks)
    if last == 0 and num_frames > 1:
        last = Fraction(span, num_frames - 1)
    duration = (span + last) * times.time_base or 1 / (rate or USUAL_RATE)
    measured = num_frames / duration
    fps = rate if rate and abs(rate / measured - 1) < 0.05 else measured
    return float(duration), float(fps)


def _first_frame(path: Path) -> tuple[tuple[int, int], int]:
    """Upright (W, H) and rotation of the first picture."""
    container, stream = open_stream(path, num_threads=1)
    with container:
        with reading(path, "frame 0 cannot be decoded", A_VIDEO):
            frame = next(container.decode(stream), None)
        if frame is None:
            raise MediaError.about(path, "no frame can be decoded", A_VIDEO)
        rotation = round(frame.rotation / 90) * 90 % 360
        size = (frame.width, frame.height)
    return (size if rotation % 180 == 0 else (size[1], size[0])), rotation
