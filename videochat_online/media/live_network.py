"""Sources outside this process: RTSP, HTTP, HLS and UDP through PyAV, camera devices through OpenCV.

A stream that was running and breaks off is opened again, with longer pauses from try to try; its clock runs on.
Addresses are opened as they are: who may name which is decided above (serve/addresses.py).
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from .container import open_container, to_the_end, video_stream
from .live import DISPLAY_FPS, LiveSource, RateLimit, fitting
from .source import Frame, MediaError, each, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CANNOT_BE_READ = "cannot be read"
A_STREAM = "a video stream that is running"
PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,srtp,tcp,udp,tls",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
    "udp": "udp,rtp",
}
"""Schemes of addresses, and the protocols that what stands behind one may use: never this machine's files."""
JUMP_SECONDS = 10.0
"""A stream whose own time jumps further than this, or back, has started again."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a stream. All in seconds."""

    open: float = 8.0
    read: float = 5.0
    """Without data for this long, a connection counts as broken; also the longest that `stop` takes."""
    first_pause: float = 0.5
    """Between the break and the first try; doubled with each try."""
    longest_pause: float = 4.0
    give_up: float = 300.0
    """Since the last frame."""


class ReconnectingSource(LiveSource):
    """Opens, reads, and opens again. It ends where the first try fails: the address is wrong, or nothing runs there."""

    is_finite = False
    """Whether what is read now has an end of its own, such as a file behind an address: that end is no break."""

    def __init__(self, name: str, *, timeouts: Timeouts | None = None) -> None:
        super().__init__(name)
        self.timeouts = timeouts or Timeouts()
        self._num = 0
        self._last: tuple[float, float] | None = None  # seconds of the newest frame, and when it came

    @abstractmethod
    def _connection(self) -> Iterator[Frame]:
        """Frames of one connection, their seconds counted on from `_now()`; ends where it breaks off.

        MediaError where it cannot be opened or breaks off with a reason.
        """

    def _now(self) -> float:
        """Seconds of the stream: 0 before the first frame; breaks count."""
        return 0.0 if self._last is None else self._last[0] + time.monotonic() - self._last[1]

    def frames(self) -> Iterator[Frame]:
        opened = time.monotonic()
        pause = self.timeouts.first_pause
        while not self.stopped.is_set():
            error = MediaError.about(self.name, "the stream broke off", "one that continues")
            try:
                for frame in self._connection():
                    self.state, self.problem, pause = "playing", None, self.timeouts.first_pause
                    self._last = frame.timestamp, time.monotonic()
                    yield frame
                if self.is_finite:
                    return
            except MediaError as problem:
                error = problem
            silence = time.monotonic() - (self._last[1] if self._last else opened)
            if self._last is None or self.is_finite or silence > self.timeouts.give_up:
                if self.stopped.is_set():
                    return
                raise error
            self.state, self.problem = "reconnecting", str(error)
            self.num_reconnects += 1
            self.stopped.wait(pause)
            pause = min(2 * pause, self.timeouts.longest_pause)


