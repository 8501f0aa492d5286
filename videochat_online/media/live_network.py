"""Sources outside this process: RTSP, HTTP, HLS, UDP, RTMP and SRT through PyAV, camera devices through OpenCV.

From an address to pictures with seconds; damage and clocks are live_decoding.py's. Addresses are opened as they are:
who may name which is decided above (serve/limits.py).

Each connection is read in a thread of its own, and opened again when it breaks off. It is alive while pictures come;
bytes, sound and the promises of a library do not count. One that hangs is left behind: nobody waits for it, it frees
what it holds when its call returns, and no other is opened before that.
"""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from .addresses import PROTOCOLS, Address, without_password, without_secrets
from .container import open_container, video_stream
from .fetching import Body, Sockets, fetch, relay
from .live import DISPLAY_FPS, STALLED_SECONDS, BurstLimit, LiveSource, LiveStream, RateLimit, fitting
from .live_decoding import FileClock, LiveClock, WholePictures, packets_of, whole_key_frames
from .picture import FrameConverter
from .source import Frame, MediaError, each, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

TimedPicture = tuple[np.ndarray, float]
"""uint8 (H, W, 3) RGB, and its seconds of the stream."""
Pictures = Generator[TimedPicture, None, None]
CAPACITY = 64
"""Pictures of a connection that may wait; they are taken at once, but a stream without times may begin with many."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a stream. All in seconds."""

    open: float = 8.0
    read: float = 5.0
    """Without a picture for this long, a connection counts as broken."""
    key: float = 15.0
    """... while only pictures come that cannot be decoded before the next key frame."""
    first_pause: float = 0.5
    """Between the break and the first try; doubled with each try."""
    longest_pause: float = 4.0
    give_up: float = 300.0
    """Since the last frame."""


class Connection(LiveSource):
    """One connection: `pictures(connection)` opens it, and gives what it reads."""

    def __init__(self, name: str, pictures: Callable[[Connection], Pictures], patience: float) -> None:
        super().__init__(name)
        self.has_end = False
        """Whether what is read has an end of its own, such as a file behind an address: that end is no break."""
        self.sockets = Sockets()
        """They end with the connection, and with them the calls in which its thread may hang."""
        self._pictures = pictures
        self.expect(patience)

    def expect(self, seconds: float, *, since: float | None = None) -> None:
        """The next picture comes within `seconds` of `since` (now), or the connection is broken."""
        self.patience = seconds
        self.until = (time.monotonic() if since is None else since) + seconds

    def frames(self) -> Iterator[Frame]:
        with closing(self._pictures(self)) as pictures:  # closed in this thread: it frees what it holds
            for number, picture in enumerate(pictures):
                yield Frame(*picture, number)

    def stop(self) -> None:
        super().stop()
        self.sockets.close()

    def close(self) -> None:
        self.sockets.close()


class ReconnectingSource(LiveSource):
    """Opens, reads, and opens again. It ends where the first try fails: the address is wrong, or nothing runs there."""

    def __init__(self, name: str, *, timeouts: Timeouts | None = None) -> None:
        super().__init__(name)
        self.timeouts = timeouts or Timeouts()
        self._num = 0
        self._began: float | None = None
        self._last_came: float | None = None
        self._reader: LiveStream | None = None

    @abstractmethod
    def _pictures(self, connection: Connection) -> Pictures:
        """Pictures of one connection, their seconds counted on from `_now()`; ends where it breaks off.

        Runs in the connection's thread. MediaError where it cannot be opened or breaks off with a reason.
        """

    def _now(self) -> float:
        """Seconds of the stream: real time since its first picture, 0 before it."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return now - self._began

    def frames(self) -> Iterator[Frame]:
        pause = self.timeouts.first_pause
        while not self.stopped.is_set():
            error = MediaError.about(self.name, "the stream broke off", "one that continues")
            connection = Connection(self.name, self._pictures, self.timeouts.open)
            reader = self._reader = LiveStream(connection, fps=None, capacity=CAPACITY)
            try:
                if self.stopped.is_set():  # `stop` may not have seen this connection
                    return
                reader.start()
                while (frame := self._next(reader, connection)) is not None:
                    self.state, self.problem, pause = "playing", None, self.timeouts.first_pause
                    self._last_came = time.monotonic()
                    self._num += 1
                    yield replace(frame, index=self._num - 1)
                if connection.has_end:
                    return
            except MediaError as problem:
                error = problem
            finally:
                reader.leave()
            if self.stopped.is_set():
                return
            if self._last_came is None or connection.has_end:
                raise error
            self.state, self.problem = "reconnecting", str(error)
            self.num_reconnects += 1
            self.stopped.wait(pause)
            pause = min(2 * pause, self.timeouts.longest_pause)
            while True:  # a device or port is free only when the thread that read it has ended
                if time.monotonic() - self._last_came > self.timeouts.give_up:
                    raise error
                if reader.has_ended or self.stopped.wait(0.1):
                    break

    def _next(self, reader: LiveStream, connection: Connection) -> Frame | None:
        """The next frame; None at the end, or when it was left. MediaError where it breaks off."""
        while (frame := reader.take(max(0.0, connection.until - time.monotonic()))) is None:
            if reader.is_over or connection.stopped.is_set():
                return reader.take(0)
            if time.monotonic() >= connection.until:
                what = f"no picture came for {connection.patience:g} s"
                raise MediaError.about(self.name, what, "a stream whose pictures keep coming")
        return frame

    def stop(self) -> None:
        super().stop()
        if (reader := self._reader) is not None:
            reader.leave()

    def close(self) -> None:
        """Gives the connection's thread a moment to end; one that hangs in a library ends when its call returns."""
        if (reader := self._reader) is not None:
            reader.close()


