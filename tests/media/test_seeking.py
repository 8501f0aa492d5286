"""Reading is lazy: gaps are skipped, every frame is decoded once, none is kept."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from videochat_online.media.readers import Frame, PyavReader, VideoReader, open_video


def pictures(video: VideoReader, indices) -> list[np.ndarray]:
    return [frame.image for frame in video.read(indices)]


def count_decoded(monkeypatch) -> list[int]:
    """The number of every frame that comes out of PyAV's decoder from now on."""
    decoded: list[int] = []
    number_of = PyavReader._number

    def counting(self, frame):
        number = number_of(self, frame)
        decoded.append(number)
        return number

    monkeypatch.setattr(PyavReader, "_number", counting)
    return decoded


def test_gaps_are_skipped_by_seeking(write_clip: Callable, number_in: Callable, tmp_path: Path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", num_frames=250, gop=10, b_frames=0)
    decoded = count_decoded(monkeypatch)
    order = [5, 97, 98, 115, 213, 249, 41]
    with open_video(path, decoder="pyav") as video:
        assert [number_in(picture) for picture in pictures(video, order)] == order
    assert decoded == [*range(6), *range(90, 99), *range(110, 116), *range(210, 214), *range(240, 250), 40, 41]


def test_ascending_indices_decode_every_frame_once(write_clip: Callable, tmp_path: Path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", num_frames=100, gop=20)
    decoded = count_decoded(monkeypatch)
    with open_video(path, decoder="pyav") as video:
        assert len(pictures(video, [0, 0, 3, 3, 3, *range(4, 100, 2)])) == 53
    assert decoded == sorted(set(decoded))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video", "libvpx-vp9", "libx265"])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_no_frame_needs_is_not_decoded(
    codec: str, num_threads: int, write_clip: Callable, tmp_path: Path, monkeypatch
):
    """Large and small gaps, and the frames beside those that were skipped, give what reading all of them gives."""
    path = write_clip(tmp_path / "clip.mkv", num_frames=120, gop=60, codec=codec)
    with open_video(path, num_threads=num_threads) as video:
        every = [frame.image for frame in video]
    decoded = count_decoded(monkeypatch)
    order = [0, 7, 8, 10, 29, 30, 33, 58, 59, 61, 100, 101, 119, 4, 40]
    with open_video(path, num_threads=num_threads) as video:
        assert all(
            np.array_equal(picture, every[number])
            for picture, number in zip(pictures(video, order), order, strict=True)
        )
    if codec == "libx264":
        assert len(set(decoded)) < 110, "some B-frame in the gaps was not decoded"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux shows them")
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "dropped"])
def test_no_thread_stays_behind_a_reader(is_closed: bool, write_clip: Callable, tmp_path: Path):
    """Not even until garbage is collected: a forked process that frees a decoder waits for threads it does not have."""
    path = write_clip(tmp_path / "clip.mp4", num_frames=30)
    num_threads = len(os.listdir("/proc/self/task"))
    gc.disable()
    try:
        video = open_video(path, num_threads=3)
        assert len(pictures(video, [0, 9, 29, 3])) == 4
        assert len(os.listdir("/proc/self/task")) >= num_threads + 3
        if is_closed:
            video.close()
        else:
            del video
        assert len(os.listdir("/proc/self/task")) <= num_threads
    finally:
        gc.enable()


def test_reading_is_lazy(golden: Path, monkeypatch):
    decoded = count_decoded(monkeypatch)
    with open_video(golden / "media/v10.mp4", decoder="pyav") as video:
        frames = video.read(range(45))
        assert decoded == []
        assert next(frames).index == 0
        assert decoded == [0]


def test_no_frame_is_kept(decoder: str, golden: Path):
    """A reader that held its pictures would need memory in proportion to the length of the file."""
    with open_video(golden / "media/v30.mp4", decoder=decoder) as video:
        alive: weakref.WeakSet[Frame] = weakref.WeakSet()
        most = 0
        for frame in video:
            alive.add(frame)
            most = max(most, len(alive))
        del frame
        gc.collect()
        assert (most, len(alive)) == (1, 0)  # the one in hand, while the next is decoded


@pytest.fixture(scope="module")
def large_clip(write_clip: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 frames of 640 x 480 pixels: 184 MB decoded."""
    path = tmp_path_factory.mktemp("large") / "clip.mp4"
    return write_clip(path, num_frames=200, size=(640, 480), options={"preset": "ultrafast"})


def test_memory_does_not_grow_with_the_file(decoder: str, large_clip: Path):
    """The process may grow by what the decoders buffer (10 to 50 MB), not by the 184 MB of all pictures."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc/self/statm")
    with open_video(large_clip, decoder=decoder, num_threads=1) as video:
        pages = [int(statm.read_text().split()[1]) for _ in video]
    assert (max(pages) - pages[0]) * os.sysconf("SC_PAGESIZE") < 100e6


def test_two_readings_of_one_reader_do_not_disturb_each_other(golden: Path, decoder: str, number_in: Callable):
    with open_video(golden / "media/v10.mp4", decoder=decoder) as video:
        pairs = zip(video.read(range(0, 20)), video.read(range(40, 20, -1)), strict=True)
        assert [(number_in(a.image), number_in(b.image)) for a, b in pairs] == list(
            zip(range(20), range(40, 20, -1), strict=True)
        )
