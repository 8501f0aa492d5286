"""Annotations of every benchmark that are a little, or quite, wrong: what cannot be asked is left out, with a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_fuzz_rows import spoiled
from videochat_online.evaluation.benchmarks import Benchmark, ODVBench, OVBench, OVOBench, StreamingBench
from videochat_online.evaluation.benchmarks.odv_bench import CATEGORIES
from videochat_online.evaluation.questions import Reply
from videochat_online.evaluation.videos import check_video
from videochat_online.media.find import VideoLibrary

OPTIONS = ["A cup", "A map", "A hat"]
CHOICE = {
    "task_type": "Object Recognition", "question": "What is it?", "time_stamp": "00:00:31", "answer": "B",
    "options": ["A. A cup.", "B. A map.", "C. A hat.", "D. A dog."],
}  # fmt: skip
PROACTIVE = {
    "task_type": "Proactive Output", "question": 'Output "40".', "time_stamp": "00:01:00",
    "ground_truth_time_stamp": "00:01:05", "ground_truth_output": "40",
}  # fmt: skip
FLAT = {
    "video": "films/one.mp4", "start": 900, "end": 930, "fps": 30, "middle_frame_timestamp": 915.5, "id": "ava/1",
    "answer_type": "PastMemory", "question": "What was it?", "candidates": OPTIONS, "answer": "A map",
}  # fmt: skip
LISTED = {
    "question": "What was it?", "middle_frame_timestamp": 12, "options": ["A. A cup", "B. A map"], "answer": "B",
    "answer_type": "Past Memory", "sub_answer_type": "Procedure Recall",
}  # fmt: skip
OVO = {"id": 1, "video": "films/one.mp4"}
CASES: dict[str, tuple[Benchmark, str, tuple[Any, ...]]] = {
    "ovbench flat": (
        OVBench(), "ava.json", (FLAT, FLAT | {"id": "ava/2", "video": "2", "image_file": "val/HACS/one/frame0031.jpg"})
    ),
    "ovbench streaming": (
        OVBench("lmms-eval"),
        "ovbench.json",
        ({"video_id": "COIN/one", "clip": [0, 30], "fps": 2, "questions": [LISTED, LISTED]},),
    ),
    "ovobench": (
        OVOBench(),
        "ovo_bench_new.json",
        (
            OVO | {"task": "EPM", "question": "What?", "options": OPTIONS, "gt": 1, "realtime": 12.5},
            OVO | {"task": "REC", "activity": "jump", "test_info": [{"realtime": 3, "count": 1}]},
            OVO | {"task": "SSR", "test_info": [{"realtime": 3, "step": "stir", "type": 1}]},
            OVO | {"task": "CRR", "question": "Why?", "test_info": [{"realtime": 3, "type": 0}]},
        ),
    ),
    "streamingbench real": (
        StreamingBench(), "questions_real.json", ({"video_path": "./videos/one_1_real.mp4", "questions": [CHOICE] * 2},)
    ),
    "streamingbench sqa": (
        StreamingBench(), "questions_sqa.json", ([{"video_path": "./videos/one_1_sqa.mp4", "questions": [CHOICE] * 2}],)
    ),
    "odvbench": (
        ODVBench(),
        "ODVbench_bbox1000.json",
        (
            {
                "video": "films/one.mp4", "start": 0, "end": 12.5, "task": next(iter(CATEGORIES)), "subtask": "Lanes",
                "question": "What is it?", "candidates": OPTIONS, "answer": "A map",
            },
        ),
    ),
    "streamingbench proactive": (
        StreamingBench(), "questions_proactive.json", ({"video_path": "one_1_proactive.mp4", "questions": [PROACTIVE]},)
    ),
}  # fmt: skip


def read(case: str, records: list[Any], folder: Path) -> tuple[int, list[str]]:
    """How many questions can be asked, after each has been; and the lines of what was left out."""
    benchmark, name, _ = CASES[case]
    (folder / name).write_text(json.dumps(records))
    examples = benchmark.read(folder / name)
    questions = [question for task in examples.tasks for question in task.questions]
    for task in examples.tasks:
        assert 0 <= task.end < float("inf")
        assert isinstance(check_video(task, VideoLibrary(folder)), str), "none of them is there"
    for question in questions:
        assert question.moments and 0 <= question.chance <= 1
        assert isinstance(benchmark.judge(question, Reply(question.answer)).correct, bool)
        for label in range(len(question.labels)):
            assert question.written(label)
    benchmark.notes(examples.tasks, [])
    return len(questions), examples.left_out


@pytest.mark.parametrize("case", CASES)
def test_the_records_to_spoil_are_right(case: str, tmp_path: Path):
    num_questions, left_out = read(case, list(CASES[case][2]), tmp_path)
    assert num_questions >= len(CASES[case][2]) and not left_out


SAID = ("question", "activity", "step", "ground_truth_output", "subtask")


def without_words(value: Any, name: str, instead: Any) -> Any:
    """A copy in which `name` is `instead`, wherever it stands."""
    if isinstance(value, dict):
        return {key: instead if key == name else without_words(one, name, instead) for key, one in value.items()}
    return [without_words(one, name, instead) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("instead", [None, 5, ["What?"], " "], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_no_model_is_asked_what_is_no_text(case: str, instead: Any, tmp_path: Path):
    """Python prints anything: "None" would be the question."""
    for record in CASES[case][2]:
        for name in (name for name in SAID if f'"{name}"' in json.dumps(record)):
            num_questions, left_out = read(case, [record, without_words(record, name, instead)], tmp_path)
            assert left_out and all(f"{name} must be a text" in line for line in left_out)
            assert num_questions == read(case, [record], tmp_path)[0]


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("case", CASES)
def test_spoiled_records_are_left_out_with_a_line(case: str, data: st.DataObject, tmp_path: Path):
    originals = CASES[case][2]
    records = [data.draw(spoiled(originals)) for _ in range(data.draw(st.integers(1, 2)))]
    for line in read(case, [*originals, *records], tmp_path)[1]:
        assert CASES[case][1] in line
        line.encode()
