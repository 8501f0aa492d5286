"""From the packets of one connection to whole pictures, and from their times to seconds of the stream.

Knows neither addresses nor breaks. After a loss no picture passes before the next key frame: what is in between looks
like a picture and is none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .container import to_the_end

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MOST_FAILURES = 20
"""Unreadable places in a row after which a connection is broken."""
KEY_SECONDS = 10.0
"""Some encoders mark no key frames: after this long without one, decoding starts where it can."""
MOST_BAD_KEYS = 4
"""Where so many key frames in a row are marked as damaged, the decoder's marks say nothing."""
JUMP_SECONDS = 10.0
"""A file whose own time jumps further than this, or back, continues from where it was."""
BACK_SECONDS = 0.5
"""A stream whose own time goes back further than this has started again."""
DRIFT = 1e-3
"""Seconds a second by which a sender's clock may run slower than ours."""


def packets_of(container: InputContainer) -> Iterator[Packet]:
    """Packets of all streams, over unreadable places, so that the caller sees that something comes."""
    from av.error import InvalidDataError

    num_failures = 0
    while True:
        try:
            for packet in to_the_end(container.demux()):
                num_failures = 0
                yield packet
            return
        except InvalidDataError:
            num_failures += 1
            if num_failures > MOST_FAILURES:
                raise


def whole_key_frames(packets: Iterator[Packet], stream: VideoStream) -> Iterator[Packet]:
    """The packets, where those that hold parts of one key frame are put together.

    Some RTSP servers end a packet behind each part of it; decoded alone, each is a damaged picture.
    """
    from av.packet import Packet as NewPacket

    held: Packet | None = None
    for packet in packets:
        if held is not None:
            is_part = packet.stream is held.stream and packet.is_keyframe and held.pts in (None, packet.pts)
            if is_part:
                joined = NewPacket(bytes(held) + bytes(packet))
                joined.pts, joined.dts, joined.time_base = packet.pts, packet.dts, packet.time_base
                joined.stream, joined.is_keyframe = packet.stream, True
                held = joined
                continue
            yield held
            held = None
        if packet.is_keyframe and packet.stream.index == stream.index and packet.size:
            held = packet
        else:
            yield packet
    if held is not None:
        yield held


class WholePictures:
    """Decodes the packets of a video stream, and holds back what a loss has damaged."""

    def __init__(self, stream: VideoStream, *, trusts_marks: bool) -> None:
        """`trusts_marks`: packets that are marked as damaged are.

        In HLS and in files that were joined the mark only says that counting starts over.
        """
        self.num_damaged = 0
        """Pictures held back, those aside that came before the first key frame."""
        self.key_gap = math.inf
        """Seconds between key frames, the longest so far; inf before the second."""
        self._stream, self._trusts_marks = stream, trusts_marks
        self._waits_since: float | None = time.monotonic()
        self._counts = False
        self._key_time = self._newest_key = -math.inf
        self._num_bad_keys = 0

    @property
    def waits_for_key(self) -> bool:
        return self._waits_since is not None

    def skip_to_key(self) -> None:
        """Start again at the next key frame; what is passed over is no damage."""
        self._counts = False
        self._wait()

    def decode(self, packet: Packet) -> list[VideoFrame]:
        """The whole pictures that come out of the decoder now."""
        is_end = packet.size == 0
        moment = -math.inf if packet.pts is None else float(packet.pts * packet.time_base)
        if packet.is_keyframe and moment > self._newest_key:
            gap, self._newest_key = moment - self._newest_key, moment
            self.key_gap = gap if math.isinf(self.key_gap) else max(gap, self.key_gap)
        if self._trusts_marks and packet.is_corrupt:
            self._lose()
            return []
        if self._waits_since is not None:
            is_start = packet.is_keyframe or time.monotonic() - self._waits_since > KEY_SECONDS
            if is_end or not is_start:
                self.num_damaged += self._counts and not is_end
                return []
            self._waits_since, self._counts = None, True
            self._key_time = moment
        try:
            decoded: list[Any] = packet.decode()
        except Exception:  # damaged data make libraries raise anything; it is counted
            self._lose()
            return []
        whole = []
        for frame in decoded:
            if frame.time is not None and frame.time < self._key_time:
                continue  # shown before the key frame, and made from what came before it
            if frame.is_corrupt and self._num_bad_keys < MOST_BAD_KEYS:
                self._num_bad_keys += frame.key_frame
                self._lose()
                break
            self._num_bad_keys = self._num_bad_keys if frame.is_corrupt else 0
            whole.append(frame)
        return whole

    def _lose(self) -> None:
        self.num_damaged += 1
        self._wait()

    def _wait(self) -> None:
        self._waits_since = time.monotonic()
        self._stream.codec_context.flush_buffers()


class FileClock:
    """Times of a file -> seconds since its first picture. Time continues where the file's jumps."""

    def __init__(self) -> None:
        self._origin: float | None = None
        self._seconds = self._step = 0.0

    def seconds_of(self, moment: float | None, now: float) -> float:
        """`moment`: the picture's own time; one without is shown with the one before. `now` does not matter."""
        if moment is None:
            return self._seconds
        self._origin = moment if self._origin is None else self._origin
        if not -BACK_SECONDS <= moment - self._origin - self._seconds <= JUMP_SECONDS:
            self._origin = moment - self._seconds - self._step
        seconds = moment - self._origin
        if seconds > self._seconds:
            self._step, self._seconds = seconds - self._seconds, seconds
        return self._seconds


class LiveClock:
    """Times of a live connection -> seconds of the stream, which never go back and never run ahead of real time.

    One offset for the connection, measured at the live edge: at the picture that came soonest after its own time. So
    the old pictures that many servers send at once, to begin with, do not move the clock, nor does a slow network.
    """

    def __init__(self) -> None:
        self._offset = math.inf
        self._moment = -math.inf
        self._seconds = 0.0

    def seconds_of(self, moment: float | None, now: float) -> float:
        """`moment`: the picture's own time; one without is shown when it comes, at `now` (seconds of the stream)."""
        if moment is None:
            self._seconds = max(self._seconds, now)
            return self._seconds
        if moment < self._moment - BACK_SECONDS:
            self._offset = math.inf
        drift = DRIFT * max(0.0, moment - self._moment) if math.isfinite(self._moment) else 0.0
        self._offset = min(self._offset + drift, now - moment)
        self._moment = moment
        self._seconds = max(self._seconds, moment + self._offset)
        return self._seconds
