"""OVBench's split layout: the questions of the other layouts, and what is wrong with a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.benchmarks.test_ovbench import streaming_record
from tests.evaluation.conftest import write_frames, write_video
from tests.evaluation.test_commands import run
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.questions import VideoTask


def split_row(video: str, number: int, end: float, **changes: Any) -> dict[str, Any]:
    """As VideoChat3 and OneStreamer publish them: the words of the hub's layout, `end` the moment of asking."""
    return {
        "id": f"{video}__q{number}",
        "video_id": video,
        "question": "What direction do you think the goat [370, 0, 430, 250] may move towards in the next second?",
        "answer": "B",
        "answer_type": "Future Prediction",
        "sub_answer_type": "Movement Prediction",
        "options": ["A. above", "B. right-top"],
        "start": 0,
        "end": end,
        "video_time": 36.0,
        **changes,
    }


FILM = {"start": 914.0, "video_time": 1762.0, "fps": 4.0, "answer_type": "Past Memory"}
SPLIT = [
    split_row("LaSOT/goat-13", 0, 2.0, fps=30),
    split_row("LaSOT/goat-13", 1, 36.0, fps=30),
    split_row("COIN/make.mp4", 0, 17.5, answer_type="Temporal Perception", sub_answer_type="Step Localization"),
    split_row("AVA/Goz_scene_3_89765-90850", 0, 3.0, fps=30),
    split_row("AVA_frame_4fps_new/zC5Fh2", 5, 1042.0, **FILM, sub_answer_type="Action Retrieval"),
    split_row("AVA_frame_4fps_new/zC5Fh2", 6, 927.0, **{**FILM, "start": 900}, sub_answer_type="Action Retrieval"),
]
NAME = "ovbench_split_with_fps_ava_raw_frame_processed_128"


def test_the_split_layout_gives_the_questions_of_the_streaming_one(tmp_path: Path):
    (tmp_path / f"{NAME}.json").write_text(json.dumps(SPLIT))
    found = OVBench().load(tmp_path)
    goat, step, _, film = found
    assert [q.id for q in goat.questions] == ["LaSOT/goat-13#q0", "LaSOT/goat-13#q1"] and goat.last == goat.questions[
        1
    ].id
    assert (goat.start, goat.clip_end, goat.fps, goat.names) == (0.0, 36.0, 30.0, ("LaSOT/goat-13", "goat-13"))
    assert (step.fps, step.questions[0].timestamp) == (None, 17.5)
    assert [task.questions[0].source for task in found] == ["TAO", "COIN", "TAO", "AVA"]
    assert [q.timestamp for q in film.questions] == [927.0, 1042.0]
    assert (film.start, film.segment_start, film.clip_end) == (900.0, 900.0, 1762.0)
    record = streaming_record("LaSOT/goat-13") | {"clip": [0, 36.0]}
    record["questions"] = [{**row, "middle_frame_timestamp": row["end"]} for row in SPLIT[:2]]
    for row in record["questions"]:
        del row["id"]
    (tmp_path / "ovbench.json").write_text(json.dumps([record]))
    assert OVBench().load(tmp_path / "ovbench.json") == [goat]


def test_a_published_row_of_the_split_layout_is_the_question_of_the_flat_one(real: list[VideoTask], tmp_path: Path):
    """Two rows as they stand in OneStreamer's file; `end` is the moment of asking, printed as there."""
    about = {"video_id": "COIN/AIAqkAAXnjg.mp4", "start": 0, "video_time": 136.0}
    rows = [
        {
            "id": "COIN/AIAqkAAXnjg.mp4__q0",
            "question": "How long has the person in the scene been performing the 'make the  detergent'?",
            "answer": "C",
            "answer_type": "Temporal Perception",
            "sub_answer_type": "Step Localization",
            "options": ["A. 8-9s", "B. 50-51s", "C. 6-7s", "D. 19-20s"],
            "end": 85.0,
        },
        {
            "id": "COIN/AIAqkAAXnjg.mp4__q1",
            "question": "Is the person in the current frame still performing the 'wet the mop'?",
            "answer": "A",
            "answer_type": "Temporal Hallucination Verification",
            "sub_answer_type": "Step Verification",
            "options": ["A. Yes", "B. No"],
            "end": 112.0,
        },
    ]
    (tmp_path / f"{NAME}_bbox1000.json").write_text(json.dumps([{**row, **about} for row in rows]))
    [task] = OVBench().load(tmp_path)
    [flat] = [one for one in real if one.id == "coin/AIAqkAAXnjg.mp4"]
    asked = {(q.prompt, q.timestamp, q.answer, q.task, q.source, q.options) for q in flat.questions}
    assert {(q.prompt, q.timestamp, q.answer, q.task, q.source, q.options) for q in task.questions} < asked


def test_a_check_finds_the_videos_of_the_split_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Frames of films may lie as whole films: the hub has those, the split's own folder of frames it has not."""
    (tmp_path / f"{NAME}.json").write_text(json.dumps(SPLIT[:1] + SPLIT[2:5]))
    for place in ("LaSOT/goat-13", "AVA/Goz_scene_3_89765-90850"):
        write_frames(tmp_path / "videos" / place, [f"{number:08d}.jpg" for number in range(91)])
    write_video(tmp_path / "videos/COIN/make.mp4", seconds=18)
    write_video(tmp_path / "videos/AVA_RAW/zC5Fh2.mkv", seconds=145, fps=1)  # from second 900 on
    command = ("ovbench", "--annotations", tmp_path, "--videos", tmp_path / "videos", "--output", tmp_path / "out")
    assert run(*command, "--check") == 0
    assert "4 questions; all 4 videos are fine" in capsys.readouterr().out
    (tmp_path / "videos/COIN/make.mp4").unlink()
    assert run(*command, "--check") == 1
    assert "COIN/make.mp4: not found below" in capsys.readouterr().out


def test_files_that_hold_the_same_questions_are_not_asked_together(tmp_path: Path):
    for name in (NAME, f"{NAME}_bbox1000"):
        (tmp_path / f"{name}.json").write_text(json.dumps(SPLIT))
    with pytest.raises(ValueError, match=f"the same questions in {NAME}.json, {NAME}_bbox1000.json; expected one of"):
        OVBench().load(tmp_path)
    assert len(OVBench().load(tmp_path / f"{NAME}_bbox1000.json")) == 4
    (tmp_path / f"{NAME}.json").unlink()
    (tmp_path / "ovbench_ava_raw.json").write_text("[]")
    with pytest.raises(ValueError, match="the same questions in"):
        OVBench().load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": 40}, r"processed_128.json, record 0: expected start <= end <= video_time, got 0.0, 40.0 and 36.0"),
        ({"start": float("nan")}, "record 0: expected start <= end"),
        ({"id": 7}, "record 0 is not as expected"),
        ({"video_id": ["a"]}, "record 0 is not as expected"),
        ({"video_id": ""}, "is not as expected"),
        ({"answer": "C"}, "answer 'C' is none of the options AB"),
        ({"fps": "fast"}, "could not convert"),
        ({"options": ["A. above", "right"]}, "option 1 must begin with B"),
    ],
)
def test_a_bad_row_of_the_split_layout_is_named(changes: dict[str, Any], message: str, tmp_path: Path):
    (tmp_path / f"{NAME}.json").write_text(json.dumps([{**SPLIT[0], **changes}, SPLIT[2]]))
    examples = OVBench().read(tmp_path)
    assert [task.id for task in examples.tasks] == ["COIN/make.mp4"]
    assert len(examples.left_out) == 1
    with pytest.raises(ValueError, match=message):
        OVBench().load(tmp_path)
