"""A world on disk: exact videos, annotations that the ordinary readers take, the same again each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from videochat_online.evaluation.benchmarks.ovbench import OVBench
from videochat_online.files import LOCK_FILE, locked
from videochat_online.lab.shapeworld import SUB_TASKS, render_frames
from videochat_online.lab.shapeworld import build as build_module
from videochat_online.lab.shapeworld.build import BuildError, WorldConfig, build_world
from videochat_online.lab.shapeworld.video import video_times, write_mp4

from .conftest import SMALL, rows


def files(world: Path) -> dict[str, bytes]:
    return {str(path.relative_to(world)): path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()}


def test_videos_show_each_frame_at_its_time(world):
    import av

    for scene, name in SMALL.scenes():
        with av.open(str(world / "videos" / name)) as container:
            frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        assert times == video_times(scene.seconds, SMALL.fps).tolist()
        for place in (0, 13, len(frames) - 1):
            shown = frames[place].to_ndarray(format="rgb24").astype(float)
            drawn = render_frames(scene, [times[place]], SMALL.size)[0]
            assert np.abs(shown - drawn).mean() < 8  # chroma at half size, and compression


def test_the_readers_of_the_package_take_the_video(world):
    from videochat_online.media.readers import open_video

    scene, name = next(iter(SMALL.scenes()))
    with open_video(world / "videos" / name) as video:
        assert video.timestamps.tolist() == video_times(scene.seconds, SMALL.fps).tolist()
        assert video.size == (SMALL.size, SMALL.size)


def test_the_same_command_gives_the_same_world(world, tmp_path):
    """Also where its training samples were left out at first."""
    build_world(tmp_path / "again", SMALL, samples=False, progress=False)
    assert not (tmp_path / "again/train").exists()
    build_world(tmp_path / "again", SMALL, progress=False)
    assert files(tmp_path / "again") == files(world)


def test_an_interrupted_build_goes_on(world, tmp_path, monkeypatch):
    written = []

    def stop_after_two(path, scene, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(Path(path).name)
        return write_mp4(path, scene, **options)

    monkeypatch.setattr(build_module, "write_mp4", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        build_world(tmp_path / "world", SMALL, progress=False)
    assert json.loads((tmp_path / "world" / "manifest.json").read_text())["complete"] is False
    times = {name: (tmp_path / "world" / "videos" / name).stat().st_mtime_ns for name in written}
    monkeypatch.undo()
    build_world(tmp_path / "world", SMALL, progress=False)
    assert files(tmp_path / "world") == files(world)
    assert times == {name: (tmp_path / "world" / "videos" / name).stat().st_mtime_ns for name in written}


def test_a_complete_world_is_left_alone_and_a_lost_video_made_again(tmp_path):
    config = WorldConfig(1, seed=2, split="dev", seconds=(10,), level=(1,), fps=2, size=32)
    folder = tmp_path / "world"
    manifest = build_world(folder, config, progress=False)
    before, written = files(folder), (folder / "manifest.json").stat().st_mtime_ns
    assert build_world(folder, config, progress=False) == manifest
    assert (folder / "manifest.json").stat().st_mtime_ns == written
    next((folder / "videos").iterdir()).unlink()
    assert build_world(folder, config, progress=False) == manifest and files(folder) == before


def test_the_same_world_by_an_older_generator_is_refused_by_its_version(tmp_path):
    config = WorldConfig(1, split="dev", seconds=(10,), level=(1,), fps=2, size=32)
    manifest = build_world(tmp_path / "world", config, progress=False)
    (tmp_path / "world" / "manifest.json").write_text(json.dumps({**manifest, "version": 1}))
    with pytest.raises(BuildError, match=r"version 1 of .*; asked for version [2-9]"):
        build_world(tmp_path / "world", config, progress=False)


def test_another_world_in_the_folder_is_refused(world, tmp_path):
    with pytest.raises(BuildError, match="holds another world"):
        build_world(world, WorldConfig(4, seed=3), progress=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match="is not empty and holds no world"):
        build_world(tmp_path, SMALL, progress=False)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BuildError, match="is not a world's manifest"):
        build_world(tmp_path, SMALL, progress=False)


def test_worlds_of_other_seeds_and_splits_share_no_scene():
    keys = [
        scene.key
        for seed in (0, 1)
        for split in ("train", "dev", "test")
        for scene, _ in WorldConfig(5, seed=seed, split=split).scenes()
    ]
    assert len(set(keys)) == 30


def test_only_train_worlds_hold_training_samples(tmp_path):
    manifest = build_world(tmp_path / "test", WorldConfig(1, split="test", size=64, fps=2), progress=False)
    assert manifest["samples"] == {} and not (tmp_path / "test" / "train").exists()
    assert sum(manifest["questions"].values()) == 16


@pytest.mark.parametrize("layout", ["flat", "streaming"])
def test_the_benchmark_reads_both_layouts(world, layout):
    names = ("ava", "coin", "tao") if layout == "flat" else ("ovbench",)
    tasks = [task for name in names for task in OVBench().load(world / "ovbench" / f"{name}.json")]
    assert layout == "flat" or OVBench().load(world / "ovbench") == tasks  # each video is watched once
    questions = {question.id: question for task in tasks for question in task.questions}
    asked = {item["id"]: item for name in ("ava", "coin", "tao") for item in rows(world, f"ovbench/{name}")}
    assert set(questions) == set(asked) and len(asked) > 55
    for question_id, question in questions.items():
        task = SUB_TASKS[asked[question_id]["sub_task"]]
        assert question.task == f"{task.abbreviation} {task.name}"
        assert question.category == task.category
        assert question.options["ABCD".index(question.answer)] == asked[question_id]["answer"]
    assert {question.task for question in questions.values()} == {
        f"{task.abbreviation} {task.name}" for task in SUB_TASKS.values()
    }
    for task in tasks:
        assert any((world / "videos" / name).is_file() for name in task.names)


def test_flat_items_look_like_the_real_ones(world, shared):
    """Same fields and kinds of values as OVBench's own files, apart from those that name frame folders."""
    for name in ("ava", "coin", "tao"):
        real = json.loads((shared / "ovbench" / f"{name}.json").read_text())
        for item in rows(world, f"ovbench/{name}"):
            for field in set(real[0]) - {"fps", "image_file"}:
                assert type(item[field]) is type(real[0][field]), field
            assert item["answer_type"] in {row["answer_type"] for row in real}


