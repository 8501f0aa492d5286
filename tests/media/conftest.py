"""Clips for the media tests: pictures that show their own number, written with PyAV where no recorded file will do."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

BLOCK_WIDTH, BLOCK_HEIGHT = 16, 24  # 4 x 2 blocks make 8 bits, the lowest top left


def picture_of(number: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (height, width, 3): `number` (0 .. 255) in binary, on a ground that moves from frame to frame."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([(x + number) % 64, (y + 2 * number) % 64, (x + y) % 64], axis=-1).astype(np.uint8)
    for bit in range(8):
        top, left = bit // 4 * BLOCK_HEIGHT, bit % 4 * BLOCK_WIDTH
        if number >> bit & 1:
            picture[top : top + BLOCK_HEIGHT, left : left + BLOCK_WIDTH] += 180
    return picture


@pytest.fixture(scope="session")
def number_in() -> Callable[[np.ndarray], int]:
    """Reads the number back from a (48, 64, 3) picture, the recorded clips' as well."""

    def read(picture: np.ndarray) -> int:
        blocks = picture.reshape(2, BLOCK_HEIGHT, 4, BLOCK_WIDTH, 3).mean(axis=(1, 3, 4)) > 128
        return sum(1 << bit for bit, is_set in enumerate(blocks.flat) if is_set)

    return read


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """write_clip(path, num_frames=..., ...) -> path."""

    def write(
        path: Path,
        *,
        num_frames: int = 60,
        fps: int = 25,
        codec: str = "libx264",
        gop: int = 20,
        b_frames: int = 2,
        size: tuple[int, int] = (64, 48),
        options: dict[str, str] | None = None,
        colorspace: int | None = None,
        pix_fmt: str = "yuv420p",
        faststart: bool = False,
    ) -> Path:
        import av

        with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
            stream = container.add_stream(codec, rate=fps)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
            stream.options = {"b-adapt": "0", "sc_threshold": "0"} if codec == "libx264" else {}
            stream.options |= options or {}
            if colorspace is not None:
                stream.codec_context.colorspace = colorspace
            for number in range(num_frames):
                picture = picture_of(number, width=size[0], height=size[1])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(params=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest) -> str:
    """Each decoder in turn."""
    if request.param == "decord":
        request.getfixturevalue("need_decord")
    return request.param


@pytest.fixture(scope="session")
def need_decord() -> None:
    """Skips without decord. Does not import it: loaded before PyAV, its libvpx takes the place of PyAV's own."""
    if importlib.util.find_spec("decord") is None:
        pytest.skip("needs decord: pip install decord (Linux x86-64)")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def rtsp_server() -> Iterator[Callable[..., subprocess.Popen]]:
    """rtsp_server(port, what, ...) -> running process: see rtsp_server.py. Skips without GStreamer's."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run(["/usr/bin/python3", "-c", check], capture_output=True, check=False).returncode:
        pytest.skip("needs Debian's gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-rtsp gstreamer1.0-plugins-ugly")
    running = []

    def start(port: int, *what: str) -> subprocess.Popen:
        command = ["/usr/bin/python3", str(Path(__file__).parent / "rtsp_server.py"), str(port), *what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def broadcast() -> Iterator[Callable]:
    """broadcast(fps=..., gop=...) -> a running Broadcast."""
    from tests.media.live_servers import Broadcast  # which needs this file's pictures

    running = []

    def start(**settings) -> Broadcast:
        running.append(Broadcast(**settings))
        return running[-1]

    yield start
    for one in running:
        one.is_over.set()
