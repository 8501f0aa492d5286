"""OVBench's two numbers, for one source and for the group."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench.documents import prediction_of, rows_of_source
from lmms_eval_ovbench.metrics import mean_of_sub_tasks, of_group, pooled
from lmms_eval_ovbench.task import process_results

SOURCES = ("ava", "coin", "hirest", "tao")


def judged(source: str) -> list[dict]:
    """Every third answer right, and all of COIN's."""
    rows = rows_of_source(source)
    return [
        asdict(prediction_of(row, row["answer"] if i % 3 == 0 or source == "coin" else "?"))
        for i, row in enumerate(rows)
    ]


def test_a_source_has_the_mean_of_its_sub_tasks_and_the_share_of_all(root: Path):
    items = judged("tao")
    tasks = {item["task"] for item in items}
    by_task = [[item["correct"] for item in items if item["task"] == task] for task in tasks]
    assert mean_of_sub_tasks(items) == pytest.approx(sum(sum(one) / len(one) for one in by_task) / len(tasks))
    assert pooled(items) == pytest.approx(sum(item["correct"] for item in items) / len(items))


def test_the_group_is_made_of_all_questions_not_of_its_parts(root: Path):
    parts = {source: judged(source) for source in SOURCES}
    items = [item for part in parts.values() for item in part]
    sizes = [len(part) for part in parts.values()]
    assert of_group([pooled(part) for part in parts.values()], sizes, False) == pytest.approx(pooled(items))
    means = [mean_of_sub_tasks(part) for part in parts.values()]
    group = of_group(means, sizes, False)
    assert group == pytest.approx(mean_of_sub_tasks(items))
    assert group != pytest.approx(sum(means) / 4)  # COIN and HiREST share sub-tasks


def test_an_answer_is_one_prediction_under_both_names(root: Path):
    row = rows_of_source("ava")[0]
    results = process_results(row, [f"({row['answer']})"])
    assert results["ovbench_mean"] == results["ovbench_pooled"] == asdict(prediction_of(row, f"({row['answer']})"))
    assert results["ovbench_mean"]["correct"]
