"""The published loader rule by rule, with ours beside it; values from what is known of its source (docs/train.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videochat_online.data.dataset import ConversationDataset
from videochat_online.data.formats import read_row
from videochat_online.data.settings import OURS, PUBLISHED, DataSettings
from videochat_online.processing import Processor
from videochat_online.prompt.messages import Image

from .conftest import at, greys, talk
from .test_clip import all_indices, indices, shown, times

MakeDataset = Callable[..., ConversationDataset]
NAMES = [f"img{number:05}.png" for number in range(30)]
PAIRS = {"image": "small.png", "QA": [{"i": "Look.", "q": f"Question {n}?", "a": f"Answer {n}."} for n in range(5)]}


def tracking(timestamps: list[float], num_files: int) -> dict[str, Any]:
    return {
        "video": "named",
        "all_image_files": NAMES[:num_files],
        "query_template": {"from": "human", "value": "<video>\nFollow <bbox>."},
        "image_bboxes": [{"timestamp": time, "bbox": [0.0, 0.25, n / 100, 1.0]} for n, time in enumerate(timestamps)],
    }


def test_ours_is_another_choice_of_every_rule():
    assert all(getattr(PUBLISHED, name) != value for name, value in OURS.items())
    assert DataSettings(**OURS) != PUBLISHED


@pytest.mark.parametrize(
    ("instruction", "question", "published", "ours"),
    [
        ("Do.", "Q?", "Do. Q?", "Do.\nQ?"),
        ("Describe.", "", "Describe.", "Describe."),
        ("", "Q?", "Q?", "Q?"),
        (" Do. ", "Q?\n", "Do.  Q?", " Do. \nQ?\n"),
    ],
)
def test_a_pair_is_joined_by_one_space_and_stripped(instruction: str, question: str, published: str, ours: str):
    row = {"video": "v", "QA": [{"i": instruction, "q": question, "a": " A "}]}
    assert read_row(row).turns[0].question == published
    assert read_row(row, DataSettings(pair_joint="newline")).turns[0].question == ours
    assert read_row(row).turns[0].answer == " A "


def said(dataset: ConversationDataset, processor: Processor) -> list[int]:
    """The numbers of the questions in the order in which they are asked."""
    text = processor.decode(dataset[0].input_ids)
    return sorted(range(5), key=lambda number: text.index(f"Look. Question {number}?"))


def test_pairs_are_shuffled_each_time_a_sample_is_read(make_dataset: MakeDataset, processor: Processor):
    orders = []
    dataset = make_dataset([PAIRS])
    for epoch in range(8):
        dataset.set_epoch(epoch)
        orders.append(said(dataset, processor))
        text = processor.decode(dataset[0].input_ids)
        with dataset.prepare(0, 0, seed=str(epoch)) as (layout, _):  # the picture stands before the first of them
            assert any(isinstance(part, Image) for part in layout.messages[0].parts)
        for number in range(5):
            assert text.index(f"Question {number}") < text.index(f"Answer {number}")
    assert len({tuple(order) for order in orders}) > 5
    dataset.set_epoch(0)
    assert said(dataset, processor) == orders[0]
    assert said(make_dataset([PAIRS], pair_order="listed"), processor) == [0, 1, 2, 3, 4]


ORDERED = {
    "a dialogue": {"video": "v", "conversations": talk("Q", "A", "R", "B")},
    "its picture has a place": {"image": "a.jpg", "QA": [{"q": "Hello.", "a": "A"}, {"q": "<image>\nQ", "a": "B"}]},
    "asked in time": {"video": "v", "QA": [{"q": "Q", "a": "A", "timestamps": 1}]},
}


@pytest.mark.parametrize("case", ORDERED)
def test_turns_with_an_order_keep_it(case: str):
    assert not read_row(ORDERED[case]).any_order
    assert read_row(PAIRS).any_order


@pytest.mark.parametrize("num_files", [5, 30])
def test_five_boxes_in_1_6_seconds_are_five_frames(num_files: int, media: Path):
    row = tracking([0.0, 0.4, 0.8, 1.2, 1.6], num_files) | {"fps": 5 if num_files == 30 else 2.5}
    wanted = [0, 2, 4, 6, 8] if num_files == 30 else [0, 1, 2, 3, 4]
    assert all_indices(shown(row, media)) == wanted
    assert len(all_indices(shown(row, media, listed_frames="fps"))) == 2


def test_more_than_64_listed_frames_are_thinned_by_linspace(media: Path):
    """numpy.linspace(0, n - 1, 64, dtype=int): the first and the last are among them."""
    names = [f"named/{NAMES[number % 30]}" for number in range(100)]
    row = {"all_image_files": names, "fps": 10, "conversations": at(100, "Q", "A")}
    chosen = all_indices(shown(row, media))
    assert len(chosen) == 64 and chosen == [int(number * 99 / 63) for number in range(64)]
    row = tracking([n / 10 for n in range(100)], 30) | {"all_image_files": names, "fps": 10}
    assert all_indices(shown(row, media)) == chosen


def test_frames_of_all_image_files_are_all_shown(media: Path):
    turns = [*talk("Q", "A", image_file=NAMES[3]), *talk("R", "B", image_file=NAMES[8])]
    row = {"video": "named", "fps": 10, "all_image_files": NAMES, "conversations": turns}
    assert indices(shown(row, media)) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    folder = {**row, "all_image_files": None}  # a folder is a recording, of which one frame a second is shown
    assert indices(shown(folder, media)) == [[], [5]]


def test_a_box_is_written_as_python_prints_it(media: Path):
    row = tracking([0, 1.04], 2) | {"image_bboxes": json.loads(
        '[{"timestamp": 0, "bbox": [0.0, 1.0, 0.123456789, 1]}, {"timestamp": 1.04, "bbox": [0.10, 0.0, 1.0, 0.50]}]'
    )}  # fmt: skip
    spoken = "\n".join(turn.answer for turn, _ in shown(row, media))
    assert spoken == "At 0.0s, [0.0, 1.0, 0.123456789, 1]\nAt 1.0s, [0.1, 0.0, 1.0, 0.5]"
    spoken = "\n".join(turn.answer for turn, _ in shown(row, media, box_text="short"))
    assert spoken == "At 0.0s, [0, 1, 0.123457, 1]\nAt 1.0s, [0.1, 0, 1, 0.5]"


def test_time_is_reset_by_the_first_sampled_frame(media: Path, make_dataset: MakeDataset, processor: Processor):
    turns = [*at(1, "Q", "A"), *at(3, "R", "B")]
    row = {"video": "video.mp4", "clip": [2, 6], "need_reset_timestamp": True, "conversations": turns}
    seen = shown(row, media)
    assert (indices(seen), times(seen)) == ([[5, 7], [9, 11]], [0.0, 1.0, 2.0, 3.0])
    assert times(shown(row, media, clock_zero="clip")) == [0.5, 1.5, 2.5]
    slow = {"video": "named", "fps": 1, "need_reset_timestamp": True, "conversations": at(12, "Q", "A")}
    assert times(shown(slow, media, max_frames=4, frames_over="asked"))[0] == 0.0
    assert "Frame1 at 0.0s: " in processor.decode(make_dataset([row])[0].input_ids)


def test_a_clip_is_counted_in_frames(media: Path):
    """2 fps; [2, 6]: first int(2 * 2), int(4 * 2) of them. The frame that begins at 6.0 s is not in it."""
    row = {"video": "video.mp4", "clip": [2, 6], "conversations": talk("Q", "A")}
    assert all_indices(shown(row, media, fps=2)) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert all_indices(shown(row, media, fps=2, clip_bounds="seconds")) == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert all_indices(shown({**row, "clip": [2.4, 3.9]}, media, fps=2)) == [4, 5, 6]
    assert all_indices(shown({**row, "clip": [2.4, 3.9]}, media, fps=2, clip_bounds="seconds")) == [5, 6, 7]
    assert all_indices(shown({**row, "clip": [3.1, 3.2]}, media)) == [6]  # not none


def test_frames_are_spread_over_the_clip_and_later_ones_dropped(media: Path):
    row = {"video": "video.mp4", "conversations": at(4, "Q", "A")}
    assert all_indices(shown(row, media, max_frames=4)) == [1, 7]  # of 1, 7, 13, 19
    assert all_indices(shown(row, media, max_frames=4, frames_over="asked")) == [1, 3, 5, 7]
    early = {"video": "video.mp4", "conversations": at(0.2, "Q", "A")}
    assert all_indices(shown(early, media)) == [0]  # before all that were sampled: not nothing


def test_lengths_count_what_is_shown(make_dataset: MakeDataset):
    listed = {"video": "named", "fps": 10, "all_image_files": NAMES, "conversations": talk("Q", "A")}
    dataset = make_dataset([tracking([n / 10 for n in range(30)], 30), listed])
    for length, number in zip(dataset.lengths, range(2), strict=True):
        assert len(greys(dataset[number])) == 30
        assert len(dataset[number].input_ids) <= length <= 2 * len(dataset[number].input_ids)
