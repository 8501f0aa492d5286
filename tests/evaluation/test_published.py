"""The published protocol against recordings of the scripts, and against a plain second writing of their rules.

The second writing follows the description of the scripts (docs/evaluate.md, "Protocols"), in loops over frames. All
questions at hand are compared: the real files (7,005) where ../shared lies, on stand-ins of four rates and on folders.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT
from videochat_online.evaluation.commands import settings_from_flags
from videochat_online.evaluation.modes import Examiner
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.videos import OpenVideo, known_times, printed_times, published_pass, published_window
from videochat_online.media.image_source import ImageListReader
from videochat_online.media.readers import VideoReader, open_video

RATES = {"10": Fraction(10), "23.976": Fraction(24000, 1001), "25": Fraction(25), "30": Fraction(30)}
SCRIPTS = {"sliding": ("sliding_window", False), "single": ("streaming", False), "multiturn": ("streaming", True)}
TAILS = {
    "sliding": ("\nOnly give the best option.", 16),
    "single": ("\nAnswer:", 128),
    "multiturn": ("\nOnly give the best option.", 128),
}


# ---- recordings of the published scripts ----------------------------------------------------------------------------


def recorded(golden: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((golden / "eval_frames.json").read_text())[name]


def test_the_sliding_window_is_the_recorded_one_frame_by_frame(golden: Path):
    rows = recorded(golden, "sliding_encode_video")
    for row in rows:
        start = 900.0 if row["video"].startswith("AVA") else 0.0
        with open_video(golden / "media" / row["video"]) as reader:
            video = OpenVideo(reader, reader.timestamps)
            window = {"seconds": row["sliding_window"], "fps": row["fps"], "max_frames": row["max_num_frames"]}
            chosen = published_window(video, row["timestamp"], start=start, **window)
            assert chosen == row["frame_idx"], row
            assert [str(second) for second in printed_times(video, chosen)] == row["sec"]
    assert len(rows) == 183


def test_the_pass_is_the_recorded_one_frame_by_frame(golden: Path):
    rows = recorded(golden, "stream_single_encode_video")
    for row in rows:
        start, end = row["clip"]
        with open_video(golden / "media" / row["video"]) as reader:
            video = OpenVideo(reader, reader.timestamps)
            chosen = published_pass(video, start=start, end=end, fps=row["sample_fps"], multi_turn=False)
            assert chosen == (row["frame_idx"] or []), row  # None: the script crashed on an empty range
            assert known_times(video)[chosen].tolist() == row.get("sec", [])
            assert [str(second) for second in printed_times(video, chosen)] == row.get("sec_1f", [])
    assert len(rows) == 56


# ---- a second writing of the rules ----------------------------------------------------------------------------------


def script_prompt(record: dict[str, Any], tail: str) -> str:
    text = f"Question at {record['middle_frame_timestamp']}s: {record['question']}\nOptions:\n"
    for number, option in enumerate(record["candidates"]):
        text += "(" + "ABCDEFGH"[number] + ") " + option + "\n"
    return text.rstrip() + tail


@cache
def display(rate: Fraction) -> tuple[list[float], list[float], list[float]]:
    """Starts and ends as decord gives them, in single precision, and what is printed of the ends; half an hour."""
    edges = [np.float32(float(number / rate)) for number in range(int(1810 * rate))]
    known = [float(second) for second in edges]
    return known[:-1], known[1:], [float(str(round(second, 1))) for second in edges[1:]]


def script_window(starts: list[float], ends: list[float], rate: float, moment: float, opens: float) -> list[int]:
    last = bisect_right(starts, moment) - 1
    first = bisect_left(ends, opens)
    step = max(1, round(rate / 2))
    chosen: list[int] = []
    while last >= first:
        chosen.insert(0, last)
        last -= step
    if len(chosen) > 64:
        chosen = [chosen[int(place)] for place in np.linspace(0, len(chosen) - 1, 64)]
    return chosen


def script_stream(times: list[float], step: int, start: float, end: float) -> list[int]:
    """All frames of the clip that are looked at."""
    number, chosen = bisect_left(times, start), list[int]()
    while number < len(times) and times[number] <= end:
        chosen.append(number)
        number += step
    return chosen


def frames_by_the_rules(script: str, clip: list[float], moments: list[float], starts: list[float],
                        ends: list[float], rate: Fraction, is_folder: bool) -> list[list[int]]:  # fmt: skip
    """Of each question of one video, in the order of the file."""
    if script == "sliding":
        opens = [max(moment - 32, clip[0]) for moment in moments]
        return [script_window(starts, ends, float(rate), *question) for question in zip(moments, opens, strict=True)]
    whole = script == "multiturn" or is_folder
    step = max(1, int(rate) // 8 if whole else round(float(rate) / 8))
    stream = script_stream(ends, step, *clip)
    shown = []
    for moment in moments[:-1]:
        shown.append([number for number in stream if ends[number] <= moment])
    return [*shown, stream]


# ---- stand-in videos ------------------------------------------------------------------------------------------------


class StandIn(VideoReader):
    """A film of one rate without pictures."""

    def __init__(self, rate: Fraction, num_frames: int) -> None:
        times = np.arange(num_frames + 1) * rate.denominator / rate.numerator
        super().__init__("film", times[:-1], fps=float(rate), duration=float(times[-1]), size=(2, 2))

    def _image(self, index: int) -> np.ndarray:
        raise AssertionError("no frame is read")


def benchmark_of(script: str, protocol: str = "published") -> OVBench:
    mode, multi_turn = SCRIPTS[script]
    return OVBench(protocol=protocol, mode=mode, multi_turn=multi_turn)


def examiner_of(script: str, benchmark: OVBench) -> Examiner:
    mode, multi_turn = SCRIPTS[script]
    flags: dict[str, Any] = dict.fromkeys(("fps", "window", "frames", "max_new_tokens", "answer"))
    options = type("Flags", (), {**flags, "mode": mode, "multi_turn": multi_turn, "adapter": "videochat"})
    return Examiner(None, mode, settings_from_flags(options, benchmark, "generate"))  # type: ignore[arg-type]


def records_of(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Source -> video -> its records as they stand in the file."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        found[path.stem] = defaultdict(list)
        for record in json.loads(path.read_text(encoding="utf-8")):
            found[path.stem][record["video"]].append(record)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_prompts_are_the_scripts_to_the_character(script: str, everything: Path):
    tail, tokens = TAILS[script]
    for protocol in ("published", "causal"):  # the words are the same in both
        benchmark = benchmark_of(script, protocol)
        assert examiner_of(script, benchmark).settings.max_new_tokens == tokens
        assert benchmark.system_prompt == SYSTEM_PROMPT
        prompts = {q.id: q.prompt for task in benchmark.load(everything) for q in task.questions}
        expected = {}
        for path in sorted(everything.glob("*.json")):
            for number, record in enumerate(json.loads(path.read_text(encoding="utf-8"))):
                expected[f"{path.stem}/{number:05d}"] = script_prompt(record, tail)
        assert prompts == expected
    assert len(prompts) in (60, 7005)


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_frames_and_times_are_the_scripts(script: str, everything: Path):
    assert films_compared(script, everything, list(RATES)) in (42, 5058)


def films_compared(script: str, folder: Path, rates: list[str]) -> int:
    """Questions about films, all of them; the films have these rates in turn."""
    benchmark, records, num_compared = benchmark_of(script), records_of(folder), 0
    examiner = examiner_of(script, benchmark)
    for number, task in enumerate(benchmark.load(folder)):
        source, _, name = task.id.partition("/")
        if source == "tao":  # folders have their own rate
            continue
        rate, rows = RATES[rates[number % len(rates)]], records[source][name]
        moments = [row["middle_frame_timestamp"] for row in rows]
        clip = [900.0 if source == "ava" else rows[0]["start"], max(moments)]
        film = StandIn(rate, int((max(moments) + 3) * rate))
        starts, ends, printed = (values[: film.num_frames] for values in display(rate))
        expected = frames_by_the_rules(script, clip, moments, starts, ends, rate, is_folder=False)
        num_compared += compare(examiner, task, OpenVideo(film, film.timestamps), expected, printed)
    return num_compared


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_frames_of_folders_are_the_scripts(script: str, everything: Path):
    benchmark, records, num_compared = benchmark_of(script), records_of(everything), 0
    examiner, picture = examiner_of(script, benchmark), Image.new("RGB", (2, 2))
    for task in benchmark.load(everything, splits=("tao",)):
        rows = records["tao"][task.video]
        moments, rate = [row["middle_frame_timestamp"] for row in rows], rows[0]["fps"]
        folder = ImageListReader("folder", [picture] * int(rate * (max(moments) + 2)), fps=rate)
        times = [number / rate for number in range(folder.num_frames)]
        expected = frames_by_the_rules(script, [0.0, max(moments)], moments, times, times, Fraction(rate), True)
        printed = [round(second, 1) for second in times]
        assert task.anchor is None
        num_compared += compare(examiner, task, OpenVideo(folder, folder.timestamps), expected, printed)
    assert num_compared in (18, 1947)


def compare(
    examiner: Examiner, task: VideoTask, video: OpenVideo, expected: list[list[int]], printed: list[float]
) -> int:
    """The frames of each question and what is printed of them, in the order of asking: the files list them by time."""
    queries = examiner.queries(task)
    for (moment, question), right in zip(queries, expected, strict=True):
        frames = examiner.frames(task, video, question, moment)
        assert frames == right, question.id
        assert examiner.times(video, frames) == [printed[number] for number in right]
    return len(queries)


def test_causal_shows_no_later_frame_where_published_does(everything: Path):
    film, later = StandIn(RATES["10"], 1000), 0
    for protocol in ("published", "causal"):
        examiner = examiner_of("sliding", benchmark_of("sliding", protocol))
        for task in benchmark_of("sliding", protocol).load(everything, splits=("coin",)):
            video = OpenVideo(film, film.timestamps)
            for moment, question in (query for query in examiner.queries(task) if query[0] < 100):
                last = examiner.times(video, examiner.frames(task, video, question, moment))[-1]
                later += last > moment
                assert protocol == "published" or last <= moment
    assert later > 500  # nearly all: the frame on screen ends a tenth later


# ---- the last question of a clip ------------------------------------------------------------------------------------


def listed(*moments: float) -> dict[str, Any]:
    about = {
        "question": "Which way?",
        "options": ["A. left", "B. right"],
        "answer": "B",
        "answer_type": "Future Prediction",
        "sub_answer_type": "Movement Prediction",
    }
    return {
        "video_id": "COIN/x.mp4",
        "clip": [0, 9],
        "questions": [{**about, "middle_frame_timestamp": moment} for moment in moments],
    }


def test_the_last_question_of_the_list_sees_the_clip_to_its_end(tmp_path: Path):
    (tmp_path / "ovbench.json").write_text(json.dumps([listed(*[3] * 10, 3)]))
    film = StandIn(Fraction(8), 200)
    for protocol, last in (("published", 72), ("causal", 25)):
        benchmark = benchmark_of("single", protocol)
        [task] = benchmark.load(tmp_path)
        examiner, video = examiner_of("single", benchmark), OpenVideo(film, film.timestamps)
        queries = examiner.queries(task)
        counts = [len(examiner.frames(task, video, question, moment)) for moment, question in queries]
        assert counts == [24 if protocol == "published" else 25] * 10 + [last]
        if protocol == "published":
            assert queries[-1][1].id == "COIN/x.mp4#q10"  # not the last by its id
        cut = replace(task, questions=task.questions[:1])  # --limit makes no other one the last
        assert len(examiner.frames(cut, video, cut.questions[0], 3.0)) == counts[0]
    assert task.questions[0].prompt.startswith("Question at 3s: ")  # as the number stands in the file


# ---- letters --------------------------------------------------------------------------------------------------------
