"""A row of several videos: each at its mark, with its own times and its share of the frames; through the commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.world import save_small_model
from videochat_online.cli import main
from videochat_online.data.dataset import ConversationDataset
from videochat_online.training.log import read_log

from .conftest import greys, talk, write_video

TWO: dict[str, Any] = {"video": ["video.mp4", "frames"], "fps": 1}
"""20 frames at 2 a second, of greys 0 to 19; a folder of 12 pictures at 1 a second."""


def shown(dataset: ConversationDataset, row: int = 0) -> tuple[str, list[int], list[int]]:
    """The prompt, which frames it shows, and the grid of each."""
    with dataset.prepare(0, row) as (layout, rendered):
        example = dataset.example(layout, rendered, ("set", row))
    return dataset.processor.tokenizer.decode(rendered.ids), greys(example), layout.grids


def test_each_video_stands_at_its_mark_with_its_own_times(make_dataset: Callable[..., ConversationDataset]):
    row = {**TWO, "conversations": talk("One: <video>\nTwo: <video>\nWhich is longer?", "the second")}
    text, frames, grids = shown(make_dataset([row], num_frames=7, frame_times="always"))
    lines = re.findall(r"(One: |Two: )?Frame(\d+) at ([\d.]+)s", text)
    assert [int(number) for _, number, _ in lines] == [1, 2, 3, 4, 5, 6]  # 7 // 2 for each, counted over both
    assert [place for place, number, _ in lines if place] == ["One: ", "Two: "] and lines[3][0] == "Two: "
    times = [float(time) for _, _, time in lines]
    assert times[:3] == sorted(times[:3]) and times[3] < times[2] and times[3:] == sorted(times[3:])
    assert [round(2 * time) for time in times[:3]] == frames[:3]  # grey n is frame n, at n / 2 s
    assert [round(time) for time in times[3:]] == frames[3:]
    assert grids[:3] == grids[3:] and grids[0] > grids[1]  # the pyramid begins anew with each
    assert "\nWhich is longer?" in text and "<video>" not in text


MARKED = {
    "none": talk("Q", "A"),
    "both": talk("<video><video>Q", "A"),
    "a turn each": talk("<video>\nQ", "A", "And <video>\nthis?", "B"),
}


@pytest.mark.parametrize("case", MARKED)
def test_marks(case: str, make_dataset: Callable[..., ConversationDataset]):
    text, frames, _ = shown(make_dataset([{**TWO, "conversations": MARKED[case]}]))
    assert len(frames) == 10 + 12 and "<video>" not in text
    question, last = text.index("Q<"), text.index("Frame22: ")
    assert (last > question) == (case == "a turn each") and text.index("Frame10: ") < question


def test_one_video_twice(make_dataset: Callable[..., ConversationDataset]):
    _, frames, _ = shown(make_dataset([{"video": ["video.mp4"] * 2, "conversations": talk("Q", "A")}], num_frames=4))
    assert len(frames) == 4 and frames[:2] == frames[2:]


def test_more_videos_than_frames_show_one_each(make_dataset: Callable[..., ConversationDataset]):
    _, frames, _ = shown(make_dataset([{"video": ["video.mp4"] * 3, "conversations": talk("Q", "A")}], num_frames=2))
    assert len(frames) == 3


def test_a_row_too_long_loses_frames_of_both(make_dataset: Callable[..., ConversationDataset]):
    row = {**TWO, "conversations": talk("One: <video>\nTwo: <video>\nQ", "A")}
    whole, cut = (shown(make_dataset([row], max_length=length))[2] for length in (4096, 350))
    assert len(cut) < len(whole) and len(cut) % 2 == 0


@pytest.mark.parametrize("num_frames", [2, 7, 64])
@pytest.mark.parametrize("case", MARKED)
def test_the_estimate_is_not_below_the_length(case: str, num_frames: int, make_dataset: Any):
    dataset = make_dataset([{**TWO, "conversations": MARKED[case]}], num_frames=num_frames, frame_times="always")
    with dataset.prepare(0, 0) as (_, rendered):
        assert len(rendered.ids) <= dataset.lengths[0]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "marks": ({**TWO, "conversations": talk("<video> Q", "A")}, "1 <video> placeholders for 2 videos"),
    "more marks": ({**TWO, "conversations": talk("<video><video><video>Q", "A")}, "3 <video> placeholders for 2"),
    "image marks": ({**TWO, "conversations": talk("<image><image>Q", "A")}, "<image> in a row of 2 videos"),
    "broken": ({"video": ["video.mp4", "empty.mp4"], "conversations": talk("Q", "A")}, "empty.mp4"),
    "missing": ({"video": ["gone.mp4", "video.mp4"], "conversations": talk("Q", "A")}, "gone.mp4"),
    "start and end": (
        {"video": ["video.mp4", "video.mp4"], "start": [0, 1], "end": [2, 3], "conversations": talk("Q", "A")},
        "2 videos are shown whole: expected no clip, start, end",
    ),
}


@pytest.mark.parametrize("decode", [[], ["--decode"]])
@pytest.mark.parametrize("case", BAD)
def test_check_names_what_is_wrong_once(case: str, decode: list[str], write_list: Any, capsys: Any):
    row, message = BAD[case]
    assert main(["data", "check", str(write_list({"set": [row]})), "--workers", "1", *decode]) == 1
    told = capsys.readouterr().out
    assert message in told and told.rstrip().endswith("1 problem") and "Traceback" not in told


@pytest.mark.parametrize("case", BAD)
def test_training_and_show_say_the_same(case: str, make_dataset: Any, write_list: Any, capsys: Any):
    row, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)), make_dataset([row]).prepare(0, 0):
        pass
    assert main(["data", "show", str(write_list({"set": [row]})), "0"]) == 2
    assert message in capsys.readouterr().err


def test_check_show_and_a_step_of_training(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]):
    """Bare rows of two forms -> a list, a picture, a step, packed with a row of one video."""
    parts = [{"type": "video_url", "video_url": {"url": name}} for name in ("video.mp4", "other.mp4")]
    words = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}]
    rows = [
        {"video": ["video.mp4", "other.mp4"], "conversations": talk("<video>\n<video>\nWhich?", "the first")},
        {"messages": [*words, {"role": "assistant", "content": "the other"}]},
        {"video": "video.mp4", "conversations": talk("<video>\nWhich?", "this")},
    ]
    for name in ("video.mp4", "other.mp4"):
        write_video(tmp_path / name, num_frames=8, fps=2)
    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf-8")
    assert main(["data", "check", str(tmp_path / "rows.json"), "--decode", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^rows +3 +3 +3 +0 +2 +0:00:08 +0$", told, re.MULTILINE) and "8 frames and images decoded" in told
    list_path, sheet = str(tmp_path / "rows_list.json"), tmp_path / "sheet.png"
    for number in ("0", "1"):
        flags = ["--picture", str(sheet), "--frame-times", "always"]
        assert main(["data", "show", list_path, number, *flags]) == 0
        told = capsys.readouterr().out
        assert "video, video.mp4, other.mp4" in told and "8 pictures saved" in told
        assert [line for line in told.splitlines() if "Frame1 at" in line or "Frame5 at 0." in line]
    model = save_small_model(tmp_path / "model")
    flags = "--max-steps 2 --global-batch-size 3 --warmup 0 --num-workers 0 --cpu --tracker none --log-every 1"
    flags += " --preset finetune --min-steps 0 --llm full --batching packed --loss-chunks 3 --max-length 1024"
    run = tmp_path / "run"
    command = ["train", "--model", str(model), "--data", list_path, "--output-dir", str(run), *flags.split()]
    assert main(command) == 0, capsys.readouterr().err
    losses = [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert (run / "model/config.json").is_file()
