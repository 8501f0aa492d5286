"""Servers of live streams on this machine, for tests: one encoder whose pictures tell when they were made.

Picture k of a `Broadcast` shows the number k (conftest.picture_of) and is made k / FPS seconds after it began.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tests.media.conftest import picture_of
from videochat_online.media.live import LiveStream
from videochat_online.media.live_network import NetworkStream, Timeouts

FPS = 10
MPEGTS = {"mpegts_flags": "resend_headers"}
QUICK = Timeouts(open=5, read=3, first_pause=0.1, longest_pause=0.3, give_up=30)
FRAGMENTS = {"movflags": "empty_moov+frag_keyframe+default_base_moof"}
KINDS = {"mpegts": MPEGTS, "flv": {}, "mp4": FRAGMENTS}


class Writer:
    """What PyAV writes goes to `send` at once."""

    def __init__(self, send: Callable[[bytes], Any]) -> None:
        self.send = send

    def write(self, data: bytes) -> int:
        self.send(bytes(data))
        return len(data)


class Broadcast:
    """An encoder that runs in real time; every viewer gets a connection of its own, with a key frame first."""

    def __init__(self, *, fps: int = FPS, gop: int = 5, age: float = 0.0) -> None:
        """`age`: seconds ago that it began."""
        self.fps, self.gop = fps, gop
        self.began = time.monotonic() - age
        self.is_over = threading.Event()

    @property
    def now(self) -> int:
        """Number of the picture that is made now."""
        return int((time.monotonic() - self.began) * self.fps)

    def late(self, number: int) -> float:
        """Seconds since picture `number` (0 .. 255) was made."""
        return (self.now - number) % 256 / self.fps

    def numbers(self, first: int, last: int | None) -> Iterator[int]:
        """Numbers of pictures as they are made; those that were made before come at once."""
        number = first
        while (last is None or number < last) and not self.is_over.is_set():
            self.is_over.wait(max(0.0, self.began + number / self.fps - time.monotonic()))
            yield number
            number += 1

    def send(
        self,
        kind: str,
        write: Callable[[bytes], Any],
        *,
        first: int | None = None,
        last: int | None = None,
        options: dict[str, str] | None = None,
        sound: int = 0,
        codec: str = "libx264",
    ) -> None:
        """Pictures `first` (now) to `last` as `kind` (an FFmpeg format), then `sound` seconds of sound alone."""
        import av

        gone = contextlib.suppress(OSError, av.error.FFmpegError)  # the viewer has left
        options = {"flush_packets": "1"} | (options or {})
        with gone, av.open(Writer(write), "w", format=kind, options=options) as out:
            hevc = {"x265-params": f"keyint={self.gop}:log-level=none"} if codec == "libx265" else {}
            settings = {"tune": "zerolatency", "preset": "ultrafast"} | hevc
            video = out.add_stream(codec, rate=self.fps, options=settings)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.gop_size = self.gop
            voice = out.add_stream("mp2", rate=48000) if sound else None
            done = first = self.now if first is None else first
            for number in self.numbers(first, last):
                frame = av.VideoFrame.from_ndarray(picture_of(number % 256), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, self.fps)
                out.mux(video.encode(frame))
                if voice is not None:
                    self._speak(out, voice, number)
                done = number + 1
            for number in self.numbers(done, done + sound * self.fps):
                self._speak(out, voice, number)

    def _speak(self, out: Any, voice: Any, number: int) -> None:
        import av

        size = 48000 // self.fps
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * size, Fraction(1, 48000)
        out.mux(voice.encode(frame))

    def jpegs(self, last: int | None = None) -> Iterator[bytes]:
        for number in self.numbers(self.now, last):
            data = io.BytesIO()
            Image.fromarray(picture_of(number % 256)).save(data, "JPEG", quality=95)
            yield data.getvalue()


class Answering(BaseHTTPRequestHandler):
    """Answers as its server's `answer(handler)` says."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            self.server.answer(self)  # type: ignore[attr-defined]
        self.close_connection = True

    def begin(self, kind: str = "video/mp2t", length: int | None = None, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def http_server(answer: Callable[[Any], None]) -> Iterator[SimpleNamespace]:
    """`address` of a running server, and what it was `asked` for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    server.answer, server.asked = answer, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}", asked=server.asked)  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def tcp_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does `talk(connection)` with each client."""
    door = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            talk(client)

    def work() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=work, daemon=True).start()
    try:
        yield door.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
        door.close()


@contextlib.contextmanager
def datagrams_to(port: int) -> Iterator[Callable[[bytes], None]]:
    """send(data): MPEG-TS by UDP to a port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:

        def send(data: bytes) -> None:
            for start in range(0, len(data), 1316):
                door.sendto(data[start : start + 1316], ("127.0.0.1", port))

        yield send


@contextlib.contextmanager
def cuttable(port: int) -> Iterator[SimpleNamespace]:
    """`port` of a way to another port of this machine; `cut()` ends the connections that go over it."""
    open_ends: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        cut()

    def talk(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            open_ends.extend((client, server))
            threading.Thread(target=pump, args=(server, client), daemon=True).start()
            pump(client, server)

    def cut() -> None:
        for end in open_ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with tcp_server(talk) as way:
        yield SimpleNamespace(port=way, cut=cut)
        cut()


def watched(address: str, **settings) -> LiveStream:
    timeouts = settings.pop("timeouts", QUICK)
    return LiveStream(NetworkStream(address, timeouts=timeouts, **settings), fps=None, capacity=5000)


def close_quickly(stream: LiveStream) -> None:
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1.0
