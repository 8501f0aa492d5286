"""Live streams as cameras and servers really behave, over real sockets of this machine.

What is checked: that the newest picture is shown at the right second, breaks, stalls and damage.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.media.conftest import picture_of
from tests.media.live_servers import (
    KINDS,
    MPEGTS,
    close_quickly,
    cuttable,
    http_server,
    watched,
)
from videochat_online.media.live_network import Timeouts

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


# ---- the newest picture, at its second --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["mp4", pytest.param("mpegts", marks=pytest.mark.slow), pytest.param("flv", marks=pytest.mark.slow)]
)
def test_breaks_move_no_clock_and_the_newest_picture_is_shown(kind, broadcast, number_in, wait_until):
    """Each connection begins with 3 s of old pictures and breaks off; the fourth stays."""
    shown, num = broadcast(age=4), [0]

    def answer(handler) -> None:
        num[0] += 1
        handler.begin()
        last = shown.now + 8 if num[0] < 4 else None
        shown.send(kind, handler.wfile.write, first=(shown.now - 30) // 5 * 5, last=last, options=KINDS[kind])

    with http_server(answer) as server, watched(server.address + "/live") as stream:
        stream.wait_for_frame(20)
        began = time.monotonic()
        wait_until(lambda: stream.source.num_reconnects == 3 and stream.source.state == "playing")
        received = stream.num_received
        wait_until(lambda: stream.num_received > received + 10)
        frame, wall = stream.latest, time.monotonic() - began
        assert shown.late(number_in(frame.image)) <= 0.7
        assert abs(frame.timestamp - wall) < 0.7, "the stream's time is real time, breaks included"
        assert stream.source.num_damaged == 0
        times = [frame.timestamp for frame in stream._waiting]
        assert times == sorted(times)
        close_quickly(stream)


@pytest.mark.parametrize("fps", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_pictures_without_a_clock_have_their_time_of_arrival(fps, broadcast, number_in, wait_until):
    """JPEG after JPEG: FFmpeg takes 25 a second for granted."""
    shown = broadcast(fps=fps)

    def answer(handler) -> None:
        handler.begin("multipart/x-mixed-replace; boundary=frame")
        for data in shown.jpegs():
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            handler.wfile.write(head + data + b"\r\n")

    with http_server(answer) as server, watched(server.address + "/video.cgi") as stream:
        first = stream.wait_for_frame(20)
        wait_until(lambda: stream.latest.timestamp >= 1.5)
        frame = stream.latest
        spoken = (number_in(frame.image) - number_in(first.image)) % 256 / fps
        assert abs(frame.timestamp - spoken) < 0.5 and shown.late(number_in(frame.image)) < 0.5


def test_jpegs_one_after_another_without_a_boundary(broadcast, number_in):
    shown = broadcast()

    def answer(handler) -> None:
        handler.begin("video/x-motion-jpeg")
        for data in shown.jpegs():
            handler.wfile.write(data)

    with http_server(answer) as server, watched(server.address + "/live") as stream:
        assert shown.late(number_in(stream.wait_for_frame(20).image)) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_picture_needs_less_than_a_second_of_the_stream(kind, broadcast):
    shown = broadcast(age=2)

    def answer(handler) -> None:
        handler.begin()
        shown.send(kind, handler.wfile.write, first=0, last=8, options=KINDS[kind])
        shown.is_over.wait(20)

    with http_server(answer) as server, watched(server.address + "/live") as stream:
        stream.wait_for_frame(20)
        shown.is_over.set()


def test_a_raw_stream_gives_all_its_pictures_as_they_come(shared, wait_until):
    data = (shared / "cases" / "media" / "raw.h264").read_bytes()

    def answer(handler) -> None:
        handler.begin("video/h264")
        for start in range(0, len(data), 128):
            handler.wfile.write(data[start : start + 128])
            time.sleep(0.03)

    with http_server(answer) as server, watched(server.address + "/raw.h264") as stream:
        wait_until(lambda: stream.source.num_reconnects or stream.is_over)
        frames = [frame for frame in stream._waiting if frame.index < 30]
        assert len(frames) == 30 and abs(int(frames[0].image[30, 30, 0]) - 219) < 8
        times = [frame.timestamp for frame in frames]
        assert times == sorted(times) and 0.4 < times[-1] < 5


UPRIGHT = {
    "rot90.mp4": ((192, 128, 3), [219, 29, 30], (slice(40, 60), slice(-60, -40))),
    "bt709_tv.mp4": ((128, 192, 3), [217, 28, 28], (slice(30, 50), slice(30, 50))),
    "hflip.mp4": ((128, 192, 3), [29, 198, 39], (slice(30, 50), slice(30, 50))),
    "zeromatrix.mp4": ((128, 192, 3), [219, 29, 30], (slice(30, 50), slice(30, 50))),
}


@pytest.mark.parametrize("name", UPRIGHT)
def test_colours_and_orientation_are_those_of_the_file(name, shared):
    data = (shared / "cases" / "media" / name).read_bytes()
    shape, color, place = UPRIGHT[name]
    with http_server(lambda handler: with_ranges(handler, data)) as server, watched(server.address + "/a") as stream:
        image = stream.wait_for_frame(20).image
        assert image.shape == shape
        assert np.abs(image[place].reshape(-1, 3).mean(axis=0) - color).max() <= 2.5


def with_ranges(handler, data: bytes) -> None:
    start = int(re.match(r"bytes=(\d+)-", handler.headers.get("Range", "bytes=0-")).group(1))
    where = f"bytes {start}-{len(data) - 1}/{len(data)}"
    handler.begin("video/mp4", len(data) - start, 206, Content_Range=where)
    handler.wfile.write(data[start:])


def test_a_file_whose_index_stands_at_its_end(tmp_path, write_clip, number_in):
    data = write_clip(tmp_path / "a.mp4", num_frames=12, fps=10, options={"qp": "4"}).read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    asked = []

    def answer(handler) -> None:
        asked.append(handler.headers["Range"])
        with_ranges(handler, data)

    with http_server(answer) as server, watched(server.address + "/a.mp4") as stream:
        assert [number_in(frame.image) for frame in stream] == list(range(12))
        assert stream.source.state == "over" and len(asked) < 5


# ---- what is alive, what is over ----------------------------------------------------------------------------------


def test_a_picture_that_stalls_while_its_sound_goes_on(broadcast, wait_until):
    shown = broadcast()

    def answer(handler) -> None:
        handler.begin()
        shown.send("mpegts", handler.wfile.write, last=shown.now + 10, sound=60, options=MPEGTS)

    timeouts = Timeouts(open=5, read=3, first_pause=0.1, give_up=30)
    with http_server(answer) as server, watched(server.address + "/live", timeouts=timeouts) as stream:
        stream.wait_for_frame(20)
        wait_until(lambda: stream.source.state == "stalled", 20)
        assert 2.0 < stream.source.age < 3.5 and "no new picture" in stream.source.trouble
        wait_until(lambda: stream.source.state == "reconnecting", 20)
        assert "no picture came for 3 s" in stream.source.problem
        close_quickly(stream)


def test_a_stream_that_changes_its_codec_is_opened_again(broadcast, wait_until):
    """FFmpeg keeps the first decoder; no key frame is found any more."""
    shown = broadcast(age=4)

    def answer(handler) -> None:
        handler.begin()
        if len(server.asked) == 1:
            shown.send("mpegts", handler.wfile.write, first=20, last=40, options=MPEGTS)
        shown.send("mpegts", handler.wfile.write, options=MPEGTS, codec="libx265")

    timeouts = Timeouts(open=5, read=1, first_pause=0.1)
    with http_server(answer) as server, watched(server.address + "/live", timeouts=timeouts) as stream:
        stream.wait_for_frame(20)
        wait_until(lambda: stream.source.num_reconnects == 1 and stream.source.state == "playing", 8)


def test_a_live_list_that_ends_shows_its_last_window_once(tmp_path, broadcast, number_in, wait_until):
    shown, body = broadcast(age=3), {}

    def answer(handler) -> None:
        data = body["list"].encode() if handler.path.endswith("m3u8") else body[handler.path]
        handler.begin("application/vnd.apple.mpegurl" if handler.path.endswith("m3u8") else "video/mp2t", len(data))
        handler.wfile.write(data)

    segments: list[str] = []

    def add_segment(number: int) -> None:
        data: list[bytes] = []
        shown.send("mpegts", data.append, first=10 * number, last=10 * number + 10, options=MPEGTS)
        body[f"/{number}.ts"] = b"".join(data)
        segments.append(f"#EXTINF:1,\n{number}.ts")
        head = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{max(0, number - 2)}"]
        body["list"] = "\n".join([*head, *segments[-3:]])

    for number in range(3):
        add_segment(number)
    with http_server(answer) as server, watched(server.address + "/a.m3u8") as stream:
        stream.wait_for_frame(20)
        late = []
        for number in range(3, 6):
            add_segment(number)
            wait_until(lambda near_end=10 * number + 6: number_in(stream.latest.image) >= near_end)
            late.append(shown.late(number_in(stream.latest.image)))
        body["list"] += "\n#EXT-X-ENDLIST\n"
        wait_until(lambda: stream.source.state == "over")
        numbers = [number_in(frame.image) for frame in stream]
    assert numbers[0] >= 20 and all(a < b for a, b in pairwise(numbers)), "from the newest segment on, each once"
    assert set(range(30, 60)) <= set(numbers)
    assert max(late) < 1.9, "no later than a segment and the list's period"
    assert stream.error is None and stream.source.num_damaged == 0


def test_a_stream_joined_between_key_frames(broadcast, number_in):
    """As multicast and IPTV are; the first picture is the next key frame's."""
    shown = broadcast(gop=10, age=3)

    def answer(handler) -> None:
        packets: list[bytes] = []
        shown.send("mpegts", packets.append, first=0, last=30, options=MPEGTS)
        whole = b"".join(packets)
        starts = [i for i in range(0, len(whole), 188) if whole[i + 1] & 0x5F == 0x41 and whole[i + 2] == 0]
        handler.begin()
        handler.wfile.write(whole[:376] + whole[starts[4] :])  # the tables, then from picture 4 on
        shown.is_over.wait(20)

    with http_server(answer) as server, watched(server.address + "/live") as stream:
        assert number_in(stream.wait_for_frame(20).image) == 10
        assert stream.source.num_damaged == 0, "what was never there is not lost"
        shown.is_over.set()


