"""Live sources over real sockets of this machine: HTTP, HLS, UDP, and an RTSP server that goes away and comes back."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.media.live_servers import MPEGTS, Broadcast, datagrams_to, http_server
from videochat_online.media.live import LiveStream
from videochat_online.media.live_network import NetworkStream, Timeouts
from videochat_online.media.source import MediaError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")
QUICK = Timeouts(open=5, read=1.5, first_pause=0.1, longest_pause=0.3, give_up=30)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """serve(folder) -> address; a server of files that gives no parts of them."""
    with contextlib.ExitStack() as running:

        def start(folder: Path) -> str:
            def answer(handler) -> None:
                path = folder / handler.path[1:]
                if not path.exists():
                    handler.begin("text/plain", 0, 404)
                    return
                handler.begin("application/octet-stream", path.stat().st_size)
                handler.wfile.write(path.read_bytes())

            return running.enter_context(http_server(answer)).address

        yield start


def test_a_file_over_http_plays_in_real_time_and_ends(tmp_path, write_clip, serve, number_in):
    write_clip(tmp_path / "a.mp4", num_frames=15, fps=10)
    started = time.monotonic()
    with LiveStream(NetworkStream(serve(tmp_path) + "/a.mp4"), fps=None, capacity=99) as stream:
        frames = list(stream)
        assert stream.source.num_reconnects == 0 and stream.source.state == "over"
    assert [number_in(f.image) for f in frames] == list(range(15))
    assert [round(f.timestamp, 3) for f in frames] == [k / 10 for k in range(15)]
    assert time.monotonic() - started >= 1.4


def test_an_hls_playlist(tmp_path, serve, number_in):
    """One that has an end."""
    data: list[bytes] = []
    Broadcast(age=100).send("mpegts", data.append, first=0, last=12, options=MPEGTS)
    (tmp_path / "0.ts").write_bytes(b"".join(data))
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n0.ts\n#EXT-X-ENDLIST\n")
    with LiveStream(NetworkStream(serve(tmp_path) + "/list.m3u8"), fps=None, capacity=99) as stream:
        assert [number_in(f.image) for f in stream] == list(range(12))


def test_a_playlist_cannot_name_this_machines_files(tmp_path, write_clip, serve):
    secret = write_clip(tmp_path / "secret.ts", num_frames=10)
    public = tmp_path / "public"
    public.mkdir()
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", f"file://{secret}", "#EXT-X-ENDLIST"]
    (public / "list.m3u8").write_text("\n".join(lines))
    with LiveStream(NetworkStream(serve(public) + "/list.m3u8", timeouts=QUICK)) as stream, pytest.raises(MediaError):
        stream.take(60)
    assert stream.num_received == 0


@pytest.mark.parametrize("path", ["missing.mp4", "page.html"])
def test_an_address_without_a_video_fails_at_once(path, tmp_path, serve):
    (tmp_path / "page.html").write_text("<html>no video</html>")
    started = time.monotonic()
    stream = LiveStream(NetworkStream(serve(tmp_path) + "/" + path, timeouts=QUICK))
    with stream, pytest.raises(MediaError, match=f"{path}: cannot be read"):
        stream.take(60)
    assert time.monotonic() - started < 30, "it does not try for minutes"


@pytest.mark.parametrize(
    ("address", "message"), [("rtsp://127.0.0.1:9/live", "Connection refused"), ("rtsp://a..b/live", "cannot be read")]
)
def test_nobody_listens_there(address, message):
    with LiveStream(NetworkStream(address, timeouts=QUICK)) as stream, pytest.raises(MediaError, match=message):
        stream.take(60)


def test_other_schemes_are_refused(tmp_path):
    for address in ("file:///etc/passwd", "concat:a|b", "/etc/passwd", "ftp://host/a", "tcp://127.0.0.1:5"):
        with pytest.raises(ValueError, match=r"expected an address such as .*rtsp, rtsps, http, https, udp"):
            NetworkStream(address)


def test_udp_and_closing_while_nothing_comes(free_port, wait_until):
    address = f"udp://127.0.0.1:{free_port}"
    stream = LiveStream(NetworkStream(address, timeouts=QUICK), fps=None, capacity=99)
    with stream, datagrams_to(free_port) as send:
        shown = Broadcast()
        sender = threading.Thread(target=shown.send, args=("mpegts", send), kwargs={"options": MPEGTS})
        sender.start()
        stream.wait_for_frame(60)
        shown.is_over.set()
        sender.join()
        wait_until(lambda: stream.source.state == "reconnecting")  # silence is a break
        started = time.monotonic()
    assert time.monotonic() - started < QUICK.read + QUICK.open
    assert stream.source.problem and stream.source.num_reconnects >= 1


@pytest.mark.slow
def test_an_rtsp_server_that_goes_away_and_comes_back(rtsp_server, free_port, wait_until):
    server: subprocess.Popen = rtsp_server(free_port)
    source = NetworkStream(f"rtsp://127.0.0.1:{free_port}/live", timeouts=QUICK)
    with LiveStream(source, fps=2, capacity=999) as stream:
        wait_until(lambda: stream.num_received > 20)
        server.kill()
        server.wait()
        wait_until(lambda: source.state == "reconnecting")
        received = stream.num_received
        assert "cannot be read" in source.problem or "broke off" in source.problem
        time.sleep(1.0)
        rtsp_server(free_port)
        wait_until(lambda: stream.num_received > received + 20)
        assert source.state == "playing" and source.problem is None and source.num_reconnects >= 1
    times = [frame.timestamp for frame in stream._waiting]
    assert times == sorted(times) and stream.num_dropped == 0
    assert max(b - a for a, b in pairwise(times)) >= 1.0, "the break is part of the time"
