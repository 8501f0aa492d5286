"""Sources outside this process: RTSP, HTTP, HLS, UDP, RTMP and SRT through PyAV, camera devices through OpenCV.

From an address to pictures with seconds. Breaks are reconnecting.py's, damage and clocks live_decoding.py's. Addresses
are opened as they are: who may name which is decided above (serve/limits.py).
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .addresses import PROTOCOLS, Address, without_password, without_secrets
from .container import open_container, video_stream
from .fetching import Body, fetch, relay
from .live import DISPLAY_FPS, STALLED_SECONDS, BurstLimit, RateLimit, fitting
from .live_decoding import FileClock, LiveClock, WholePictures, packets_of, whole_key_frames
from .picture import FrameConverter
from .reconnecting import Connection, Pictures, ReconnectingSource, Timeouts
from .source import MediaError, each, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

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
