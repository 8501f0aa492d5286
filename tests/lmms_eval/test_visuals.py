"""`load_video` shows any model the frames that our own runner shows, and none later than the question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lmms_eval_ovbench import load_video
from lmms_eval_ovbench.clips import ClipFolder, write_clip
from lmms_eval_ovbench.documents import rows_of_source, stream_of
from lmms_eval_ovbench.visuals import Clip, Stream, one_pass
from PIL import Image

from tests.evaluation.conftest import FakeResponder, picture, write_frames, write_video
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.modes import Examiner
from videochat_online.evaluation.videos import open_task_video
from videochat_online.media.find import VideoLibrary
from videochat_online.media.readers import MediaError, open_video


@pytest.mark.parametrize("source", ["ava", "coin", "hirest", "tao"])
def test_frames_are_those_of_the_runner(source: str, root: Path):
    benchmark, responder = OVBench(), FakeResponder()
    for task in benchmark.load(root / "annotations", splits=(source,)):
        video = open_task_video(task, VideoLibrary(root / "videos"))
        settings = benchmark.window
        for _ in Examiner(responder, "sliding_window", settings).examine(task, video):
            pass
    shown = [conversation.shown for conversation in responder.conversations]
    clips = [load_video(stream_of(row).to_visual()) for row in rows_of_source(source)]
    assert [clip.timestamps for clip in clips] == shown
    assert all(len(clip.frames) == len(clip.timestamps) <= 64 for clip in clips)


def test_files_and_folders_are_read_alike(tmp_path: Path):
    write_video(tmp_path / "v.mp4", seconds=50, fps=2)
    write_frames(tmp_path / "f", [f"{number}.png" for number in range(100)])
    file = Stream(str(tmp_path / "v.mp4"), end=40.2)
    folder = Stream(str(tmp_path / "f"), end=40.2, fps=2.0)
    clips = [load_video(stream.to_visual(), fps=1.0, window=10.0) for stream in (file, folder)]
    assert clips[0].timestamps == clips[1].timestamps == [float(second) for second in range(30, 41)]
    exact = [picture(2 * second) for second in range(30, 41)]
    assert all((np.asarray(frame) == there).all() for frame, there in zip(clips[1].frames, exact, strict=True))
    assert all(isinstance(frame, Image.Image) and frame.mode == "RGB" for clip in clips for frame in clip.frames)


def test_a_path_stands_for_the_whole_video(tmp_path: Path):
    write_video(tmp_path / "v.mp4", seconds=20, fps=2)
    clip = load_video(tmp_path / "v.mp4", window=None, fps=2.0, max_frames=10)
    assert len(clip.frames) == 10
    assert (clip.timestamps[0], clip.timestamps[-1]) == (0.0, 19.5)


def test_clock_and_start_of_a_segment(tmp_path: Path):
    write_video(tmp_path / "v.mp4", seconds=60, fps=1)
    segment = Stream(str(tmp_path / "v.mp4"), start=905.0, end=920.0, first_frame_at=900.0)
    assert load_video(segment.to_visual(), fps=1.0, window=30.0).timestamps == [float(s) for s in range(905, 921)]


def test_what_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4"):
        load_video(tmp_path / "empty.mp4")
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        load_video({"url": str(tmp_path / "nowhere.mp4"), "video_end": 3.0})
    write_video(tmp_path / "v.mp4", seconds=3)
    late = Stream(str(tmp_path / "v.mp4"), end=5.0, first_frame_at=900.0)
    with pytest.raises(MediaError, match=r"no frame to show at 5\.0 s"):
        load_video(late.to_visual())


def test_a_visual_says_all_of_a_stream():
    stream = Stream("v.mp4", 1.0, 7.5, 8.0, 900.0, (2.0, 7.5))
    assert Stream.of(stream.to_visual()) == stream
    assert Stream.of({"type": "video", "path": "v.mp4", "video_start": None}) == Stream("v.mp4") == Stream.of("v.mp4")


def test_moments_of_others_stay_in_a_pass(tmp_path: Path):
    write_video(tmp_path / "v.mp4", seconds=10)
    reader = open_video(tmp_path / "v.mp4")
    video = Stream(str(tmp_path / "v.mp4")).open()
    asked = [Stream("v.mp4", end=end, moments=(1.0, 4.0, 6.0, 6.0)) for end in (6.0, 1.0)]
    task, unasked = one_pass(video, asked, ["six?", "one?"])
    assert [(question.timestamp, question.prompt) for question in task.questions] == [
        (1.0, "one?"), (4.0, "?"), (6.0, "six?"),
    ]  # fmt: skip
    assert unasked == {"at 4.0"}
    reader.close()


def test_a_clip_is_a_video_of_the_frames(tmp_path: Path):
    height, width = 31, 45  # odd on purpose
    rows, columns = np.mgrid[0:height, 0:width]
    images = [
        Image.fromarray(np.stack([rows * 8, columns * 5, (rows + columns + 9 * i) % 256], -1).astype(np.uint8))
        for i in range(5)
    ]
    folder = ClipFolder()  # its files go with it
    path = write_clip(Clip(images, [3.0, 3.5, 4.0, 4.5, 5.0]), folder)
    with open_video(path) as reader:
        assert (reader.num_frames, reader.fps, reader.size) == (5, 2.0, (width, height))
        for frame, image in zip(reader, images, strict=True):
            assert np.abs(frame.image.astype(int) - np.asarray(image).astype(int)).mean() < 2  # of 255


def test_only_the_newest_clips_are_kept():
    folder = ClipFolder(kept=2)
    clip = Clip([Image.fromarray(picture(1))], [1.0])
    paths = [write_clip(clip, folder) for _ in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]