def test_after_a_loss_nothing_is_shown_until_the_next_key_frame(broadcast, free_port, number_in, wait_until):
    """One datagram of thirty is lost on its way."""
    shown, sent = broadcast(gop=10), []
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def lossy(data: bytes) -> None:
        for start in range(0, len(data), 188 * 2):
            sent.append(start)
            if len(sent) % 30 != 17 or len(sent) < 40:
                door.sendto(data[start : start + 188 * 2], ("127.0.0.1", free_port))

    sender = threading.Thread(target=shown.send, args=("mpegts", lossy), kwargs={"options": MPEGTS, "last": 50})
    with door, watched(f"udp://127.0.0.1:{free_port}", timeouts=Timeouts(open=5, read=1.5)) as stream:
        sender.start()
        stream.wait_for_frame(20)
        sender.join(30)
        wait_until(lambda: stream.source.state in ("stalled", "reconnecting"))
        frames = list(stream._waiting)
        assert stream.source.num_damaged > 3 and len(frames) > 15
    numbers = [number_in(frame.image) for frame in frames]
    assert all(a < b for a, b in pairwise(numbers))
    for frame, number in zip(frames, numbers, strict=True):
        error = np.abs(frame.image.astype(int) - picture_of(number)).mean()
        assert error < 14, f"picture {number} is damaged"
    for before, after in pairwise(numbers[3:]):  # the first came together, while the stream was opened
        assert after == before + 1 or after % 10 == 0, "a gap ends with a key frame"