CANNOT_BE_READ = "cannot be read"
A_STREAM = "a video stream that is running"
SEEN_SOON = {"analyzeduration": "2000000", "fpsprobesize": "0"}
"""FFmpeg options: open as soon as codec and size are known; else it reads 20 frames to guess the frame rate."""
FEW_BYTES = {"probesize": "32"}
"""... after the first packet, where it is known what comes."""
RTSP = {"rtsp_transport": "udp+tcp", "rtsp_flags": "prefer_tcp", "allowed_media_types": "video", **FEW_BYTES}
UDP = {"overrun_nonfatal": "1", "reuse": "1"}
"""The port may be held for some seconds by a connection that was left."""
FLV = {"analyzeduration": "500000"}
"""FFmpeg always waits that long for further streams."""
OPTIONS = {"rtsp": RTSP, "rtsps": RTSP, "udp": UDP, "rtmp": FLV, "rtmps": FLV}
PINNED = {
    "format_whitelist": "rtsp,rtp,sdp,mov,mp4,matroska,webm,mpegts,flv,live_flv,avi,mpjpeg,mjpeg,h264,hevc",
    "rtsp_transport": "tcp",
}
"""For addresses that are pinned to one place: formats that name no further addresses, and one connection."""
AV_TIME_BASE = 1_000_000
PLAYLIST = "#EXTM3U"
NEWEST_SEGMENT = {"live_start_index": "-1"}
HLS_SEGMENT = 6.0
"""Seconds, where the playlist does not say."""
NO_TIMES = 0x80
"""AVFMT_NOTIMESTAMPS: a container without a clock, such as JPEGs one after another."""
BURST_SECONDS = 5.0
"""Of pictures without times that may come at once, all to be shown."""
JITTER_SECONDS = 0.05
"""How much too early a picture with a time may be, and still be shown."""
HURRY_SECONDS = 2.0
"""A stream that has not been waited for so long comes faster than it is decoded."""
BLOCKED_SECONDS = 0.002
"""A packet that took longer was waited for."""
END_SECONDS = 1.5
"""How far from the end that was announced a recording may end."""
RTSP_PORTS = {"rtsp": 554, "rtsps": 322}


