"""OVBench's two numbers for lmms-eval: the mean of the sub-task accuracies (official), and all questions pooled.

Some sub-tasks draw on two sources, so the group's mean is no mean of its tasks' means: a score keeps the predictions it
was made of, and the group's score is made of all of them. Both come from videochat_online's scorer, as fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loguru import logger

from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.scoring import Tally, headline_of

MEAN, POOLED = "ovbench_mean", "ovbench_pooled"
HEADLINES = {MEAN: "tasks", POOLED: "pooled"}


class Score(float):
    """A number that knows how it came about."""

    metric: str
    predictions: tuple[Prediction, ...]

    @classmethod
    def of(cls, metric: str, predictions: Sequence[Prediction]) -> Score:
        score = cls(headline_of(Tally.of(predictions), HEADLINES[metric]))
        score.metric, score.predictions = metric, tuple(predictions)
        return score


def mean_of_sub_tasks(items: Sequence[Mapping[str, Any]]) -> Score:
    """Official headline of one task (source)."""
    return Score.of(MEAN, [Prediction.from_dict(dict(item)) for item in items])


def pooled(items: Sequence[Mapping[str, Any]]) -> Score:
    """Share of right answers of one task (source)."""
    return Score.of(POOLED, [Prediction.from_dict(dict(item)) for item in items])


def of_group(scores: Sequence[Score], sizes: Sequence[int], weight_by_size: bool) -> Score:
    """The group's score, from all questions of its tasks. Sizes and weights play no part in it."""
    predictions = [prediction for score in scores for prediction in score.predictions]
    if scores[0].metric == MEAN:
        logger.info("OVBench\n" + "\n".join(_lines(predictions)))
    return Score.of(scores[0].metric, predictions)


def _lines(predictions: Sequence[Prediction]) -> list[str]:
    """Each sub-task with its questions and accuracy, and how many answers could not be read."""
    tally = Tally.of(predictions)
    rows = zip(tally.tasks, tally.count.sum(0).astype(int), tally.accuracies(), strict=True)
    unanswered = sum(prediction.extracted is None for prediction in predictions)
    return [
        *(f"{task:28} {count:5d} questions  {100 * accuracy:5.1f} %" for task, count, accuracy in rows),
        f"no answer found in {unanswered} of {len(predictions)} replies: counted as wrong",
    ]
