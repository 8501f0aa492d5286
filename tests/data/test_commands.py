"""`videochat-online data`: what is printed and written, and the exit status."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.odd_media import with_unknown_codec
from videochat_online.data.commands import (
    CAPTION_HEIGHT,
    MARGIN,
    THUMBNAIL,
    add_data_command,
    contact_sheet,
)

from .conftest import GREY_STEP, at, talk

ROWS = [
    {"conversations": talk("Q", "Only words.")},
    {"video": "video", "conversations": [*at(2, "What now?", "It is dark."), *at(4.9, "And now?", "Brighter.")]},
]
BAD = [{"video": "empty.mp4", "conversations": talk("Q", "A")}, {"caption": "?"}]


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_data_command(parser.add_subparsers())
    options = parser.parse_args(["data", *map(str, arguments)])
    return options.run(options)


def test_check_prints_a_table(write_list: Any, capsys: pytest.CaptureFixture):
    assert run("check", write_list({"first": ROWS, "second": ROWS[:1]}, repeat_time=3)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["set", "rows", "samples", "questions", "images", "videos", "duration", "problems"]
    assert lines[1].split() == ["first", "2", "6", "3", "0", "1", "0:00:10", "0"]
    assert lines[2].split() == ["second", "1", "3", "1", "0", "0", "0:00:00", "0"]
    assert lines[-1] == "no problems"


def test_check_reports_all_problems_and_fails(write_list: Any, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run("check", write_list({"set": [*ROWS, *BAD]}), "--json", tmp_path / "report.json", "--workers", 1) == 1
    text = capsys.readouterr().out
    assert "2 problems:" in text
    assert "  set, row 2: " in text
    assert "empty.mp4: is empty" in text
    assert "  set, row 3: " in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(one["row"], one["data_set"]) for one in report["problems"]] == [(2, "set"), (3, "set")]
    assert report["sets"][0]["kinds"] == {"text": 1, "online": 1, "video": 1}


def test_check_wants_workers(write_list: Any):
    with pytest.raises(ValueError, match="--workers must be at least 1, got 0"):
        run("check", write_list({"set": ROWS}), "--workers", 0)


def test_show_prints_the_prompt_and_saves_the_frames(write_list: Any, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = write_list({"other": ROWS[:1], "set": ROWS})
    assert run("show", path, 1, "--set", "set", "--picture", tmp_path / "sheet.png") == 0
    text = capsys.readouterr().out
    assert "set, row 1: online, video" in text
    assert "5 pictures: 1 of 4x4, 3 of 1x1, 1 of 2x2" in text
    assert "Frame1 at 0.5s: <img>{16}</img>" in text
    assert "Frame3 at 2.5s: <img>{1}</img>" in text
    assert text.count("«") == 2
    assert "«It is dark." in text
    assert "5 pictures saved to" in text
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    middle = MARGIN + THUMBNAIL // 2
    seen = [sheet[middle, middle + number * (THUMBNAIL + MARGIN)].mean() / GREY_STEP for number in range(5)]
    assert np.round(seen).tolist() == [1, 3, 5, 7, 9]
    captions = sheet[MARGIN + THUMBNAIL : MARGIN + THUMBNAIL + CAPTION_HEIGHT]
    assert (captions < 128).any()

    assert run("show", path, 2) == 0  # sample 2 of an epoch over both sets
    assert "set, row 1: online" in capsys.readouterr().out


def test_show_obeys_its_flags(write_list: Any, capsys: pytest.CaptureFixture):
    assert run("show", write_list({"set": ROWS}), 1, "--fps", 2, "--num-frames", 3) == 0
    assert "2 pictures" in capsys.readouterr().out  # the third comes after the last question
    for times, begins in {"always": "Frame1 at ", "never": "Frame1: "}.items():
        assert run("show", write_list({"set": ROWS}), 1, "--frame-times", times) == 0
        assert begins in capsys.readouterr().out


WRONG = {
    "number": (["2", "--set", "set"], r"N must be from 0 to 1 \(the set 'set' has 2 samples\), got 2"),
    "set": (["0", "--set", "sat"], "--set sat: no such set, .* has set"),
    "no pictures": (["0", "--picture", "x.png"], "shows no pictures"),
    "picture": (["1", "--picture", "/nowhere/x.png"], "--picture /nowhere/x.png: cannot be written"),
    "model": (["1", "--model", "nothing"], "nothing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_flags_are_one_line(case: str, write_list: Any):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        run("show", write_list({"set": ROWS}), *arguments)


def test_show_does_not_replace_what_it_is_asked_for(write_list: Any):
    with pytest.raises(ValueError, match=r"empty\.mp4: is empty"):
        run("show", write_list({"set": BAD}), 0)


def test_show_says_what_is_wrong_with_an_odd_file(write_list: Any, media: Path):
    with_unknown_codec(media / "strange.mp4")
    with pytest.raises(ValueError, match=r"strange\.mp4: its codec 'zz9z' is unknown to FFmpeg"):
        run("show", write_list({"set": [{"video": "strange.mp4", "conversations": talk("Q", "A")}]}), 0)


def test_a_sheet_has_rows_of_eight():
    pictures = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in range(9)]
    sheet = contact_sheet(pictures, [str(n) for n in range(9)])
    assert sheet.size == (8 * (THUMBNAIL + MARGIN) + MARGIN, 2 * (THUMBNAIL + CAPTION_HEIGHT + MARGIN) + MARGIN)
    assert sheet.getpixel((MARGIN + 5, 2 * MARGIN + THUMBNAIL + CAPTION_HEIGHT + 5)) == (8, 0, 0)


def test_check_decodes_what_training_shows(write_list: Any, capsys: pytest.CaptureFixture):
    flags = ("--decode", "--num-frames", 3, "--workers", 2)
    assert run("check", write_list({"set": ROWS}), *flags) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 frames and images decoded: no problems"
    assert run("check", write_list({"set": [*ROWS, *BAD]}), *flags) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 frames and images decoded: 2 problems"
    with pytest.raises(ValueError, match="--fps must be above 0, got 0"):
        run("check", write_list({"set": ROWS}), "--decode", "--fps", 0)
