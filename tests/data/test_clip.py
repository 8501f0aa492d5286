"""Which frames are shown, when, and in which turn: the rules alone, then on files."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from videochat_online.data.clip import (
    TurnFrames,
    assign_frames,
    choose_frames,
    frames_of_turns,
    open_clip,
    tracking_turns,
)
from videochat_online.data.formats import read_row
from videochat_online.data.sample import Box, SampleError, Turn
from videochat_online.data.settings import DataSettings
from videochat_online.media.readers import MediaError, open_video
from videochat_online.media.sampling import sample_fps

from .conftest import at, talk


def shown(
    row: dict[str, Any], media: Path, *, max_frames: int = 64, seed: int = 0, **settings: Any
) -> list[TurnFrames]:
    used = DataSettings(**settings)
    sample = read_row(row, used)
    clip = open_clip(sample, media, open_video, used)
    with clip.reader:
        return frames_of_turns(sample, clip, used, max_frames=max_frames, rng=random.Random(seed))


def indices(turns: list[TurnFrames]) -> list[list[int]]:
    return [[frame.index for frame in frames] for _, frames in turns]


def all_indices(turns: list[TurnFrames]) -> list[int]:
    return [frame.index for _, frames in turns for frame in frames]


def times(turns: list[TurnFrames]) -> list[float]:
    return [frame.timestamp for _, frames in turns for frame in frames]


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_belongs_to_the_first_turn_not_before_it(seed: int):
    rng = random.Random(seed)
    frame_times = sorted(round(rng.uniform(0, 10), 1) for _ in range(rng.randrange(12)))
    turn_times = sorted(round(rng.uniform(0, 10), 1) for _ in range(rng.randrange(1, 5)))
    expected: list[list[int]] = [[] for _ in turn_times]
    for number, time in enumerate(frame_times):
        turn = next((n for n, asked in enumerate(turn_times) if asked >= time), None)
        if turn is not None:
            expected[turn].append(number)
    assert assign_frames(frame_times, turn_times) == expected


def test_the_last_frame_is_used_by_a_question_at_or_after_it():
    assert assign_frames([0.0, 1.0], [1.0]) == [[0, 1]]
    assert assign_frames([0.0, 1.0], [99.0]) == [[0, 1]]
    assert assign_frames([0.0, 1.1 - 1.0], [0.1]) == [[0, 1]]  # float noise is no later moment
    assert assign_frames([0.0, 1.001], [1.0]) == [[0]]


def test_frames_are_chosen_as_the_published_way(golden: Path):
    cases = json.loads((golden / "frame_indices.json").read_text("utf-8"))
    cases = [
        case
        for case in cases
        if case["sample"].startswith("fps") and case["input_fps"] > 1.05 * float(case["sample"][3:])
    ]
    assert len(cases) > 20
    for case in cases:
        cap = case["max_num_frames"] if case["max_num_frames"] > 0 else 10**6
        chosen = choose_frames(case["vlen"], case["input_fps"], float(case["sample"][3:]), cap)
        if case["out"]:
            assert chosen == sorted(set(case["out"])), case
        else:
            assert chosen == [(case["vlen"] - 1) // 2], case  # published: nothing is shown


def test_a_slow_source_gives_every_frame_once():
    assert choose_frames(5, 1.0, 1.0, 64) == [0, 1, 2, 3, 4]
    assert sample_fps(5, 1.0, 1.0, 64) == [0, 2, 2, 4, 4]  # the published way would skip and repeat
    assert choose_frames(100, 0.5, 1.0, 4) == [12, 37, 62, 87]


def test_a_video_is_shown_whole_before_the_first_question(media: Path):
    seen = shown({"video": "video", "conversations": talk("Q", "A", "R", "B")}, media)
    assert indices(seen) == [[1, 3, 5, 7, 9, 11, 13, 15, 17, 19], []]
    assert times(seen) == [0.5 + n for n in range(10)]


def test_a_dialogue_sees_no_later_frame(media: Path):
    turns = [*at(2.5, "Q", "A"), *at(2.9, "R", "B"), *at(6, "S", "C")]
    seen = shown({"video": "video.mp4", "conversations": turns}, media)
    assert indices(seen) == [[1, 3, 5], [], [7, 9, 11]]
    for turn, frames in seen:
        assert all(frame.timestamp <= turn.timestamp for frame in frames)


def test_a_question_past_the_end_sees_the_whole_video(media: Path):
    seen = shown({"video": "video.mp4", "conversations": at(1000, "Q", "A")}, media)
    assert indices(seen) == [[1, 3, 5, 7, 9, 11, 13, 15, 17, 19]]


def test_the_frames_allowed_are_spent_on_what_is_asked_about(media: Path):
    seen = shown({"video": "video.mp4", "conversations": at(4, "Q", "A")}, media, max_frames=4, frames_over="asked")
    assert indices(seen) == [[1, 3, 5, 7]]


def test_clip_and_clock(media: Path):
    row = {"video": "video.mp4", "clip": [2, 6], "conversations": [*at(3, "Q", "A"), *at(5, "R", "B")]}
    seen = shown(row, media)
    assert (indices(seen), times(seen)) == ([[5], [7, 9]], [2.5, 3.5, 4.5])
    row = {**row, "need_reset_timestamp": True, "conversations": [*at(1, "Q", "A"), *at(3, "R", "B")]}
    seen = shown(row, media, clock_zero="clip")
    assert (indices(seen), times(seen)) == ([[5], [7, 9]], [0.5, 1.5, 2.5])


@pytest.mark.parametrize("fps", [10, 10.0])
def test_frame_files_are_in_natural_order_with_their_rate(fps: float, media: Path):
    row = {"video": "frames", "fps": fps, "conversations": talk("<video>\nQ", "A")}
    seen = shown(row, media, fps=5)
    assert indices(seen) == [[1, 3, 5, 7, 9, 11]]
    assert times(seen) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.1])


def test_a_named_file_ends_a_turn(media: Path):
    names = [f"img{number:05}.png" for number in range(30)]
    turns = [*talk("Q", "A", image_file=names[9]), *talk("R", "B", image_file="named/" + names[20])]
    row = {"video": "named", "fps": 5, "all_image_files": names, "conversations": turns}
    assert indices(shown(row, media, listed_frames="fps")) == [[2, 8], [12, 18]]
    without_list = {"video": "named", "fps": 5, "conversations": turns}
    assert indices(shown(without_list, media)) == [[2, 8], [12, 18]]
    clock = [{**turn, "timestamps": 900 + 2 * n} for n, turn in enumerate(turns)]
    assert times(shown({**without_list, "conversations": clock}, media)) == pytest.approx([898.6, 899.8, 900.6, 901.8])


def test_turns_that_say_and_show_nothing_are_left_out(media: Path):
    turns = [*at(1, "Q", "A"), *at(1.2, "<video>\n", "nothing new"), *at(1.3, "R", "B"), *at(3, "<video>\n", "C")]
    seen = shown({"video": "video.mp4", "conversations": turns}, media)
    assert [turn.answer for turn, _ in seen] == ["A", "B", "C"]
    assert indices(seen) == [[1], [], [3, 5]]


def boxes(count: int, step: float) -> list[dict[str, Any]]:
    return [{"timestamp": round(n * step, 2), "bbox": f"[0.{n:02}, 0, 1, 1]"} for n in range(count)]


def tracking(count: int, step: float, **more: Any) -> dict[str, Any]:
    names = [f"img{number:05}.png" for number in range(30)]
    query = {"from": "human", "value": "<video>\nFollow <bbox>."}
    return {
        "video": "named",
        "all_image_files": names,
        "query_template": query,
        "image_bboxes": boxes(count, step),
        **more,
    }


def test_tracking_dialogue():
    found = tracking_turns(Turn("Follow <bbox>.", ""), [Box(0.0, "[0]"), Box(1.0, "[1]"), Box(2.0, "[2]")], start=1)
    assert found == (
        Turn("Follow [1].", "At 0.0s, [0]\nAt 1.0s, [1]", 1.0),
        Turn("<video>\n", "At 2.0s, [2]", 2.0),
    )


@pytest.mark.parametrize("seed", range(6))
def test_tracking_shows_the_frame_of_every_box_it_speaks_of(seed: int, media: Path):
    seen = shown(tracking(30, 0.5), media, max_frames=8, seed=seed, listed_frames="fps")
    groups = indices(seen)
    assert all_indices(seen) == [0, 2, 6, 10, 14, 18, 22, 26]  # 15 boxes a second apart, thinned to 8
    spoken = [line for turn, _ in seen for line in turn.answer.split("\n")]
    assert spoken == [f"At {n / 2:.1f}s, [0.{n:02}, 0, 1, 1]" for n in all_indices(seen)]
    assert f"Follow [0.{groups[0][-1]:02}, 0, 1, 1]." in seen[0][0].question
    assert all(len(group) == 1 for group in groups[1:])


def test_tracking_starts_differ_and_are_the_seeds(media: Path):
    starts = [len(shown(tracking(30, 1), media, seed=seed)) for seed in range(12)]
    assert len(set(starts)) > 3
    assert starts == [len(shown(tracking(30, 1), media, seed=seed)) for seed in range(12)]


def test_boxes_of_some_frames_find_theirs_by_time(media: Path):
    seen = shown(tracking(5, 1.0, fps=5), media)
    assert all_indices(seen) == [0, 5, 10, 15, 20]


BAD = {
    "no file": ({"video": "nowhere", "QA": [{"q": "Q", "a": "A"}]}, MediaError, "does not exist, nor with .mp4"),
    "zero bytes": ({"video": "empty.mp4", "QA": [{"q": "Q", "a": "A"}]}, MediaError, "is empty"),
    "clip": ({"video": "video.mp4", "clip": [50, 60], "QA": [{"q": "Q", "a": "A"}]}, SampleError, "lasts 10.0 s"),
    "too early": (
        {"video": "video.mp4", "clip": [5, 8], "conversations": at(2, "Q", "A")},
        SampleError,
        "nothing has been seen",
    ),
    "file": (
        {"video": "frames", "conversations": talk("Q", "A", image_file="x.png")},
        SampleError,
        "none of the 12 frames",
    ),
    "back": (
        {
            "video": "frames",
            "conversations": [*talk("Q", "A", image_file="3.png"), *talk("Q", "A", image_file="1.png")],
        },
        SampleError,
        "must not go back",
    ),
    "box": (tracking(5, 9.0), SampleError, "the box at 36.0 s has no frame"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_footage_says_what_is_wrong(case: str, media: Path):
    row, error, message = BAD[case]
    with pytest.raises(error, match=message):
        shown(row, media)


def test_frames_ascend(media: Path):
    for max_frames in range(1, 12):
        row = {"video": "video.mp4", "conversations": [*at(4, "Q", "A"), *at(9.9, "R", "B")]}
        chosen = all_indices(shown(row, media, fps=2, max_frames=max_frames))
        assert 1 <= len(chosen) <= max_frames
        assert all(earlier < later for earlier, later in pairwise(chosen))
