"""Intervals hold what they promise: exactly for independent questions, by simulation where questions share a video."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from videochat_online.evaluation.intervals import (
    accuracy_interval,
    beta_quantile,
    difference_interval,
    flip_test,
    holm,
    student_quantile,
)

ONE = np.ones(1)


def of_single(right: int, number: int) -> tuple[float, float]:
    """The interval where each question has a video of its own."""
    correct = (np.arange(number) < right).astype(float)[:, None]
    found = accuracy_interval(correct, np.ones((number, 1)), ONE)
    assert found is not None
    return found


def test_quantiles_are_those_of_the_tables():
    assert beta_quantile(1, 3, 0.975) == pytest.approx(1 - 0.025 ** (1 / 3), abs=1e-5)
    assert beta_quantile(5, 2, 0.025) == pytest.approx(0.35877, abs=1e-4)
    assert beta_quantile(3500, 3506, 0.5) == pytest.approx(0.49957, abs=1e-4)
    for freedom, value in ((1, 12.7062), (2, 4.3027), (10, 2.2281), (100, 1.9840)):
        assert student_quantile(freedom) == pytest.approx(value, rel=1e-4)


def test_none_of_two_is_not_certainly_none():
    assert of_single(0, 2) == pytest.approx((0.0, 0.8419), abs=1e-4)  # Clopper and Pearson's own numbers
    assert of_single(2, 2) == pytest.approx((0.1581, 1.0), abs=1e-4)
    assert of_single(7, 20) == pytest.approx((0.1539, 0.5922), abs=1e-4)


def test_one_video_is_too_few():
    assert accuracy_interval(np.array([[3.0]]), np.array([[10.0]]), ONE) is None
    assert difference_interval(np.array([[1.0]]), np.array([[0.0]]), np.array([[4.0]]), ONE) is None


@pytest.mark.parametrize("number", range(2, 31))
def test_coverage_of_independent_questions_is_exact(number: int):
    """All outcomes at all true accuracies, weighed by how likely they are: no simulation, and never below 95 %."""
    spans = [of_single(right, number) for right in range(number + 1)]
    for true in np.linspace(0.01, 0.99, 99):
        likely = [comb(number, k) * true**k * (1 - true) ** (number - k) for k in range(number + 1)]
        covered = sum(p for p, (low, high) in zip(likely, spans, strict=True) if low <= true <= high)
        assert covered >= 0.95


def drawn(rng: np.random.Generator, videos: int, size: int, true: float, alike: float, tasks: int) -> np.ndarray:
    """(2, videos, tasks) right answers and questions; `alike`: correlation of two answers about one video."""
    per_video = np.full(videos, true)
    if alike == 1:
        per_video = (rng.random(videos) < true).astype(float)
    elif alike > 0:
        per_video = rng.beta(true * (1 / alike - 1), (1 - true) * (1 / alike - 1), videos)
    count = rng.integers(1, size + 1, (videos, tasks))
    return np.stack([rng.binomial(count, per_video[:, None]), count]).astype(float)


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("videos", [2, 3, 5, 10, 30])
def test_coverage_holds_where_questions_share_a_video(videos: int, alike: float):
    """Seeded; 200 draws each, one sub-task and the mean of four. At most three deviations below 95 %."""
    rng = np.random.default_rng(videos)
    for true, size, tasks in ((0.5, 10, 1), (0.15, 4, 4)):
        weight, hits = np.full(tasks, 1 / tasks), 0
        for _ in range(200):
            found = accuracy_interval(*drawn(rng, videos, size, true, alike, tasks), weight)
            assert found is not None
            hits += found[0] <= true <= found[1]
        assert hits >= 200 * 0.95 - 3 * (200 * 0.95 * 0.05) ** 0.5


@pytest.mark.parametrize("number", [2, 3, 5, 10, 30])
def test_coverage_of_a_difference_holds(number: int):
    """Seeded: B gains with 0.3 and loses with 0.1, for single questions and for videos that decide all of theirs."""
    rng = np.random.default_rng(number)
    for size in (1, 6):
        hits = 0
        for _ in range(300):
            outcome = rng.choice(3, number, p=(0.6, 0.3, 0.1))
            gained, lost = (size * (outcome == k)[:, None].astype(float) for k in (1, 2))
            found = difference_interval(gained, lost, np.full((number, 1), float(size)), ONE)
            assert found is not None
            hits += found[0] <= 0.2 <= found[1]
        assert hits >= 300 * 0.95 - 3 * (300 * 0.95 * 0.05) ** 0.5


def test_an_interval_is_no_wider_than_it_must_be():
    rng = np.random.default_rng(0)
    widths = [np.diff(accuracy_interval(*drawn(rng, 400, 1, 0.5, 0, 1), ONE) or ())[0] for _ in range(20)]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.05)
    alike = [np.diff(accuracy_interval(*drawn(rng, 100, 10, 0.5, 1.0, 1), ONE) or ())[0] for _ in range(20)]
    assert np.mean(alike) == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.25)  # unequal videos tell a little less


def test_the_flip_test_is_exact_where_few_videos_differ():
    assert flip_test(np.zeros(4)) == 1.0
    assert flip_test(np.ones(5)) == pytest.approx(2 / 2**5)  # the sign test
    assert flip_test(np.array([1.0, 1.0, 1.0, -1.0, 0.0])) == pytest.approx(10 / 16)
    assert flip_test(np.ones(200)) == pytest.approx(1 / 20_000)


def test_equal_models_are_told_apart_as_often_as_promised():
    rng = np.random.default_rng(3)
    ps = np.array([flip_test(rng.choice((-1.0, 0.0, 1.0), 12) * rng.integers(1, 5, 12)) for _ in range(400)])
    assert (ps <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_holm_is_as_published():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
