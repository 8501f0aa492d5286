"""Cached frames are the decoder's, bit by bit; what is held is not decoded again; a changed file is another one."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from videochat_online.data import dataset
from videochat_online.data.frame_cache import ABOUT, FRAMES, TIMES, FrameCache, FrameCacheError
from videochat_online.media.readers import MediaError, open_video
from videochat_online.media.transforms import FrameTransform

from .conftest import at, talk, write_video

ROWS = [
    {"video": "video.mp4", "conversations": at(5.5, "Q", "One.")},
    {"video": "video", "conversations": talk("<video>\nQ", "It gets brighter.")},
    {"video": "frames", "fps": 2, "need_reset_timestamp": True, "conversations": at(3, "Q", "Three")},
]


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("decoded again")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_video(tmp_path / "video.mp4", num_frames=20, fps=2)
    return tmp_path / "video.mp4"


def test_frames_are_those_of_the_decoder(video: Path, tmp_path: Path):
    transform = FrameTransform(12)
    with open_video(video) as reader:
        expected = transform.batch([frame.image for frame in reader])
        facts = (reader.num_frames, reader.fps, reader.duration, reader.start_offset, reader.timestamps.tolist())
    cache = FrameCache(tmp_path / "cache", transform, open_video)
    with cache.open(video) as first:
        assert torch.equal(transform.batch([frame.image for frame in first.read([3, 7, 19])]), expected[[3, 7, 19]])
    with cache.open(video) as second:  # some are held, some are not
        assert torch.equal(transform.batch([frame.image for frame in second]), expected)
    with replace(cache, open_video=refuse).open(video) as third:
        assert torch.equal(transform.batch([frame.image for frame in third]), expected)
        assert (third.num_frames, third.fps, third.duration, third.start_offset) == facts[:4]
        assert third.timestamps.tolist() == facts[4] and third.size == (12, 12)


def test_another_file_or_size_is_another_entry(video: Path, tmp_path: Path):
    cache = FrameCache(tmp_path / "cache", FrameTransform(12), open_video)
    cache.open(video).close()
    cache.open(video).close()
    assert len(list(cache.folder.iterdir())) == 1
    FrameCache(tmp_path / "cache", FrameTransform(8), open_video).open(video).close()
    write_video(video, num_frames=10, fps=2)
    with cache.open(video) as reader:
        assert reader.num_frames == 10
    assert len(list(cache.folder.iterdir())) == 3


def test_an_entry_that_another_process_made_meanwhile_is_taken(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = FrameCache(tmp_path / "cache", FrameTransform(12), open_video)
    real = np.save

    def save_late(*args: Any) -> None:
        monkeypatch.setattr(np, "save", real)
        with cache.open(video) as other:
            list(other.read([4]))
        real(*args)

    monkeypatch.setattr(np, "save", save_late)
    cache.open(video).close()
    with replace(cache, open_video=refuse).open(video) as reader:
        assert next(reader.read([4])).index == 4
    assert len(list(cache.folder.iterdir())) == 1


def test_examples_are_the_same_with_a_cache(make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = [make_dataset(ROWS)[n] for n in range(3)]
    cached = make_dataset(ROWS, frame_cache=str(tmp_path / "cache"))
    for _ in range(2):
        for number, example in enumerate(plain):
            assert torch.equal(cached[number].pixel_values, example.pixel_values)
            assert cached[number].input_ids == example.input_ids
        monkeypatch.setattr(dataset, "open_video", refuse)


def test_augmentation_does_without(make_dataset: Any, tmp_path: Path):
    """It compresses the frames in their own size."""
    entry = {"data_augment": True}
    plain = make_dataset(ROWS, entry=entry)[0]
    cached = make_dataset(ROWS, entry=entry, frame_cache=str(tmp_path / "cache"))[0]
    assert torch.equal(plain.pixel_values, cached.pixel_values)
    assert not (tmp_path / "cache").exists()


def test_a_video_that_cannot_be_read_is_its_own_fault(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match="is empty"):
        FrameCache(tmp_path / "cache", FrameTransform(12), open_video).open(tmp_path / "empty.mp4")


def test_a_full_disk_ends_the_run_and_spoils_nothing(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = FrameCache(tmp_path / "cache", FrameTransform(12), open_video)

    def no_room(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    with cache.open(video) as reader, monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_room)
        with pytest.raises(FrameCacheError, match=r"video\.mp4.*No space left on device.*make room"):
            list(reader.read([2]))
    with cache.open(video) as reader, open_video(video) as expected:
        frame = next(expected.read([2])).image
        assert np.array_equal(next(reader.read([2])).image, cache.transform.resize(frame))


def test_a_folder_that_cannot_be_made_ends_the_run(video: Path, tmp_path: Path, make_dataset: Any):
    (tmp_path / "file").touch()
    with pytest.raises(FrameCacheError, match="make room or go without it"):
        make_dataset(ROWS, frame_cache=str(tmp_path / "file"))[0]


@pytest.mark.parametrize("name", [ABOUT, TIMES, FRAMES])
def test_a_damaged_entry_is_no_fault_of_the_video(name: str, video: Path, tmp_path: Path):
    cache = FrameCache(tmp_path / "cache", FrameTransform(12), open_video)
    with cache.open(video) as reader:
        list(reader.read([2]))
    (entry,) = cache.folder.iterdir()
    (entry / name).write_bytes((entry / name).read_bytes()[:20])
    with pytest.raises(FrameCacheError, match=r"cannot be read .*delete its folder"), cache.open(video) as reader:
        list(reader.read([2]))


def test_it_may_be_deleted_between_two_runs(video: Path, tmp_path: Path):
    cache = FrameCache(tmp_path / "cache", FrameTransform(12), open_video)
    for _ in range(2):
        with cache.open(video) as reader:
            assert next(reader.read([5])).image.shape == (12, 12, 3)
        shutil.rmtree(cache.folder)
