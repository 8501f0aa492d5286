"""Live sources: real time, the queue that drops the oldest, pushed frames, cameras; nothing is left running."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from videochat_online.lab.world_source import DrawnPlayback
from videochat_online.media import live_network
from videochat_online.media.live import LiveSource, LiveStream, PushedFrames, RateLimit, fitting
from videochat_online.media.live_network import Camera, Timeouts
from videochat_online.media.live_playback import VideoPlayback
from videochat_online.media.source import Frame, MediaError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture(scope="module")
def clip(tmp_path_factory, write_clip) -> Path:
    """4 seconds at 10 fps; frame i shows the number i."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", num_frames=40, fps=10)


class Burst(LiveSource):
    """Gives frames at once; goes on when `more` is set."""

    def __init__(self, num: int, *, fps: float = 10.0, fail: Exception | None = None):
        super().__init__("burst")
        self.num, self.fps, self.fail = num, fps, fail

    def frames(self):
        for k in range(self.num):
            yield Frame(np.full((4, 4, 3), k, np.uint8), k / self.fps, k)
        if self.fail:
            raise self.fail


def numbers(stream: LiveStream) -> list[int]:
    return [frame.index for frame in stream]


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_the_oldest_frames_are_dropped_and_counted(wait_until):
    with LiveStream(Burst(20), fps=None, capacity=3) as stream:
        wait_until(lambda: stream.num_received == 20)
        assert numbers(stream) == [17, 18, 19]
        assert stream.num_dropped == 17 and stream.is_over


def test_only_frames_that_are_due_are_handed_on():
    with LiveStream(Burst(20), fps=2, capacity=99) as stream:
        assert numbers(stream) == [0, 5, 10, 15]
        assert stream.num_dropped == 0 and stream.latest.index == 19


def test_a_source_faster_than_asked_for_never_doubles_a_period():
    thin = RateLimit(2)
    assert [t for t in (0, 0.1, 0.49, 0.5, 0.51, 2.2, 2.4, 2.5, 1.0) if thin.passes(t)] == [0, 0.5, 2.2, 2.5, 1.0]


def test_an_error_comes_after_the_last_frame():
    with LiveStream(Burst(2, fail=MediaError("broken")), fps=None) as stream:
        assert stream.take().index == 0 and stream.take().index == 1
        with pytest.raises(MediaError, match="broken"):
            stream.take()
        assert stream.source.problem == "broken" and stream.source.state == "over"


def test_waiting_for_frames_has_an_end():
    with LiveStream(PushedFrames()) as stream:
        started = time.monotonic()
        assert stream.take(timeout=0.05) is None and not stream.is_over
        with pytest.raises(MediaError, match=r"no frame came within 0\.05 s"):
            stream.wait_for_frame(timeout=0.05)
        assert time.monotonic() - started < 30


def test_closing_wakes_who_waits_and_may_be_repeated():
    stream = LiveStream(PushedFrames()).start()
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(stream.take()))
    waiter.start()
    stream.close()
    waiter.join(60)
    stream.close()
    assert taken == [None]


@pytest.mark.parametrize(("settings", "message"), [({"fps": 0}, "fps"), ({"capacity": 0}, "capacity must be at least")])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LiveStream(Burst(1), **settings)


# ---- files in real time ---------------------------------------------------------------------------------------------


def test_a_file_plays_in_real_time(clip, number_in):
    started, came = time.monotonic(), []
    with LiveStream(VideoPlayback(clip, speed=20), fps=None, capacity=99) as stream:
        for frame in stream:
            came.append((frame.timestamp, time.monotonic() - started))
            assert number_in(frame.image) == frame.index == round(frame.timestamp * 10)
    assert [round(t, 3) for t, _ in came] == [round(k / 10, 3) for k in range(40)]
    assert all(moment >= t / 20 - 0.01 for t, moment in came), "a frame came before its time"
    assert came[-1][1] < 4, "it was to play 20 times as fast, even on a busy machine"


