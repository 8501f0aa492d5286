"""Paired differences of two runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.report import comparison_of
from videochat_online.evaluation.scoring import differences_by_age, paired_differences

ROWS = [
    Prediction(f"q{i:03d}", f"v{i // 4}", f"v{i // 4}", "xy"[i % 2], "c", "s", 1.0, "A", "A", "A", correct=i % 3 == 0)
    for i in range(200)
]


def test_a_run_does_not_differ_from_itself():
    total, *tasks = paired_differences(ROWS, ROWS, "tasks")
    assert (total.difference, total.only_a, total.only_b, total.p) == (0.0, 0, 0, 1.0)
    assert total.low == pytest.approx(-total.high)  # 50 videos without a difference leave room for some
    assert 0.02 < total.high < 0.06
    assert [row.name for row in tasks] == ["x", "y"]
    assert [row.num_questions for row in tasks] == [100, 100]


def test_the_difference_is_b_minus_a_with_its_interval():
    better = [replace(row, correct=row.correct or i % 5 == 0) for i, row in enumerate(ROWS)]
    total = paired_differences(ROWS, list(reversed(better)), "pooled")[0]
    gained = sum(b.correct and not a.correct for a, b in zip(ROWS, better, strict=True))
    assert total.difference == pytest.approx(gained / len(ROWS))
    assert 0 < total.low < total.difference < total.high
    assert (total.only_a, total.only_b) == (0, gained)
    mirrored = paired_differences(better, ROWS, "pooled")[0]
    assert (mirrored.difference, mirrored.low) == pytest.approx((-total.difference, -total.high))


def test_pairing_is_narrower_than_two_separate_intervals():
    worse = [replace(row, correct=row.correct and i % 10 != 0) for i, row in enumerate(ROWS)]
    total = paired_differences(ROWS, worse, "pooled")[0]
    # unpaired, two accuracies near 1/3 of 200 questions: 2 * 1.96 * sqrt(2 * 0.22 / 200) = 0.18
    assert total.high - total.low < 0.09


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="200 in A, 199 in B, 199 in both"):
        paired_differences(ROWS, ROWS[1:], "tasks")


def test_the_table_gives_points_of_100():
    lines = comparison_of(paired_differences(ROWS, ROWS, "tasks"), ROWS, ROWS).splitlines()
    assert lines[2] == "| headline | 200 | 33.5 | 33.5 | +0.0 | -5.5 to +5.5 | 0 | 0 | 1.0000 |  |"


def test_the_cost_of_both_runs_is_said():
    cheap = [replace(row, new_frames=1, frame_seconds=0.25, answer_seconds=0.25) for row in ROWS[:4]]
    dear = [replace(row, new_frames=5, frame_seconds=1.25, answer_seconds=0.25) for row in ROWS[:4]]
    assert (
        comparison_of([], cheap, dear).splitlines()[-1]
        == "frames encoded: A 4, B 20; seconds: A 2.0, B 6.0, B is 3.00 times A"
    )
    failed = [replace(row, error="missing") for row in ROWS[:4]]
    assert comparison_of([], failed, cheap).splitlines()[-1] == "frames encoded: A 0, B 4; seconds: A 0.0, B 2.0"


def test_runs_are_compared_by_age_of_evidence():
    assert differences_by_age(ROWS, ROWS) == []
    a = [replace(row, evidence_age=(2.0, 100.0)[i % 2]) for i, row in enumerate(ROWS[:-2])] + ROWS[-2:]
    b = [replace(row, correct=row.correct or i % 2 == 1, evidence_age=None) for i, row in enumerate(ROWS)]
    young, old = differences_by_age(a, b)
    assert (young.name, young.num_questions, young.difference) == ("evidence < 4 s", 99, 0.0)
    assert (old.name, old.num_questions, old.only_a) == ("evidence 64 to 256 s", 99, 0)
    assert old.accuracy_b == 1.0 and old.difference > 0 and old.low is not None and old.p < 0.001
    assert (young.p_corrected, old.p_corrected) == (1.0, 2 * old.p), "several ages are several tests"