class NetworkStream(ReconnectingSource):
    """An RTSP, HTTP, HLS, UDP, RTMP or SRT address through PyAV. ValueError for other schemes.

    What has an end (a file behind http) is shown in real time; everything else as soon as it comes.
    """

    def __init__(self, address: str, *, timeouts: Timeouts | None = None, place: str | None = None) -> None:
        """`place`: the only IP address to connect to; then neither redirects nor playlists are followed.

        Where it is not http or rtsp, the address itself must name the place.
        """
        super().__init__(without_password(address), timeouts=timeouts)
        self.address, self.place = address, place
        self._asked = Address.checked(address)
        self._was_live = False
        self._segment = HLS_SEGMENT

    def _pictures(self, connection: Connection) -> Pictures:
        try:
            with ExitStack() as resources:
                container, stream = self._open(connection, resources)
                if self._was_live and connection.has_end:
                    return  # what ran live has ended; what is there now is its recording
                yield from self._read(connection, container, stream)
        except MediaError as error:  # a library's words may repeat the address
            raise MediaError(without_secrets(str(error), self.address)) from None

    # ---- opening --------------------------------------------------------------------------------------------------

    def _open(self, connection: Connection, resources: ExitStack) -> tuple[InputContainer, VideoStream]:
        """The container and its video stream; says of the connection whether what it reads has an end."""
        # 1. what we fetch ourselves, FFmpeg reads from us; the rest it fetches by itself
        with reading(self.name, CANNOT_BE_READ, A_STREAM, errors=(OSError, UnicodeError)):
            place, body = self._connect(connection, resources)
        kind = None if body is None else body.raw_kind()
        # 2. the container and its video
        options = {"protocol_whitelist": PROTOCOLS[self._asked.scheme]} | SEEN_SOON | NEWEST_SEGMENT
        options |= OPTIONS.get(self._asked.scheme, {}) | (FEW_BYTES if kind else {})
        options |= FLV if body is not None and body.head().startswith(b"FLV") else {}
        options |= PINNED if self.place else {}
        limits = (self.timeouts.open, self.timeouts.read)
        container = resources.enter_context(
            open_container(place, self.name, CANNOT_BE_READ, A_STREAM, options=options, timeout=limits, kind=kind)
        )
        stream = video_stream(container, self.name, A_STREAM, num_threads=1)
        # 3. is it a file? FFmpeg announces a length for fragments of a live stream, too
        is_announced = bool(container.duration and container.duration > 0)
        if body is not None:
            connection.has_end = body.has_end or (is_announced and b"mvex" not in body.beginning)
        else:
            connection.has_end = is_announced and _is_hls(container)
        return container, stream

    def _connect(self, connection: Connection, resources: ExitStack) -> tuple[Any, Body | None]:
        """What FFmpeg opens: an address, or what it reads from our own connection, with the body behind that."""
        asked, sockets = self._asked, connection.sockets
        if asked.scheme in RTSP_PORTS:  # by way of a relay, which ends with the connection
            parts = urlsplit(asked.url)
            server = (self.place or parts.hostname or "", parts.port or RTSP_PORTS[asked.scheme])
            is_secure, is_checked = asked.scheme == "rtsps", self.place is not None
            seconds = self.timeouts.open
            port = relay(*server, sockets, is_secure=is_secure, is_checked=is_checked, seconds=seconds)
            return asked.at("127.0.0.1", port=port, scheme="rtsp"), None
        if asked.scheme not in ("http", "https"):
            return asked.url, None
        body = fetch(asked, sockets, place=self.place, seconds=self.timeouts.read)
        resources.callback(body.close)
        if not self._is_playlist(body):
            return body, body
        body.close()
        return asked.url if asked.login else body.address, None

    def _is_playlist(self, body: Body) -> bool:
        """Whether this names other addresses; MediaError for one that must not, and for a web page."""
        head = body.head()
        text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
        if text[:14].lower().startswith(("<!doctype html", "<html")) or body.kind == "text/html":
            raise MediaError.about(self.name, f"{CANNOT_BE_READ} (it is a web page)", A_STREAM)
        if not text.startswith(PLAYLIST):
            return False
        if self.place is not None:
            what = f"{CANNOT_BE_READ} (it is a playlist, which names other addresses)"
            raise MediaError.about(self.name, what, "the address of the stream itself")
        for line in (line.strip() for line in text.splitlines() if not line.startswith("#")):
            scheme = re.match(r"\w+(?=:)", line)
            if scheme and scheme.group().lower() not in ("http", "https"):
                what = f"{CANNOT_BE_READ} (it is a playlist that names {scheme.group()}:)"
                raise MediaError.about(self.name, what, "a playlist of http addresses")
        target = re.search(r"#EXT-X-TARGETDURATION:(\d+)", text)
        self._segment = min(60.0, float(target.group(1)) if target else HLS_SEGMENT)
        return True

    # ---- reading --------------------------------------------------------------------------------------------------

    def _read(self, connection: Connection, container: InputContainer, stream: VideoStream) -> Pictures:
        is_live, is_sent = not connection.has_end, self._asked.scheme not in ("http", "https")
        show = _Show(container, stream, is_live=is_live, is_sent=is_sent, name=self.name)
        segment = self._segment if is_live and _is_hls(container) else 0.0
        self.stalled_after = STALLED_SECONDS + segment
        patience = max(self.timeouts.read, 3 * segment)
        damaged_before = self.num_damaged
        connection.expect(patience)
        asked = waited = last = time.monotonic()
        packets = packets_of(container)
        if self._asked.scheme in RTSP_PORTS:
            packets = whole_key_frames(packets, stream)
        for packet in each(packets, self.name, CANNOT_BE_READ, A_STREAM):
            came = time.monotonic()
            if connection.stopped.is_set():
                return
            if packet.stream.index != stream.index:  # sound is no sign of life
                asked = came
                continue
            # 1. the pictures that come out of the decoder; those of a file wait until they are due
            for frame in show.whole.decode(packet):
                last = time.monotonic()
                seconds, early = show.due(frame, self._now())
                self.fresh_until = last + early
                connection.expect(patience, since=last + early)
                if early and connection.stopped.wait(early):
                    return
                if show.limit.passes(seconds):
                    yield show.to_rgb(frame), seconds
                self._was_live = self._was_live or not show.is_paced
                connection.has_end = show.has_end
            # 2. what a loss cost, and whether the next key frame is on its way
            self.num_damaged = damaged_before + show.whole.num_damaged
            if show.whole.waits_for_key and came - last < min(self.timeouts.key, 2 * show.whole.key_gap):
                connection.expect(patience)
            # 3. a live stream that comes faster than it is decoded: the next key frame is newer
            waited = came if came - asked > BLOCKED_SECONDS else waited
            if not show.is_paced and came - waited > HURRY_SECONDS:
                show.whole.skip_to_key()
                waited = came
            asked = time.monotonic()
        if connection.has_end and not show.num_frames:
            raise MediaError.about(self.name, "holds no picture that can be decoded", A_STREAM)


