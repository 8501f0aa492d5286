"""The report's numbers and files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from videochat_online import MemoryConfig
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Reply, VideoTask
from videochat_online.evaluation.report import write_report

BENCHMARK = OVBench()


def predictions_of(tasks: list[VideoTask], right_every: int) -> dict[str, Prediction]:
    """Every n-th question is answered rightly, the others with words that hold no letter."""
    found = {}
    for task in tasks:
        for question in task.questions:
            text = f"({question.answer})" if len(found) % right_every == 0 else "I do not know"
            reply = Reply(text, 8, 4, 0.0, question.timestamp, 0.5, 0.25)
            found[question.id] = Prediction.of(task, question, reply, BENCHMARK.judge(question, reply))
    return found


@pytest.fixture
def folder(tasks: list[VideoTask], tmp_path: Path) -> Path:
    write_report(
        tmp_path,
        BENCHMARK,
        tasks,
        {"model": "pocket", "mode": "streaming", "fps": 8.0},
        predictions_of(tasks, 2),
        predictions_of(tasks, 5),
        command=["videochat-online", "eval", "ovbench"],
    )
    return tmp_path


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_scores_are_those_of_the_predictions(folder: Path, tasks: list[VideoTask]):
    scores = load(folder, "report.json")["scores"]
    rows = predictions_of(tasks, 2).values()
    by_task: dict[str, list[bool]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row.correct)
    means = {task: sum(values) / len(values) for task, values in by_task.items()}
    assert len(means) == 16
    assert scores["headline"]["accuracy"] == pytest.approx(sum(means.values()) / 16)
    assert scores["pooled"]["accuracy"] == pytest.approx(30 / 60)
    assert scores["pooled"]["blind"] == pytest.approx(12 / 60)
    assert scores["unanswered"] == pytest.approx(30 / 60)
    assert {row["task"]: row["accuracy"] for row in scores["tasks"]} == pytest.approx(means)
    assert scores["headline"]["low"] < scores["headline"]["accuracy"] < scores["headline"]["high"]
    assert 0 < scores["headline"]["chance"] < scores["headline"]["commonest_answer"] < 1
    past = [mean for task, mean in means.items() if task[:2] in ("AR", "PR", "TR")]
    assert scores["categories"]["Past Memory"]["accuracy"] == pytest.approx(sum(past) / 3)
    assert {name: source["questions"] for name, source in scores["sources"].items()} == {
        "AVA": 18,
        "COIN": 12,
        "HiREST": 12,
        "TAO": 18,
    }


def test_costs_stand_apart_from_scores(folder: Path):
    report = load(folder, "report.json")
    assert report["cost"] == {"frames": 240, "seconds_per_frame": 0.125, "seconds_per_question": 0.25, "seconds": 45.0}
    assert "seconds" not in json.dumps(report["scores"])


def test_the_csv_has_a_row_for_each_sub_task_and_the_headline(folder: Path):
    rows = list(csv.DictReader((folder / "report.csv").open()))
    assert len(rows) == 17 and rows[-1]["task"] == "headline"
    assert float(rows[-1]["accuracy"]) == load(folder, "report.json")["scores"]["headline"]["accuracy"]
    assert set(rows[0]) >= {"task", "questions", "accuracy", "low", "high", "chance", "commonest_answer", "blind"}


def test_the_markdown_says_what_a_reader_must_know(folder: Path):
    text = (folder / "report.md").read_text()
    headline = load(folder, "report.json")["scores"]["headline"]
    assert f"\n\n# OVBench: {100 * headline['accuracy']:.1f}\n" in text
    assert "Mean of the sub-task accuracies, 95 % interval" in text
    assert "no answer found for 50.0 %, all of them counted as wrong" in text
    assert "| COIN | 12 |" in text
    assert "seconds per frame: 0.1250" in text


def test_the_picture_is_one(folder: Path):
    with Image.open(folder / "report.png") as image:
        assert image.width > 600 and len(image.convert("L").getcolors() or []) > 10


def test_the_result_holds_what_is_needed_to_repeat_it(folder: Path):
    result = load(folder, "result.json")
    assert result["command"] == ["videochat-online", "eval", "ovbench"]
    assert (result["benchmark"], result["model"], result["mode"]) == ("OVBench", "pocket", "streaming")
    assert result["config"] == {"model": "pocket", "mode": "streaming", "fps": 8.0}
    assert len(result["tasks"]) == 16 and result["questions"] == 60
    assert result["packages"]["torch"] and result["python"].count(".") == 2
    assert result["score"] == round(100 * load(folder, "report.json")["scores"]["headline"]["accuracy"], 2)


def test_a_report_written_again_is_the_same(folder: Path, tasks: list[VideoTask], tmp_path: Path):
    before = {name: (folder / name).read_bytes() for name in ("report.json", "report.csv", "report.md", "report.png")}
    shuffled = dict(reversed(predictions_of(tasks, 2).items()))
    config = {"model": "pocket", "mode": "streaming", "fps": 8.0}
    write_report(folder, BENCHMARK, list(reversed(tasks)), config, shuffled, predictions_of(tasks, 5))
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_without_a_blind_run_its_column_is_empty(tasks: list[VideoTask], tmp_path: Path):
    scores = write_report(tmp_path, BENCHMARK, tasks, {}, predictions_of(tasks, 2))["scores"]
    assert "blind" not in scores["headline"]
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert rows[0].endswith("| blind |") and rows[1].endswith("|  |")


def test_a_run_in_which_nothing_could_be_asked_is_all_wrong(tasks: list[VideoTask], tmp_path: Path):
    failed = {
        key: replace(row, response=None, extracted=None, correct=False, error="missing")
        for key, row in predictions_of(tasks, 1).items()
    }
    report = write_report(tmp_path, BENCHMARK, tasks, {}, failed)
    assert report["scores"]["headline"]["accuracy"] == 0.0
    assert report["scores"]["not_asked"] == 60
    assert report["cost"]["seconds_per_question"] is None


def test_a_report_by_age_of_evidence(tasks: list[VideoTask], tmp_path: Path):
    rows = predictions_of(tasks, 2)
    assert write_report(tmp_path, BENCHMARK, tasks, {}, rows)["scores"]["ages"] == []
    assert "age of evidence" not in (tmp_path / "report.md").read_text()
    ages = dict(zip(sorted(rows), (0.0, 3.9, 4.0, 15.9, 16.0, 70.0, 256.0, 9000.0) * 5, strict=False))
    aged = [replace(t, questions=tuple(replace(q, evidence_age=ages.get(q.id)) for q in t.questions)) for t in tasks]
    scores = write_report(tmp_path, BENCHMARK, aged, {}, rows)["scores"]
    bounds = {"< 4 s": (0, 4), "4 to 16 s": (4, 16), "16 to 64 s": (16, 64), "64 to 256 s": (64, 256)}
    bounds[">= 256 s"] = (256, 10_000)
    assert [row["age"] for row in scores["ages"]] == list(bounds)
    for row in scores["ages"]:
        low, high = bounds[row["age"]]
        right = [rows[key].correct for key, age in ages.items() if low <= age < high]
        assert (row["questions"], row["accuracy"]) == (len(right), pytest.approx(sum(right) / len(right)))
        assert row["low"] <= row["accuracy"] <= row["high"] and 0 < row["best_blind"] < 1
    assert load(tmp_path, "report.json")["scores"]["ages"] == scores["ages"]
    text = (tmp_path / "report.md").read_text()
    first = scores["ages"][0]
    assert f"\n| < 4 s | 10 | {100 * first['accuracy']:.1f} | {100 * first['low']:.1f} - " in text
    assert "the annotations tell it of 40 of 60 questions" in text


def test_a_report_names_memory_and_recall(tasks: list[VideoTask], tmp_path: Path):
    memory = MemoryConfig.pyramid(capacities=(1, 2, 3), grids=(4, 2, 1), cascade=True).to_dict()
    for more, said in (({}, "off"), ({"recall": "chosen"}, "chosen")):
        write_report(tmp_path, BENCHMARK, tasks, {"memory": memory, **more}, predictions_of(tasks, 2))
        line = f"\nMemory: 1/2/3 frames of grid 4/2/1, policy pyramid, cascade. Recall: {said} (--recall).\n"
        assert line in (tmp_path / "report.md").read_text()
    write_report(tmp_path, BENCHMARK, tasks, {"model": "one of transformers"}, predictions_of(tasks, 2))
    assert "Memory:" not in (tmp_path / "report.md").read_text()