def test_pause_and_play(clip, wait_until):
    with LiveStream(VideoPlayback(clip, speed=2), fps=None) as stream:
        stream.wait_for_frame(60)
        stream.source.pause()
        position, received = stream.source.position, stream.num_received
        time.sleep(0.5)  # time for ten frames
        assert stream.source.position == position and stream.num_received <= received + 1, "one was on its way"
        assert stream.source.state == "paused"
        stream.source.play()
        wait_until(lambda: stream.num_received > received + 3)
        assert stream.source.state == "playing" and stream.source.position > position


def test_seek_forth_and_back(clip, wait_until):
    with LiveStream(VideoPlayback(clip, speed=8), fps=None, capacity=999) as stream:
        stream.wait_for_frame(60)
        stream.source.pause()
        stream.source.seek(3.0)
        wait_until(lambda: stream.latest.index == 30)
        stream.source.seek(1.05)  # the frame on screen then
        wait_until(lambda: stream.latest.index == 10)
        stream.source.play()
        wait_until(lambda: stream.source.state == "over")
        assert stream.latest.index == 39
        with pytest.raises(ValueError, match=r"lasts 4\.0 s, cannot go to 9"):
            stream.source.seek(9)


def test_speed_changes_while_it_plays(clip):
    with LiveStream(VideoPlayback(clip, speed=0.25), fps=None, capacity=99) as stream:
        stream.wait_for_frame(60)
        stream.source.speed = 40
        stream._thread.join(12)
        assert not stream._thread.is_alive(), "at the first speed it would last 16 s"
        with pytest.raises(ValueError, match="speed must be a number > 0"):
            stream.source.speed = 0


def test_no_more_frames_than_wanted_are_decoded(clip):
    source = VideoPlayback(clip, fps=2, speed=50)
    with LiveStream(source, fps=None, capacity=99) as stream:
        assert numbers(stream) == [0, 5, 10, 15, 20, 25, 30, 35]


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video at all")
    with pytest.raises(MediaError, match=r"x\.mp4: is not a video"):
        VideoPlayback(tmp_path / "x.mp4")


def test_large_pictures_are_decoded_small(tmp_path, write_clip):
    path = write_clip(tmp_path / "large.mp4", num_frames=3, size=(1920, 1080))
    with LiveStream(VideoPlayback(path, speed=20), fps=None) as stream:
        assert stream.wait_for_frame(60).image.shape == (540, 960, 3)
    assert fitting((640, 480)) == (640, 480) and fitting((1000, 4000)) == (240, 960)


# ---- drawn, pushed, camera ------------------------------------------------------------------------------------------


def test_drawn_pictures():
    draw = lambda t: np.full((8, 8, 3), round(10 * t), np.uint8)  # noqa: E731
    with LiveStream(DrawnPlayback("drawn", draw, speed=20), fps=None, capacity=99) as stream:
        frames = [stream.take(60) for _ in range(10)]
    assert [(f.timestamp, int(f.image[0, 0, 0])) for f in frames] == [(k / 10, k) for k in range(10)]


def test_pushed_frames_and_their_times():
    source = PushedFrames()
    with LiveStream(source, fps=None, capacity=99) as stream:
        assert source.push(Image.new("L", (6, 4), 7)) == 0.0
        time.sleep(0.05)
        later = source.push(np.zeros((4, 6, 3), np.uint8))
        assert later >= 0.05
        frames = [stream.take(60) for _ in range(2)]
        assert [f.timestamp for f in frames] == [0.0, later] and frames[0].image.shape == (4, 6, 3)
        for bad in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)), np.zeros((0, 6, 3), np.uint8), "x"):
            with pytest.raises(MediaError, match=r"expected a PIL image or uint8 \(H, W, 3\)"):
                source.push(bad)
    with pytest.raises(ValueError, match="takes no more frames"):
        source.push(np.zeros((4, 6, 3), np.uint8))