class NetworkStream(ReconnectingSource):
    """An RTSP, HTTP, HLS or UDP address through PyAV. ValueError for other schemes.

    What is fetched (HTTP, HLS) is shown in real time; what is sent (RTSP, UDP) as it comes.
    """

    def __init__(
        self,
        address: str,
        *,
        timeouts: Timeouts | None = None,
        options: dict[str, str] | None = None,
        download: Callable[[float], AbstractContextManager[Readable]] | None = None,
    ) -> None:
        """`options`: FFmpeg's, for the container, such as {"rtsp_transport": "udp"}.

        `download(seconds)`: opens the bytes behind the address instead of FFmpeg; its `read` waits no longer than that.
        """
        scheme = urlsplit(address).scheme.lower()
        if scheme not in PROTOCOLS:
            raise ValueError(f"{address}: expected an address of {', '.join(PROTOCOLS)}")
        super().__init__(without_password(address), timeouts=timeouts)
        self.address = address
        self.is_fetched = scheme in ("http", "https")
        self.options = {"protocol_whitelist": PROTOCOLS[scheme], "analyzeduration": "2000000"}
        if scheme.startswith("rtsp"):
            self.options["rtsp_transport"] = "tcp"
        self.options |= options or {}
        self._download = download

    def _connection(self) -> Iterator[Frame]:
        with ExitStack() as resources:
            container = self._open(resources)
            stream = video_stream(container, self.name, A_STREAM, num_threads=1)
            self.is_finite = bool(container.duration and container.duration > 0)
            yield from self._decode(container, stream)

    def _open(self, resources: ExitStack) -> InputContainer:
        place: Any = self.address
        if self._download is not None:
            with reading(self.name, CANNOT_BE_READ, A_STREAM, errors=OSError):
                body = resources.enter_context(self._download(self.timeouts.read))
            place = _UntilStopped(body, self.stopped)
        limits = (self.timeouts.open, self.timeouts.read)
        return resources.enter_context(
            open_container(place, self.name, CANNOT_BE_READ, A_STREAM, options=self.options, timeout=limits)
        )

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[Frame]:
        clock, shown = None, RateLimit(DISPLAY_FPS)
        for decoded in each(to_the_end(container.decode(stream)), self.name, CANNOT_BE_READ, A_STREAM):
            if self.stopped.is_set():
                return
            clock = clock or _StreamClock(self._now())
            seconds = clock.seconds_of(decoded.time)
            if self.is_fetched and self.stopped.wait(clock.early(seconds)):
                return
            if shown.passes(seconds):
                self._num += 1
                yield Frame(_rgb(decoded, self.name), seconds, self._num - 1)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _UntilStopped:
    """Bytes that end when the source is stopped, however slowly they come."""

    def __init__(self, file: Readable, stopped: threading.Event) -> None:
        self._file, self._stopped = file, stopped

    def read(self, size: int) -> bytes:
        return b"" if self._stopped.is_set() else self._file.read(size)


class _StreamClock:
    """A connection's own times -> seconds of the stream, which never go back."""

    def __init__(self, base: float) -> None:
        self._last = base
        self._origin: float | None = None  # the connection's time that is 0 s of the stream
        self._started: float | None = None  # real time of the same moment

    def seconds_of(self, moment: float | None) -> float:
        """`moment`: of the connection, seconds; frames without one count as shown with the one before."""
        if moment is None:
            return self._last
        if self._origin is None or not -0.5 <= moment - self._origin - self._last <= JUMP_SECONDS:
            self._origin = moment - self._last
            self._started = time.monotonic() - self._last
        self._last = max(self._last, moment - self._origin)
        return self._last

    def early(self, seconds: float) -> float:
        """How long until `seconds` are due in real time."""
        return 0.0 if self._started is None else max(0.0, self._started + seconds - time.monotonic())


def _rgb(frame: VideoFrame, name: str) -> Any:
    width, height = fitting((frame.width, frame.height))
    with reading(name, CANNOT_BE_READ, A_STREAM):
        return frame.reformat(width, height, "rgb24").to_ndarray()


class Camera(ReconnectingSource):
    """A camera device of this machine by its number, through OpenCV. ImportError where OpenCV is not installed."""

    def __init__(self, number: int = 0, *, timeouts: Timeouts | None = None) -> None:
        if number < 0:
            raise ValueError(f"cameras are numbered from 0, got {number}")
        super().__init__(f"camera {number}", timeouts=timeouts)
        self.number = number
        try:
            self._cv2: Any = import_module("cv2")
        except ImportError as error:
            raise ImportError("a camera device needs OpenCV: pip install opencv-python-headless") from error

    def _connection(self) -> Iterator[Frame]:
        device = self._cv2.VideoCapture(self.number)
        try:
            if not device.isOpened():
                raise MediaError.about(self.name, "cannot be opened", "a camera that no other program uses")
            started, shown = time.monotonic() - self._now(), RateLimit(DISPLAY_FPS)
            while not self.stopped.is_set():
                is_good, picture = device.read()
                if not is_good:
                    return
                seconds = time.monotonic() - started
                if shown.passes(seconds):
                    self._num += 1
                    yield Frame(picture[:, :, ::-1].copy(), seconds, self._num - 1)  # OpenCV gives BGR
        finally:
            device.release()


def without_password(address: str) -> str:
    """The address as it may be shown."""
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address
    return parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]).geturl()


def is_address(text: str) -> bool:
    """Whether this names a network stream, not a file."""
    return urlsplit(text).scheme.lower() in PROTOCOLS
