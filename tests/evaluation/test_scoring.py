"""Finding answers in replies, and the numbers made of them."""

from __future__ import annotations

import pytest

from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.scoring import Tally, commonest, headline_of


def prediction(
    number: int, *, task: str = "t", category: str = "c", video: str = "v", correct: bool = False, answer: str = "A"
):
    return Prediction(
        id=f"q{number}",
        task_id=video,
        video=video,
        task=task,
        category=category,
        source="s",
        timestamp=1.0,
        answer=answer,
        response="A",
        extracted="A",
        correct=correct,
    )


def test_headlines_weigh_tasks_categories_or_questions():
    rows = [prediction(i, task="many", category="x", correct=i < 8) for i in range(10)]  # 0.8
    rows += [prediction(10, task="one", category="x", correct=False)]  # 0.0
    rows += [prediction(11 + i, task="two", category="y", correct=i < 1) for i in range(2)]  # 0.5
    tally = Tally.of(rows)
    assert headline_of(tally, "pooled") == pytest.approx(9 / 13)
    assert headline_of(tally, "tasks") == pytest.approx((0.8 + 0.0 + 0.5) / 3)
    assert headline_of(tally, "categories") == pytest.approx(((0.8 + 0.0) / 2 + 0.5) / 2)
    with pytest.raises(ValueError, match="median"):
        headline_of(tally, "median")


def test_a_category_counts_once_however_many_sub_tasks_it_has():
    rows = [prediction(i, task=task, category=task[0]) for i, task in enumerate(("x1", "x2", "x2", "y1"))]
    assert Tally.of(rows).weights("categories") == pytest.approx([0.25, 0.25, 0.5])
    assert Tally.of(rows).weights("tasks") == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert Tally.of(rows).weights("pooled") == pytest.approx([0.25, 0.5, 0.25])
    assert Tally.of(rows).weights(2) == pytest.approx([0, 0, 1])


def test_the_commonest_answer_is_the_first_of_equals():
    assert commonest(("t", answer) for answer in "BABAC") == {"t": "A"}


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no predictions"):
        Tally.of([])
