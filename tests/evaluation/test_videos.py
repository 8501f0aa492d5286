"""Finding videos however they were unpacked, and putting them on the clock of their questions."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import write_frames, write_video
from videochat_online.evaluation.questions import Question, VideoTask
from videochat_online.evaluation.videos import check_video, open_task_video
from videochat_online.media.find import VideoLibrary
from videochat_online.media.readers import DecordReader, MediaError, PyavReader


def task_at(timestamp: float, *names: str, **changes: object) -> VideoTask:
    question = Question("q", timestamp, "?", "A", "task", "category", "source", labels=("A", "B"))
    return replace(VideoTask("v", "v", names or ("v",), (question,)), **changes)


def test_a_stored_part_begins_at_its_time_in_the_film(tmp_path: Path):
    write_frames(tmp_path / "film", [f"{i:05d}.jpg" for i in range(6)])
    library = VideoLibrary(tmp_path)
    part = open_task_video(task_at(903.0, "film", segment_start=900.0, fps=1.0), library)
    assert part.timestamps.tolist() == [900.0, 901.0, 902.0, 903.0, 904.0, 905.0]
    assert part.end == 906.0


def test_a_whole_film_keeps_its_own_time(golden: Path):
    library = VideoLibrary(golden / "media")
    whole = open_task_video(task_at(905.0, "AVA_Actions/ava.mp4", segment_start=900.0), library)
    assert (whole.timestamps[0], whole.timestamps[905]) == (0.0, 905.0)


def test_a_folder_with_frames_from_before_the_clip_is_put_on_the_clips_clock(tmp_path: Path):
    write_frames(tmp_path / "seq", [f"frame{i}.jpg" for i in range(1, 31)])  # natural order: 1, 2, 10
    library = VideoLibrary(tmp_path)
    plain = open_task_video(task_at(1.0, "seq", fps=10.0, anchor=("frame11.jpg", 1.0)), library)
    assert np.allclose(plain.timestamps, np.arange(30) / 10)
    more = open_task_video(task_at(1.0, "seq", fps=10.0, anchor=("frame21.jpg", 1.0)), library)
    assert np.allclose(more.timestamps, np.arange(30) / 10 - 1.0)
    unknown = task_at(1.0, "seq", fps=10.0, anchor=("frame31.jpg", 1.0))
    assert open_task_video(unknown, library).timestamps[0] == 0.0
    assert "holds no frame31.jpg, so its first frame would be taken for second 0" in (
        check_video(unknown, library) or ""
    )


def test_check_finds_what_is_missing_empty_broken_or_short(tmp_path: Path):
    write_video(tmp_path / "good.mp4", seconds=4)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:200])
    library = VideoLibrary(tmp_path)
    assert check_video(task_at(3.0, "good.mp4"), library) is None
    assert check_video(task_at(4.9, "good.mp4"), library) is None  # durations are rounded
    found = {
        name: check_video(task_at(9.0, name), library) or ""
        for name in ("good.mp4", "empty.mp4", "broken.mp4", "no.mp4")
    }
    assert "ends at 4.0 s, but a question is asked at 9.0 s" in found["good.mp4"]
    assert "empty" in found["empty.mp4"]
    assert "broken.mp4" in found["broken.mp4"]
    assert "not found" in found["no.mp4"]
    write_frames(tmp_path / "late", ["1.jpg"])
    late = check_video(task_at(1.0, "late", segment_start=900.0, fps=1.0), library)
    assert late is not None and "begins at 900.0 s, but a question is asked at 1.0 s" in late


def test_the_stand_ins_fit_their_questions(tasks: list[VideoTask], videos: Path):
    library = VideoLibrary(videos)
    assert [check_video(task, library) for task in tasks] == [None] * len(tasks)


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "y" * 300 + ".mp4"])
def test_names_that_no_file_can_have_are_named(name: str, tmp_path: Path):
    with pytest.raises(MediaError, match=r"(xxx|yyy).* expected"):
        VideoLibrary(tmp_path).find((name,))


@pytest.mark.skipif(find_spec("decord") is None, reason="needs decord: pip install 'videochat-online[decord]'")
def test_videos_are_read_through_the_librarys_decoder(golden: Path):
    task = task_at(1.0, "v10.mp4")
    videos = [open_task_video(task, VideoLibrary(golden / "media", decoder=name)) for name in ("pyav", "decord")]
    assert [type(video.reader) for video in videos] == [PyavReader, DecordReader]
    assert np.array_equal(videos[0].timestamps, videos[1].timestamps)
    for video in videos:
        video.reader.close()
