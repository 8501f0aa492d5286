"""Finding answers in replies, and the numbers made of them."""

from __future__ import annotations

import numpy as np
import pytest

from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Question
from videochat_online.evaluation.scoring import (
    Tally,
    chance_tally,
    commonest_answers,
    commonest_tally,
    headline,
    headline_of,
    interval,
)


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


def test_a_group_without_questions_does_not_count_as_zero():
    correct, count = np.array([[3.0, 0.0]]), np.array([[4.0, 0.0]])
    for kind in ("tasks", "categories", "pooled"):
        assert headline(kind, correct, count, ("x", "y")) == pytest.approx([0.75])


def test_chance_and_commonest_answer_are_computed_from_the_questions():
    answers = ["A", "A", "B", "B", "B"]
    rows = [prediction(i, answer=answer) for i, answer in enumerate(answers)]
    questions = {
        row.id: Question(row.id, 1.0, "?", row.answer, "t", "c", "s", labels=("A", "B", "C", "D")[: 2 + 2 * (i % 2)])
        for i, row in enumerate(rows)
    }
    assert commonest_answers(rows) == {"t": "B"}
    assert headline_of(commonest_tally(rows), "pooled") == pytest.approx(3 / 5)
    assert headline_of(chance_tally(rows, questions), "pooled") == pytest.approx((3 * 0.5 + 2 * 0.25) / 5)


def test_an_interval_holds_the_value_and_is_wider_when_a_video_decides_all_its_questions():
    generator = np.random.default_rng(1)
    independent = [prediction(i, video=f"v{i}", correct=bool(generator.random() < 0.5)) for i in range(400)]
    clustered = [prediction(i, video=f"v{i // 20}", correct=(i // 20) % 2 == 0) for i in range(400)]
    widths = []
    for rows in (independent, clustered):
        tally = Tally.of(rows)
        low, high = interval(headline("pooled", *tally.resampled(), tally.categories))
        assert low < headline_of(tally, "pooled") < high
        widths.append(high - low)
    # 400 independent coin flips: 2 * 1.96 * 0.5 / 20 = 0.098; 20 clusters: 2 * 1.96 * 0.5 / sqrt(20) = 0.44
    assert widths[0] == pytest.approx(0.098, rel=0.15)
    assert widths[1] == pytest.approx(0.44, rel=0.15)


def test_resampling_is_the_same_every_time():
    tally = Tally.of([prediction(i, video=f"v{i}", correct=i % 3 == 0) for i in range(30)])
    first, second = tally.resampled(), tally.resampled()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no predictions"):
        Tally.of([])