def _is_hls(container: InputContainer) -> bool:
    return container.format.name.startswith("hls")


class _Show:
    """How the pictures of one connection are shown: in real time where it is a file with times, else as they come."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, *, is_live: bool, is_sent: bool, name: str
    ) -> None:
        self._has_times = not container.format.flags & NO_TIMES
        self.has_end = not is_live
        self.is_paced = self.has_end and self._has_times
        self.whole = WholePictures(stream, trusts_marks=is_live and not _is_hls(container))
        self.limit: RateLimit | BurstLimit = RateLimit(DISPLAY_FPS)
        if not self.is_paced:  # arrival is uneven
            self.limit = BurstLimit(DISPLAY_FPS, JITTER_SECONDS if self._has_times else BURST_SECONDS)
        self.to_rgb = FrameConverter(name, fitting)
        self.num_frames = 0
        self._clock = FileClock() if self.is_paced else LiveClock()
        # What is sent may announce an end, and be a recording; or announce one and be none.
        self._end = container.duration / AV_TIME_BASE if is_sent and container.duration else None
        self._began: float | None = None

    def due(self, frame: VideoFrame, now: float) -> tuple[float, float]:
        """The frame's seconds of the stream, and in how many seconds it is to be shown; `now` is of the stream."""
        moment = frame.time if self._has_times else None
        self.num_frames += 1
        if self._end is not None and moment is not None:
            self._began = moment if self._began is None else self._began
            self.has_end = abs(moment - self._began - self._end) < END_SECONDS
        seconds = self._clock.seconds_of(moment, now)
        return seconds, max(0.0, seconds - now) if self.is_paced else 0.0


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

    def _pictures(self, connection: Connection) -> Pictures:
        device = self._cv2.VideoCapture(self.number)
        try:
            if not device.isOpened():
                raise MediaError.about(self.name, "cannot be opened", "a camera that no other program uses")
            shown = RateLimit(DISPLAY_FPS)
            while not connection.stopped.is_set():
                connection.expect(self.timeouts.read)
                with reading(self.name, CANNOT_BE_READ, "a camera that works"):
                    is_good, picture = device.read()
                if not is_good:
                    return
                seconds = self._now()
                if shown.passes(seconds):
                    yield picture[:, :, ::-1].copy(), seconds  # OpenCV gives BGR
        finally:
            device.release()