def test_lists_name_every_set_that_has_samples(world):
    stage1, stage2 = rows(world, "train/stage1"), rows(world, "train/stage2")
    single = rows(world, "train/stage2_single")
    assert set(stage1) < set(stage2) and len(stage2) == 24
    assert set(single) - set(stage1) == {"shapeworld_single"}
    offline = rows(world, "train/stage2_offline")
    assert offline.items() <= stage2.items() and offline.items() <= single.items() and set(offline) == set(stage1)
    for entry in [*stage2.values(), *single.values()]:
        assert set(entry) == {"annotation", "data_root", "data_augment", "repeat_time"}
        assert Path(entry["annotation"].replace("${DATA_ROOT}", str(world))).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"videos": 0}, "videos must be from 1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"split": "bank"}, "unknown split 'bank', expected one of train, dev, test"),
        ({"seconds": (5,)}, "10 seconds or more"),
        ({"level": (7,)}, "unknown level in"),
        ({"size": 65}, "even size >= 32, got fps 8 and size 65"),
        ({"fps": 0}, "fps >= 1"),
        ({"pace": 0.1}, r"pace must be a number >= 0\.25, got 0\.1"),
        ({"pace": float("inf")}, "got inf"),
        ({"questions": -1}, "questions must not be negative, got -1"),
    ],
)
def test_wrong_configurations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**{"videos": 2, **arguments})


def test_odd_frame_sizes_are_refused(tmp_path):
    scene, _ = next(iter(SMALL.scenes()))
    with pytest.raises(ValueError, match="even frame size, got 65"):
        write_mp4(tmp_path / "x.mp4", scene, size=65)
    assert list(tmp_path.iterdir()) == []


def test_two_builds_keep_out_of_each_other(tmp_path):
    with locked(tmp_path / "world"):
        with pytest.raises(ValueError, match="world is being written by another process"):
            build_world(tmp_path / "world", SMALL, progress=False)
        assert [path.name for path in (tmp_path / "world").iterdir()] == [LOCK_FILE]
    build_world(tmp_path / "world", WorldConfig(videos=1, questions=0, seconds=(10,), fps=1, size=32), progress=False)