# ---- SRT, RTSP ------------------------------------------------------------------------------------------------------


SRT_SERVER = """
import sys
from tests.media.live_servers import MPEGTS, Broadcast
import av, numpy
print("ready", flush=True)
with av.open(f"srt://127.0.0.1:{sys.argv[1]}?mode=listener", "w", format="mpegts") as out:
    video = out.add_stream("libx264", rate=10, options={"tune": "zerolatency", "g": "5"})
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    for number in Broadcast().numbers(0, 60):
        frame = av.VideoFrame.from_ndarray(numpy.full((48, 64, 3), 99, numpy.uint8), format="rgb24")
        frame.pts = number
        out.mux(video.encode(frame))
"""


def test_srt(free_port):
    """Where FFmpeg has it: both sides are its own. PyAV holds all threads while it waits for a viewer."""
    command = [sys.executable, "-c", SRT_SERVER, str(free_port)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            with watched(f"srt://127.0.0.1:{free_port}", timeouts=Timeouts(open=8, read=2)) as stream:
                assert abs(int(stream.wait_for_frame(20).image[20, 20, 0]) - 99) < 4
        finally:
            server.kill()


def test_five_rtsp_breaks_move_no_clock(rtsp_server, free_port, wait_until):
    rtsp_server(free_port, "red")
    with cuttable(free_port) as way, watched(f"rtsp://127.0.0.1:{way.port}/live") as stream:
        image = stream.wait_for_frame(20).image
        assert np.abs(image[60, 80].astype(int) - [254, 0, 0]).max() <= 3, "BT.709"
        began = time.monotonic()
        for number in range(5):
            received = stream.num_received
            wait_until(lambda received=received: stream.num_received > received + 3)
            way.cut()
            wait_until(lambda number=number: stream.source.num_reconnects > number)
        received = stream.num_received
        wait_until(lambda: stream.num_received > received + 10)
        assert abs(stream.latest.timestamp - (time.monotonic() - began)) < 0.7
        close_quickly(stream)


def test_a_camera_that_sends_over_udp_alone(rtsp_server, free_port):
    rtsp_server(free_port, "ball", "udp")
    with watched(f"rtsp://127.0.0.1:{free_port}/live", timeouts=Timeouts(open=5, read=2)) as stream:
        assert stream.wait_for_frame(20).image.shape == (120, 160, 3)
        close_quickly(stream)


@pytest.mark.slow
def test_an_announced_length_ends_rtsp_there_alone(rtsp_server, free_port, tmp_path, write_clip, wait_until):
    clip = write_clip(tmp_path / "a.mp4", num_frames=40, fps=10, b_frames=0)
    rtsp_server(free_port, str(clip))
    with cuttable(free_port) as way, watched(f"rtsp://127.0.0.1:{way.port}/live") as stream:
        wait_until(lambda: stream.num_received > 5)
        way.cut()
        wait_until(lambda: stream.source.num_reconnects == 1 and stream.source.state == "playing")
        wait_until(lambda: stream.source.state == "over")
        assert 40 < stream.num_received < 60 and stream.source.num_reconnects == 1
