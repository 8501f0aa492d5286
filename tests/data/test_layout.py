"""Samples laid out: pictures stand where they belong and cost what the pyramid says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videochat_online.config import MemoryConfig, scheduled_grids
from videochat_online.data.clip import ShownFrame, open_clip
from videochat_online.data.formats import read_row
from videochat_online.data.layout import (
    check_placeholders,
    frame_messages,
    image_messages,
    lay_out_clip,
    lay_out_images,
)
from videochat_online.data.sample import SampleError
from videochat_online.data.settings import DataSettings
from videochat_online.media.readers import open_image, open_video
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.prompt.messages import Image, Message

from .conftest import at, talk

MEMORY = MemoryConfig.pyramid()


def frames(*seconds: float) -> tuple[ShownFrame, ...]:
    return tuple(ShownFrame(int(2 * second), second) for second in seconds)


def lay_out(row: dict[str, Any], *groups: tuple[ShownFrame, ...], with_times: bool = False) -> list[tuple[Any, ...]]:
    sample = read_row(row)
    turns = list(zip(sample.turns, groups, strict=True))
    grids = scheduled_grids(sum(map(len, groups)), MEMORY.every, MEMORY.grids)
    return [message.parts for message in frame_messages(sample, turns, grids, with_times=with_times)]


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Q", ("Frame1: ", Image(256), "\n", "Frame2: ", Image(16), "\n", "Q")),
        ("<video>\nQ", ("Frame1: ", Image(256), "\n", "Frame2: ", Image(16), "\n", "Q")),
        ("<image>\nQ", ("Frame1: ", Image(256), "\n", "Frame2: ", Image(16), "\n", "Q")),
        ("See <video> now", ("See ", "Frame1: ", Image(256), "\n", "Frame2: ", Image(16), "\n", " now")),
        ("Q\n<video>", ("Q\n", "Frame1: ", Image(256), "\n", "Frame2: ", Image(16), "\n")),
    ],
)
def test_frames_stand_at_the_placeholder_or_first(question: str, parts: tuple[Any, ...]):
    row = {"video": "v", "conversations": talk(question, "A", "R", "B")}
    assert lay_out(row, frames(0.5, 1.5), ()) == [parts, ("A",), ("R",), ("B",)]


def test_a_dialogue_counts_its_frames_over_all_turns():
    row = {"video": "v", "conversations": [*at(2, "<video>\nQ", "A"), *at(3, "R", "B"), *at(9, "S", "C")]}
    found = lay_out(row, frames(0.5, 1.5), (), frames(3.5, 4.5, 8.5), with_times=True)
    assert found[0] == ("Frame1 at 0.5s: ", Image(256), "\n", "Frame2 at 1.5s: ", Image(16), "\n", "Q")
    assert found[2] == ("R",)
    assert found[4][:5] == ("Frame3 at 3.5s: ", Image(16), "\n", "Frame4 at 4.5s: ", Image(16))
    assert found[4][6:] == ("Frame5 at 8.5s: ", Image(64), "\n", "S")


def test_grids_follow_the_pyramids_schedule(media: Path):
    sample = read_row({"video": "video", "conversations": talk("Q", "A")})
    clip = open_clip(sample, media, open_video, DataSettings())
    with clip.reader:
        layout = lay_out_clip(sample, clip, DataSettings(), 64, memory=MEMORY, seed="0")
        assert layout.grids == [16, 4, 4, 4, 8, 4, 4, 4, 16, 4]
        assert layout.captions[8] == "Frame9 at 8.5s, 16x16"
        assert len(list(layout.pictures)) == 10


def test_images_stand_at_their_placeholders(media: Path, config: VideoChatOnlineConfig):
    row = {"image": ["wide.png", "small.png"], "conversations": talk("First <image>, then", "A", "<image>!", "B")}
    images = [open_image(media / name) for name in row["image"]]
    layout = lay_out_images(read_row(row), images, config, 4)
    assert layout.messages == [
        Message("user", ("First ", Image(48), ", then")),
        Message("assistant", ("A",)),
        Message("user", (Image(16), "!")),
        Message("assistant", ("B",)),
    ]
    assert layout.grids == [4, 4, 4, 4]
    assert layout.captions == ["image 1 tile 1/3", "image 1 tile 2/3", "image 1 tile 3/3", "image 2"]
    assert len(list(layout.pictures)) == 4


def test_images_without_placeholders_stand_first():
    messages = image_messages(read_row({"image": ["a", "b"], "conversations": talk("Q", "A")}), [4, 4])
    assert messages[0].parts == (Image(4), "\n", Image(4), "\nQ")


def test_a_system_message_is_kept_and_answers_hold_no_pictures(config: VideoChatOnlineConfig):
    row = {"conversations": [{"from": "system", "value": "S"}, *talk("Q", "write <image> and <video>")]}
    layout = lay_out_images(read_row(row), [], config, 4)
    assert layout.messages == [
        Message("system", ("S",)),
        Message("user", ("Q",)),
        Message("assistant", ("write <image> and <video>",)),
    ]
    assert layout.grids == []


BAD = {
    "too many": ({"image": "a", "conversations": talk("<image><image>", "A")}, "2 <image> placeholders for 1 images"),
    "too few": ({"image": ["a", "b"], "conversations": talk("<image>", "A")}, "1 <image> placeholders for 2 images"),
    "none to see": ({"conversations": talk("<image>\nQ", "A")}, "1 <image> placeholders for 0 images"),
    "twice": (
        {"video": "v", "conversations": talk("<video><video>", "A")},
        "turn 0 holds 2 <video>; expected one at most",
    ),
    "images": ({"video": "v", "conversations": talk("<image><image>", "A")}, "turn 0 holds 2 <image>"),
    "again": ({"video": "v", "conversations": talk("Q", "A", "<video>", "B")}, "turn 1 holds 1 <video>; expected none"),
}


@pytest.mark.parametrize("case", BAD)
def test_placeholders_that_do_not_fit_are_an_error(case: str):
    row, message = BAD[case]
    sample = read_row(row)
    with pytest.raises(SampleError, match=message):
        check_placeholders(sample)
    with pytest.raises(SampleError, match=message):
        if sample.video:
            lay_out(row, frames(1), *[()] * (len(sample.turns) - 1))
        else:
            image_messages(sample, [4] * len(sample.images))
