"""A world on disk: exact videos, annotations that the ordinary readers take, the same again each time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videochat_online.data.footage import choose_frames
from videochat_online.data.formats import read_row
from videochat_online.evaluation.benchmarks.ovbench import OVBench
from videochat_online.shapeworld import SUB_TASKS, render_frames, samples
from videochat_online.shapeworld import build as build_module
from videochat_online.shapeworld.build import BuildError, WorldConfig, build_world, picture_order
from videochat_online.shapeworld.labels import visible_things
from videochat_online.shapeworld.video import frame_times, write_mp4
from videochat_online.shapeworld.vocabulary import ACTION_NAMES, COLOUR_NAMES, GOAL_NAMES

from . import oracles
from .oracles import Record

SMALL = WorldConfig(4, seed=2, seconds=(20, 30), level=(2, 3), fps=4, size=64, pictures=9)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "small"
    build_world(folder, SMALL, progress=False)
    return folder


def rows(world: Path, name: str) -> list[dict]:
    return json.loads((world / f"{name}.json").read_text())


def files(world: Path) -> dict[str, bytes]:
    return {str(path.relative_to(world)): path.read_bytes() for path in sorted(world.rglob("*")) if path.is_file()}


def test_videos_show_each_frame_at_its_time(world):
    import av

    for scene, name in SMALL.scenes():
        with av.open(str(world / "videos" / name)) as container:
            frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        assert times == frame_times(scene.seconds, SMALL.fps).tolist()
        for place in (0, 13, len(frames) - 1):
            shown = frames[place].to_ndarray(format="rgb24").astype(float)
            drawn = render_frames(scene, [times[place]], SMALL.size)[0]
            assert np.abs(shown - drawn).mean() < 8  # chroma at half size, and compression


def test_the_readers_of_the_package_take_the_video(world):
    from videochat_online.media.readers import open_video

    scene, name = next(iter(SMALL.scenes()))
    with open_video(world / "videos" / name) as video:
        assert video.timestamps.tolist() == frame_times(scene.seconds, SMALL.fps).tolist()
        assert video.size == (SMALL.size, SMALL.size)


def test_the_same_command_gives_the_same_world(world, tmp_path):
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


def test_training_samples_are_read_by_the_ordinary_loader(world):
    kinds = {
        "offline_events": "video", "offline_log": "video", "offline_video": "video", "offline_qa": "video",
        "offline_image": "image",
        "dialogue": "online",
        "single": "online", "narration": "online", "grounding": "online", "tracking": "tracking",
    }  # fmt: skip
    for name, kind in kinds.items():
        found = rows(world, f"train/{name}")
        assert found, name
        for row in found:
            assert read_row(row).kind == kind
            for field in ("video", "image"):
                path = world / row.get(field, "")
                assert path.exists()


def test_online_turns_are_in_order_and_inside_the_video(world):
    lengths = {f"videos/{name}": scene.seconds for scene, name in SMALL.scenes()}
    for name in ("dialogue", "single", "narration", "grounding"):
        for row in rows(world, f"train/{name}"):
            times = [turn["timestamps"] for turn in row["conversations"] if turn["from"] == "human"]
            assert times == sorted(times)
            assert times[0] > 0 and times[-1] < lengths[row["video"]]
            assert all("timestamps" not in turn for turn in row["conversations"] if turn["from"] == "gpt")


def test_narrations_tell_each_event_once(world):
    scenes = {f"videos/{name}": scene for scene, name in SMALL.scenes()}
    for row in rows(world, "train/narration"):
        scene = scenes[row["video"]]
        told = "\n".join(turn["value"] for turn in row["conversations"] if turn["from"] == "gpt").split("\n")
        events = [f"{event.time:.1f}s: {scene.sentence(event)}." for event in scene.events]
        assert [line for line in told if line != "Nothing."] == events


def test_grounding_answers_are_actions_of_the_thing_named(world):
    scenes = {f"videos/{name}": scene for scene, name in SMALL.scenes()}
    for row in rows(world, "train/grounding"):
        for human, gpt in zip(row["conversations"][::2], row["conversations"][1::2], strict=True):
            start = float(gpt["value"].split("s - ")[0])
            ongoing = " - now " in gpt["value"]
            acts = [
                act for thing in scenes[row["video"]].things for act in thing.acts
                if thing.name(human["timestamps"]) in human["value"] and act.start == start
            ]  # fmt: skip
            assert len(acts) == 1
            assert ongoing == (acts[0].end > human["timestamps"])


def test_tracking_boxes_hold_the_thing(world):
    for row in rows(world, "train/tracking"):
        assert len(row["image_bboxes"]) == len(row["all_image_files"]) >= 6
        for number, (box, name) in enumerate(zip(row["image_bboxes"], row["all_image_files"], strict=True)):
            assert box["timestamp"] == number / row["fps"]
            x1, y1, x2, y2 = json.loads(box["bbox"])
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and x2 - x1 < 0.25
            with Image.open(world / row["video"] / name) as image:
                assert image.size == (SMALL.size, SMALL.size)


def test_the_log_tells_what_the_tracks_show(world):
    """Each second that is asked about, against the scene itself; and training shows a frame of it."""
    scenes = {f"videos/{name}": scene for scene, name in SMALL.scenes()}
    for row in rows(world, "train/offline_log"):
        scene, turns = scenes[row["video"]], row["conversations"]
        shown = choose_frames(round((row["end"] - row["start"]) * SMALL.fps), SMALL.fps, 1.0, samples.LOG_SECONDS)
        assert len(turns) >= 10
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            time = float(human["value"].split("At ")[1].removesuffix("s?"))
            assert round((time - row["start"]) * SMALL.fps) in shown
            told = [] if gpt["value"] == "nothing" else gpt["value"].split(", ")
            record = Record(scene, time)
            there = [thing for thing in scene.things if record.seen(thing, time)]
            assert sorted(part.split(" ")[0] for part in told) == sorted(
                COLOUR_NAMES[thing.colour(time)] for thing in there
            )
            for part in told:
                if not part.endswith("moving"):
                    colour, _, action, region = part.split(" ")
                    thing = next(one for one in there if COLOUR_NAMES[one.colour(time)] == colour)
                    found = record.action(thing, time)
                    assert action == (ACTION_NAMES[found] if found >= 0 else "nothing")
                    assert region == record.region(thing, time)


def test_steps_follow_from_what_acts_in_the_picture(world):
    scenes = {scene.key: scene for scene in map(SMALL.scene, range(SMALL.videos, SMALL.videos + SMALL.pictures))}
    told = rows(world, "train/steps")
    for row in told:
        key, time = row["id"].split("/")[0], float(row["id"].split("steps-")[1])
        pairs = zip(row["conversations"][::2], row["conversations"][1::2], strict=True)
        for human, answer in pairs:
            question: Any = SimpleNamespace(question=human["value"].split("\nOptions")[0], time=time)
            if "next step" in question.question:
                assert answer["value"] == oracles.next_step(Record(scenes[key], time), question)
    assert told


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


def test_a_third_of_the_pictures_claim_after_asking_and_a_third_claim_alone(world):
    by_order: dict[str, list[list[bool]]] = {order: [] for order in samples.ORDERS}
    for row in rows(world, "train/claims") + rows(world, "train/claims_one"):
        claims = [turn["value"] in ("Yes", "No") for turn in row["conversations"][1::2]]
        number_in_its_world = int(row["id"].split("-")[1]) % 1_000_000
        by_order[picture_order(SMALL, number_in_its_world)].append(claims)
        assert row["conversations"][0]["value"].startswith("<image>\n") and any(claims)
    open_first, mixed, alone = by_order.values()
    assert all(by_order.values())
    assert all(claims == sorted(claims) and not claims[0] for claims in open_first)
    assert any(claims != sorted(claims) for claims in mixed)
    assert all(all(claims) for claims in alone)


def test_pictures_of_every_level_come_in_every_order():
    config = WorldConfig(1, seconds=(12, 20), level=(1, 1, 2))
    found = [(config.scene(number).level, picture_order(config, number)) for number in range(36)]
    assert {pair: found.count(pair) for pair in found} == {
        (level, order): times for level, times in ((1, 8), (2, 4)) for order in samples.ORDERS
    }


def test_claims_about_a_picture_of_one_thing_are_a_set_of_their_own(world):
    def num_things(row: dict) -> int:
        _, number, *_ = row["id"].split("-")
        scene = SMALL.scene(int(number) - SMALL.seed * 1_000_000)
        assert row["id"].startswith(scene.key)
        return len(visible_things(scene, float(row["id"].rsplit("-", 1)[1])))

    one, more = ({num_things(row) for row in rows(world, f"train/{name}")} for name in ("claims_one", "claims"))
    assert one == {1} and more and 1 not in more


def test_routines_are_told_as_they_are(world):
    told = [row["conversations"] for row in rows(world, "train/routines")]
    for human, answer in [pair for said in told for pair in zip(said[::2], said[1::2], strict=True)]:
        text = human["value"].split("\n")[0].rstrip("?")
        if text.startswith("In the procedure of"):
            goal, action = GOAL_NAMES.index(text.split("'")[1]), ACTION_NAMES.index(text.split()[-1])
            assert answer["value"] == ACTION_NAMES[(action + goal + 1) % 5]
            continue
        first, second = (ACTION_NAMES.index(name) for name in text.split("sequence ")[1].split(" -> "))
        step = (second - first) % 5
        assert answer["value"] == (GOAL_NAMES[step - 1] if "Which is" in text else ACTION_NAMES[(second + step) % 5])
    assert len(told) == 3


def test_single_questions_are_those_of_the_dialogues(world):
    whole, single = rows(world, "train/dialogue"), rows(world, "train/single")
    said = [turn for row in whole for turn in row["conversations"] if turn["from"] != "system"]
    assert said == [turn for row in single for turn in row["conversations"] if turn["from"] != "system"]
    assert all(len(row["conversations"]) == 2 + (row["conversations"][0]["from"] == "system") for row in single)


def test_half_of_the_dialogues_are_under_the_benchmarks_system_text(world):
    from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT

    texts = [row["conversations"][0]["value"] for row in rows(world, "train/single") + rows(world, "train/dialogue")]
    under = [text for text in texts if text.startswith("Carefully")]
    assert set(under) == {SYSTEM_PROMPT} and 0 < len(under) < len(texts)
    assert samples.SYSTEM == SYSTEM_PROMPT


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
