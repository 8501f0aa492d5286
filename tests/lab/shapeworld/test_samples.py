"""Training samples: in formats that the ordinary readers take, and true to their scenes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from PIL import Image

from videochat_online.data.clip import choose_frames
from videochat_online.data.formats import read_row
from videochat_online.lab.shapeworld import samples
from videochat_online.lab.shapeworld.build import WorldConfig, picture_order
from videochat_online.lab.shapeworld.labels import visible_things
from videochat_online.lab.shapeworld.vocabulary import ACTION_NAMES, COLOUR_NAMES, GOAL_NAMES

from . import oracles
from .conftest import SMALL, rows
from .oracles import Record


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
