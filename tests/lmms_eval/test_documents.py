"""Annotations as rows of lmms-eval, and rows as predictions of our scorer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lmms_eval_ovbench.documents import data_root, prediction_of, rows_of_source, stream_of

from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.questions import VideoTask

SOURCES = ("ava", "coin", "hirest", "tao")


def rows_by_words() -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = [row for source in SOURCES for row in rows_of_source(source)]
    return {(row["source"], row["prompts"]["official"], row["answer"]): row for row in rows}


def hub_layout(tasks: list[VideoTask], records: dict[str, list[dict[str, Any]]], videos: Path) -> list[dict[str, Any]]:
    """The same questions in the streaming layout."""
    return [_hub_video(task, records[task.id.split("/")[0]], videos) for task in tasks]


def _hub_video(task: VideoTask, rows: list[dict[str, Any]], videos: Path) -> dict[str, Any]:
    name = task.names[1] if task.fps and task.anchor else task.names[0]
    file = name if (videos / name).exists() else f"{name}.mp4"
    mine = sorted((row for row in rows if row["video"] == task.video), key=lambda row: row["middle_frame_timestamp"])
    questions = [
        {
            "question": row["question"],
            "options": [f"{'ABCD'[i]}. {text}" for i, text in enumerate(row["candidates"])],
            "answer": "ABCD"[row["candidates"].index(row["answer"])],
            "answer_type": question.category,
            "sub_answer_type": question.task.split(" ", 1)[1],
            "middle_frame_timestamp": row["middle_frame_timestamp"],
        }
        for row, question in zip(mine, task.questions, strict=True)
    ]
    fps = {"fps": task.fps} if task.fps else {}
    return {"video_id": file, "clip": [task.start, task.end], "questions": questions, **fps}


def test_every_question_is_a_row_with_the_published_words(root: Path):
    rows = {row["id"]: row for source in SOURCES for row in rows_of_source(source)}
    for name in ("official", "lmms-eval"):
        tasks = OVBench(name).load(root / "annotations")
        questions = {question.id: question for task in tasks for question in task.questions}
        assert rows.keys() == questions.keys()
        assert len({question.task for question in questions.values()}) == 16
        assert all(rows[key]["prompts"][name] == question.prompt for key, question in questions.items())
        assert all(rows[key]["answer"] == question.answer for key, question in questions.items())
    assert all(row["error"] == "" and Path(row["path"]).exists() for row in rows.values())
    assert {row["first_frame_at"] for row in rows.values() if row["source"] == "AVA"} == {900.0}


def test_both_layouts_give_the_same_streams(root: Path, tasks: list[VideoTask], records: Any, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    flat = rows_by_words()
    (tmp_path / "annotations").mkdir()
    videos = (root / "videos").resolve()
    (tmp_path / "annotations/ovbench.json").write_text(json.dumps(hub_layout(tasks, records, videos)), "utf-8")
    os.symlink(videos, tmp_path / "videos")
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    hub = rows_by_words()
    assert hub.keys() == flat.keys()
    for key, row in hub.items():
        assert (row["timestamp"], row["moments"], row["sub_task"]) == tuple(
            flat[key][name] for name in ("timestamp", "moments", "sub_task")
        )
        assert Path(row["path"]).resolve() == Path(flat[key]["path"]).resolve()


def test_a_video_that_cannot_be_opened_leaves_its_questions_wrong(root: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    os.symlink((root / "annotations").resolve(), tmp_path / "annotations")
    videos = tmp_path / "videos/COIN"
    videos.mkdir(parents=True)
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    names = sorted({row["video"] for row in rows_of_source("coin")})
    (videos / Path(names[0]).name).touch()
    rows = rows_of_source("coin")
    assert len(rows) == 12
    assert all("is empty" in row["error"] if row["video"] == names[0] else "not found" in row["error"] for row in rows)
    prediction = prediction_of(rows[0], rows[0]["answer"])
    assert (prediction.correct, prediction.extracted, prediction.error) == (False, None, rows[0]["error"])


def test_answers_are_judged_by_our_scorer(root: Path):
    row = rows_of_source("tao")[0]
    right = prediction_of(row, f"The answer is {row['answer']}.")
    assert (right.correct, right.extracted, right.task) == (True, row["answer"], row["sub_task"])
    silent = prediction_of(row, "I do not know.")
    assert (silent.correct, silent.extracted, silent.response) == (False, None, "I do not know.")


def test_streams_end_at_their_question(root: Path):
    for row in rows_of_source("ava"):
        stream = stream_of(row)
        assert stream.end == row["timestamp"] in stream.moments
        assert (stream.start, stream.first_frame_at) == (900.0, 900.0)


def test_the_data_root_must_be_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("OVBENCH_ROOT", raising=False)
    with pytest.raises(ValueError, match=r"OVBENCH_ROOT .* not set"):
        data_root()
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="has no folder annotations"):
        data_root()
    (tmp_path / "annotations").mkdir()
    assert data_root() == tmp_path


def test_odd_records_are_left_out_and_equal_ids_are_refused(
    root: Path, records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "annotations").mkdir()
    os.symlink((root / "videos").resolve(), tmp_path / "videos")
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    rows = records["coin"]
    (tmp_path / "annotations/coin.json").write_text(json.dumps([{**rows[0], "answer": "?"}, *rows[1:]]), "utf-8")
    assert len(rows_of_source("coin")) == len(rows) - 1
    assert "left out: coin.json, record 0: the answer '?'" in caplog.text
    (tmp_path / "annotations/coin.json").write_text(json.dumps([{**row, "id": "one"} for row in rows]), "utf-8")
    with pytest.raises(ValueError, match="1 ids stand for several questions each: 'one'"):
        rows_of_source("coin")


def test_a_source_without_questions_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "annotations").mkdir()
    os.symlink((root / "annotations/coin.json").resolve(), tmp_path / "annotations/coin.json")
    os.symlink((root / "videos").resolve(), tmp_path / "videos")
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    with pytest.raises(ValueError, match=r"no questions of tao .* leave out the task ovbench_tao"):
        rows_of_source("tao")
    assert len(rows_of_source("coin")) == 12
