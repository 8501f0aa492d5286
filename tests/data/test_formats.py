"""Every raw format becomes the sample it means, the row stays as it was, and what is wrong is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from videochat_online.data.formats import format_of, read_row
from videochat_online.data.sample import Box, Sample, SampleError, Turn, Video

from .conftest import at, talk

BOXES = [{"timestamp": 0, "bbox": "[0.1, 0.2, 0.3, 0.4]"}, {"timestamp": 1.0, "bbox": [0.1, 0.25, 0.5, 1]}]
QUERY = {"from": "human", "value": "Track <bbox>."}


def said(*contents: Any) -> list[dict[str, Any]]:
    """`messages`: user and assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


PICTURE = {"type": "image_url", "image_url": {"url": "a.jpg"}}

GOOD: dict[str, tuple[dict[str, Any], Sample]] = {
    "text": ({"conversations": talk("Q", "A")}, Sample("text", (Turn("Q", "A"),))),
    "empty image": ({"image": "", "conversations": talk("Q", "A")}, Sample("text", (Turn("Q", "A"),))),
    "system": (
        {"conversations": [{"from": "system", "value": "Be brief."}, *talk("Q", "A")]},
        Sample("text", (Turn("Q", "A"),), system="Be brief."),
    ),
    "image": (
        {"id": 7, "image": "a.jpg", "conversations": talk("<image>\nQ", "A", "R", "B")},
        Sample("image", (Turn("<image>\nQ", "A"), Turn("R", "B")), images=("a.jpg",)),
    ),
    "images": (
        {"image": ["a.jpg", "b.jpg"], "conversations": talk("<image><image>Q", "A")},
        Sample("image", (Turn("<image><image>Q", "A"),), images=("a.jpg", "b.jpg")),
    ),
    "video": (
        {"video": "v.mp4", "conversations": talk("<video>\nQ", "A", "a trailing question")},
        Sample("video", (Turn("<video>\nQ", "A"),), video=Video("v.mp4")),
    ),
    "frame list": (
        {"video": ["1.jpg", "2.jpg"], "fps": 2, "conversations": talk("Q", "A")},
        Sample("video", (Turn("Q", "A"),), video=Video(files=("1.jpg", "2.jpg"), fps=2)),
    ),
    "several videos": (
        {"video": ["a.mp4", "b"], "fps": 2, "QA": [{"q": "Q", "a": "A"}]},
        Sample(
            "video", (Turn("Q", "A"),), video=Video("a.mp4", fps=2), more_videos=(Video("b", fps=2),), any_order=True
        ),
    ),
    "one video in a list": (
        {"video": ["a.gif"], "QA": [{"q": "Q", "a": "A"}]},
        Sample("video", (Turn("Q", "A"),), video=Video("a.gif"), any_order=True),
    ),
    "video parts": (
        {
            "messages": said(
                [
                    {"type": "video_url", "video_url": {"url": "a.mp4"}},
                    {"type": "video", "video": "b.mp4"},
                    {"type": "text", "text": "Q"},
                ],
                "A",
            )
        },
        Sample("video", (Turn("<video>\n<video>\nQ", "A"),), video=Video("a.mp4"), more_videos=(Video("b.mp4"),)),
    ),
    "videochat2": (
        {
            "video": "v.mp4",
            "start": 1,
            "end": 4.5,
            "QA": [{"i": "Do.", "q": "Q", "a": "A"}, {"i": "", "q": "R", "a": "B"}],
        },
        Sample("video", (Turn("Do. Q", "A"), Turn("R", "B")), video=Video("v.mp4", clip=(1.0, 4.5)), any_order=True),
    ),
    "videochat2 caption": (
        {"image": "a.jpg", "QA": [{"i": "Describe.", "q": "", "a": "A"}]},
        Sample("image", (Turn("Describe.", "A"),), images=("a.jpg",), any_order=True),
    ),
    "online": (
        {
            "video": "v",
            "clip": [2, 9],
            "need_reset_timestamp": True,
            "conversations": [*at(3, "Q", "A"), *at(3.5, "R", "B")],
        },
        Sample(
            "online",
            (Turn("Q", "A", 3.0), Turn("R", "B", 3.5)),
            video=Video("v", clip=(2.0, 9.0), reset_timestamps=True),
        ),
    ),
    "image files": (
        {
            "video": "d",
            "fps": 1,
            "all_image_files": ["1.jpg", "2.jpg"],
            "conversations": talk("Q", "A", image_file="2.jpg"),
        },
        Sample("online", (Turn("Q", "A", None, "2.jpg"),), video=Video("d", ("1.jpg", "2.jpg"), 1, is_listed=True)),
    ),
    "content parts": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "file://a.jpg"}},
                        {"type": "image", "image": "b.jpg"},
                        {"type": "text", "text": "Q"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
            ]
        },
        Sample("image", (Turn("<image>\n<image>\nQ", "A"),), images=("a.jpg", "b.jpg"), system="Be brief."),
    ),
    "video part": (
        {"messages": said([{"type": "video_url", "video_url": {"url": "v.mp4"}}, {"type": "text", "text": "Q"}], "A")},
        Sample("video", (Turn("<video>\nQ", "A"),), video=Video("v.mp4")),
    ),
    "ms-swift": (
        {"messages": said("<image><image>Q", "A"), "images": ["a.jpg", "b.jpg"]},
        Sample("image", (Turn("<image><image>Q", "A"),), images=("a.jpg", "b.jpg")),
    ),
    "llama-factory": (
        {"conversations": talk("<video>Q", "A"), "videos": ["v.mp4"], "system": "Be brief.", "tools": ""},
        Sample("video", (Turn("<video>Q", "A"),), video=Video("v.mp4"), system="Be brief."),
    ),
    "tracking": (
        {"video": "d", "all_image_files": ["1.jpg", "2.jpg"], "fps": 1, "image_bboxes": BOXES, "query_template": QUERY},
        Sample(
            "tracking",
            (Turn("Track <bbox>.", ""),),
            video=Video("d", ("1.jpg", "2.jpg"), 1, is_listed=True),
            boxes=(Box(0.0, "[0.1, 0.2, 0.3, 0.4]"), Box(1.0, "[0.1, 0.25, 0.5, 1]")),
        ),
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_row_becomes_a_sample_and_stays_as_it_was(case: str):
    row, expected = GOOD[case]
    before = copy.deepcopy(row)
    assert read_row(row) == expected
    assert row == before


TRACKING = {"all_image_files": ["1.jpg"], "query_template": QUERY, "image_bboxes": BOXES[:1]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown format": (
        {"id": 1, "caption": "a cat"},
        r"unknown format: a row with 'id', 'caption'; expected 'conversations'",
    ),
    "nothing": ({}, "unknown format: a row with no fields"),
    "no answer": ({"conversations": talk("Q")}, "holds no answered question"),
    "nobody": ({"conversations": []}, "holds no answered question"),
    "twice human": ({"conversations": [*talk("Q"), *talk("Q")]}, "turn 1 is from 'user', expected 'gpt'"),
    "gpt first": ({"conversations": talk("Q", "A")[1:]}, "turn 0 is from 'assistant', expected 'human'"),
    "role": ({"conversations": [{"from": "bot", "value": "x"}]}, "'from' of turn 0 must be one of human.*got 'bot'"),
    "no value": ({"conversations": [{"from": "human"}]}, "'value' of turn 0 must be a text, got None"),
    "no turns": ({"conversations": "hello"}, "conversations must be a list"),
    "no a": ({"QA": [{"q": "Q"}]}, "'a' of pair 0 must be a text, got None"),
    "both": ({"image": "a", "video": "b", "conversations": talk("Q", "A")}, "got 'image' and 'video'"),
    "name": ({"image": 5, "conversations": talk("Q", "A")}, "image must be a file name or a list of them, got 5"),
    "clip": ({"video": "v", "clip": [5, 2], "QA": [{"q": "Q", "a": "A"}]}, r"0 <= start < end, got \[5.0, 2.0\]"),
    "clip of one": ({"video": "v", "clip": [5], "QA": [{"q": "Q", "a": "A"}]}, r"clip must be \[start, end\]"),
    "fps": ({"video": "v", "fps": 0, "QA": [{"q": "Q", "a": "A"}]}, "fps must be a number > 0, got 0"),
    "time text": ({"video": "v", "conversations": at("3 s", "Q", "A")}, "timestamps must be seconds, got '3 s'"),  # type: ignore[arg-type]
    "time nan": ({"video": "v", "conversations": at(float("nan"), "Q", "A")}, "timestamps must be finite"),
    "time back": (
        {"video": "v", "conversations": [*at(3, "Q", "A"), *at(2, "Q", "A")]},
        "must not go back, got 2.0 s after 3.0",
    ),
    "no time": (
        {"video": "v", "conversations": [*at(3, "Q", "A"), *talk("Q", "A")]},
        "turn 1 .* neither timestamps nor",
    ),
    "time without video": ({"conversations": at(3, "Q", "A")}, "need a 'video'"),
    "surrogate": ({"conversations": talk("Q", "\ud800")}, "the answer is not Unicode text at character 0"),
    "blank": ({"conversations": talk("Q", "", "R", " ")}, "all 2 answers are blank: there is nothing to learn"),
    "two dialogues": ({"messages": said("Q", "A"), "conversations": talk("Q", "A")}, "a row has one dialogue"),
    "no messages": ({"messages": "hello"}, "messages must be a list of {role, content}, got 'hello'"),
    "role of a message": ({"messages": [{"role": "tool", "content": "Q"}]}, "0: role must be one of human.*got 'tool'"),
    "not learned": (
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "loss": False}]},
        "messages: 1: loss must be true",
    ),
    "order": ({"messages": said("Q", "A")[::-1]}, "turn 0 is from 'assistant', expected 'human'"),
    "part": ({"messages": said([{"type": "audio"}], "A")}, "messages: 0: type must be text, image_url or video_url"),
    "shown by the answer": ({"messages": said("Q", [PICTURE])}, "messages: 1: type must be text: only the user"),
    "on the net": (
        {"messages": said([{"type": "video_url", "video_url": {"url": "https://a.b/v.mp4"}}], "A")},
        "messages: 0: video_url must be a path below data_root",
    ),
    "media twice": ({"messages": said([PICTURE], "A"), "image": "b.jpg"}, "images of a row stand in one place"),
    "videos and frames": ({"video": ["a.mp4", "1.jpg"], "QA": [{"q": "Q", "a": "A"}]}, "frame files, or a list of vid"),
    "videos with a clip": (
        {"video": ["a.mp4", "b.mp4"], "start": [0, 1], "end": [2, 3], "QA": [{"q": "Q", "a": "A"}]},
        "2 videos are shown whole: expected no clip, start, end, all_image_files, got 'start'",
    ),
    "videos in time": (
        {"video": ["a.mp4", "b.mp4"], "conversations": at(3, "Q", "A")},
        r"2 videos \(a.mp4, b.mp4\) with times or boxes, which are of one: make a row of each",
    ),
    "videos with boxes": (
        {"video": ["a.mp4", "b.mp4"], "image_bboxes": BOXES, "query_template": QUERY},
        "with times or boxes, which",
    ),
    "a video without a name": ({"video": ["a.mp4", 7], "QA": [{"q": "Q", "a": "A"}]}, "video must be a file name or a"),
    "no boxes": ({**TRACKING, "image_bboxes": []}, "needs image_bboxes, got none"),
    "box": ({**TRACKING, "image_bboxes": [{"timestamp": 0, "bbox": [1, 2]}]}, "bbox must be a text or four numbers"),
    "boxes back": ({**TRACKING, "image_bboxes": BOXES[::-1]}, "timestamps of image_bboxes must ascend"),
    "no mark": ({**TRACKING, "query_template": {"value": "Track it."}}, "query_template must hold one <bbox>"),
    "tracking nothing": ({"query_template": QUERY, "image_bboxes": BOXES}, "needs 'all_image_files' or 'video'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_says_what_is_wrong(case: str):
    row, message = BAD[case]
    with pytest.raises(SampleError, match=message):
        read_row(row)


def test_formats_have_names():
    names = {case: format_of(row) for case, (row, _) in GOOD.items()}
    expected = {
        "image": "conversations (LLaVA)",
        "videochat2": "QA (VideoChat2-IT)",
        "online": "dialogue in time",
        "tracking": "tracking",
        "content parts": "messages with content parts (OpenAI)",
        "ms-swift": "messages (ms-swift, LLaMA-Factory)",
        "llama-factory": "conversations (LLaMA-Factory)",
    }
    assert {case: names[case] for case in expected} == expected
    assert format_of({"caption": "?"}) == "an unknown format"