class FakeDevice:
    """As OpenCV's: three pictures, then none; the second device gives more."""

    opened = 0

    def __init__(self, number):
        FakeDevice.opened += 1
        self.left = 3 if FakeDevice.opened == 1 else 10**6
        self.number = number

    def isOpened(self):
        return self.number == 0

    def read(self):
        time.sleep(0.02)
        self.left -= 1
        return self.left >= 0, np.full((4, 4, 3), (1, 2, 3), np.uint8)

    def release(self):
        pass


def test_a_camera_that_breaks_off_comes_back(monkeypatch, wait_until):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=FakeDevice))
    monkeypatch.setattr(FakeDevice, "opened", 0)
    monkeypatch.setattr(live_network, "DISPLAY_FPS", 1000)
    camera = Camera(0, timeouts=Timeouts(first_pause=0.05))
    with LiveStream(camera, fps=None, capacity=999) as stream:
        wait_until(lambda: stream.num_received > 8)
        frames = [stream.take(60) for _ in range(8)]
    assert camera.num_reconnects == 1 and [f.index for f in frames] == list(range(8))
    times = [f.timestamp for f in frames]
    assert times == sorted(times) and times[3] - times[2] >= 0.05, "the break is part of the stream's time"
    assert frames[0].image[0, 0].tolist() == [3, 2, 1], "OpenCV's pictures are blue first"


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=FakeDevice))
    with LiveStream(Camera(5)) as stream, pytest.raises(MediaError, match="camera 5: cannot be opened"):
        stream.take(60)
    with pytest.raises(ValueError, match="numbered from 0"):
        Camera(-1)


def test_a_camera_that_hangs_is_said_and_closed_at_once(monkeypatch, wait_until):
    """As a USB camera does that was pulled out: its call does not return."""
    pulled, ended = threading.Event(), threading.Event()

    class Hanging(FakeDevice):
        def read(self):
            if self.left < 10**6 - 5:
                pulled.wait(60)
                ended.set()
            return super().read()

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Hanging))
    monkeypatch.setattr(FakeDevice, "opened", 1)
    stream = LiveStream(Camera(0, timeouts=Timeouts(read=0.5, first_pause=0.05)), fps=None, capacity=999).start()
    wait_until(lambda: stream.source.state == "reconnecting")
    assert "no picture came for 0.5 s" in stream.source.problem and FakeDevice.opened == 2
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1.0 and not ended.is_set()
    assert FakeDevice.opened == 2, "it is not opened a second time while the first call hangs"
    pulled.set()


def test_a_source_says_how_old_its_newest_picture_is(monkeypatch, wait_until):
    source = PushedFrames()
    with LiveStream(source, fps=None) as stream:
        assert source.age is None and source.state == "waiting"
        source.push(np.zeros((4, 6, 3), np.uint8))
        stream.wait_for_frame(60)
        assert source.age < 2.0 and source.state == "playing" and source.trouble is None
        source.stalled_after = 0.2
        wait_until(lambda: source.state == "stalled")
        assert source.age > 0.2 and source.trouble == "pushed frames stands still: no new picture comes"
        source.push(np.zeros((4, 6, 3), np.uint8))
        wait_until(lambda: source.state == "playing")
    assert source.state == "over"


def test_a_file_that_plays_is_never_old(clip):
    with LiveStream(VideoPlayback(clip), fps=None) as stream:
        stream.wait_for_frame(60)
        assert stream.source.age == 0.0


def test_closing_a_file_that_is_being_decoded(clip, monkeypatch):
    """Whoever closes does not wait for a decoder, nor take away what it reads."""
    going, reading = threading.Event(), threading.Event()
    source = VideoPlayback(clip)
    closed = []
    read = source.video.read

    def slow(indices):
        reading.set()
        going.wait(60)
        assert not closed
        yield from read(indices)

    monkeypatch.setattr(source.video, "read", slow)
    monkeypatch.setattr(source.video, "close", lambda: closed.append(1))
    stream = LiveStream(source, fps=None).start()
    assert reading.wait(20)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1.0 and not closed
    going.set()
    stream._thread.join(20)
    assert closed and stream.error is None


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        Camera(0)
