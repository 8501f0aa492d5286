"""From predictions to numbers: accuracies, baselines, intervals, paired differences of two runs, and the cost.

Knows predictions and questions only. No answer found is wrong and counted; no question is ever left out of a
denominator. Intervals resample whole videos, since questions about one video are not independent. Scores depend on the
answers alone, so a run that was killed or shared out gives the same ones; what was measured with a clock stands apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from statistics import fmean
from typing import Any, Literal

import numpy as np

from .predictions import Prediction
from .questions import Question, VideoTask

Headline = Literal["tasks", "categories", "pooled"]
"""How sub-task accuracies become one number: mean of sub-tasks, mean of category means, or all questions pooled."""
CHANCE, COMMONEST, BLIND = "chance", "commonest_answer", "blind"
NUM_RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class Tally:
    """Right answers and questions per video and sub-task: all that accuracies and intervals are made of."""

    tasks: tuple[str, ...]
    categories: tuple[str, ...]
    """Category of each sub-task."""
    correct: np.ndarray
    """(videos, tasks) sums of right answers; of probabilities for the chance baseline."""
    count: np.ndarray
    """(videos, tasks) number of questions."""

    @classmethod
    def of(cls, predictions: Sequence[Prediction], correct: Sequence[float] | None = None) -> Tally:
        """Tally `correct` (one value a prediction), by default the verdicts. ValueError: there are none."""
        if not predictions:
            raise ValueError("no predictions to score")
        category_of = {p.task: p.category for p in predictions}
        tasks = sorted(category_of, key=lambda task: (category_of[task], task))
        videos, row = np.unique([p.video for p in predictions], return_inverse=True)
        column = np.array([tasks.index(p.task) for p in predictions])
        sums, count = np.zeros((2, len(videos), len(tasks)))
        np.add.at(sums, (row, column), [p.correct for p in predictions] if correct is None else correct)
        np.add.at(count, (row, column), 1)
        return cls(tuple(tasks), tuple(category_of[task] for task in tasks), sums, count)

    def accuracies(self) -> np.ndarray:
        """(tasks,) accuracy of each sub-task."""
        return self.correct.sum(0) / self.count.sum(0)

    def resampled(self) -> tuple[np.ndarray, np.ndarray]:
        """(resamples, tasks) right answers and questions, drawing whole videos with replacement."""
        num_videos = len(self.count)
        equal = np.full(num_videos, 1 / num_videos)
        weights = np.random.default_rng(SEED).multinomial(num_videos, equal, NUM_RESAMPLES)
        return weights @ self.correct, weights @ self.count


def headline(kind: str | int, correct: np.ndarray, count: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """The one number from (..., tasks) sums: mean of `tasks`, mean of `categories` (means of tasks), or `pooled`.

    A sub-task without questions (a resample, a part of the benchmark) is left out of the mean. `kind` may also be the
    place of one sub-task; it is nan where that has no questions. Raises ValueError for an unknown kind.
    """
    if isinstance(kind, int):
        with np.errstate(invalid="ignore"):
            return correct[..., kind] / count[..., kind]
    if kind == "pooled":
        return correct.sum(-1) / np.maximum(count.sum(-1), 1)
    if kind not in ("tasks", "categories"):
        raise ValueError(f"unknown headline {kind!r}, expected tasks, categories or pooled")
    group_of = np.array(categories) if kind == "categories" else np.arange(len(categories))
    groups = [np.flatnonzero(group_of == group) for group in np.unique(group_of)]
    present = count > 0
    accuracy = np.where(present, correct / np.maximum(count, 1), 0.0)
    means = np.stack([accuracy[..., g].sum(-1) / np.maximum(present[..., g].sum(-1), 1) for g in groups], -1)
    some = np.stack([present[..., g].any(-1) for g in groups], -1)
    return means.sum(-1) / np.maximum(some.sum(-1), 1)


def headline_of(tally: Tally, kind: str | int) -> float:
    return float(headline(kind, tally.correct.sum(0), tally.count.sum(0), tally.categories))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values, without those that are nan."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def chance_tally(predictions: Sequence[Prediction], questions: Mapping[str, Question]) -> Tally:
    """Guessing among the options. An open answer (a count) cannot be guessed: 0."""
    return Tally.of(predictions, [questions[p.id].chance for p in predictions])


def commonest_tally(predictions: Sequence[Prediction]) -> Tally:
    """Always giving the answer that is most often right in its sub-task: what a model without eyes can learn."""
    favourite = commonest_answers(predictions)
    return Tally.of(predictions, [p.answer == favourite[p.task] for p in predictions])


def commonest_answers(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Sub-task -> its most frequent right answer (the first in alphabetical order of equals)."""
    answers: dict[str, list[str]] = defaultdict(list)
    for prediction in predictions:
        answers[prediction.task].append(prediction.answer)
    return {task: Counter(sorted(given)).most_common(1)[0][0] for task, given in answers.items()}


def scores_of(
    kind: Headline,
    tasks: Sequence[VideoTask],
    predictions: Mapping[str, Prediction],
    blind: Mapping[str, Prediction],
) -> dict[str, Any]:
    """Everything that follows from the answers. `blind` may be empty. All questions of `tasks` count."""
    questions = {question.id: question for task in tasks for question in task.questions}
    rows = [predictions[question_id] for question_id in sorted(questions)]
    model = Tally.of(rows)
    baselines = {CHANCE: chance_tally(rows, questions), COMMONEST: commonest_tally(rows)}
    if blind:
        baselines[BLIND] = Tally.of([blind[question_id] for question_id in sorted(questions)])
    drawn = model.resampled()
    no_answer = [row.extracted is None for row in rows]
    broken = Counter((row.task_id, row.error) for row in rows if row.error is not None)

    def figures(kind: str | int, others: Mapping[str, Tally]) -> dict[str, float]:
        low, high = interval(headline(kind, *drawn, model.categories))
        shares = {name: headline_of(tally, kind) for name, tally in others.items()}
        return {"accuracy": headline_of(model, kind), "low": low, "high": high, **shares}

    beside = {"unanswered": Tally.of(rows, no_answer), **baselines}
    about_tasks = zip(model.tasks, model.categories, model.count.sum(0), strict=True)
    return {
        "headline": figures(kind, baselines),
        "pooled": figures("pooled", baselines),
        "questions": len(rows),
        "videos": len({row.task_id for row in rows}),
        "unanswered": fmean(no_answer),
        "not_asked": broken.total(),
        "categories": _categories(model),
        "sources": _sources(rows),
        "tasks": [
            {"task": task, "category": category, "questions": int(n), **figures(i, beside)}
            for i, (task, category, n) in enumerate(about_tasks)
        ],
        "problems": [{"video": video, "questions": n, "error": error} for (video, error), n in sorted(broken.items())],
    }


def _sources(rows: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    correct: dict[str, list[bool]] = defaultdict(list)
    for row in sorted(rows, key=attrgetter("source")):
        correct[row.source].append(row.correct)
    return {source: {"questions": len(those), "accuracy": fmean(those)} for source, those in correct.items()}


def _categories(tally: Tally) -> dict[str, dict[str, float]]:
    """Each category: mean of its sub-tasks (as boards report it), and pooled."""
    found = {}
    for name in dict.fromkeys(tally.categories):
        members = np.array(tally.categories) == name
        count = tally.count[:, members].sum()
        found[name] = {
            "questions": int(count),
            "accuracy": float(tally.accuracies()[members].mean()),
            "pooled": float(tally.correct[:, members].sum() / count),
        }
    return found


def cost_of(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What was measured with a clock, over the questions that were asked. Seconds; None where there is no frame."""
    asked = [row for row in predictions if row.error is None]
    frames = sum(row.new_frames for row in asked)
    frame_seconds = sum(row.frame_seconds for row in asked)
    answer_seconds = sum(row.answer_seconds for row in asked)
    return {
        "frames": frames,
        "seconds_per_frame": frame_seconds / frames if frames else None,
        "seconds_per_question": answer_seconds / len(asked) if asked else None,
        "seconds": frame_seconds + answer_seconds,
    }


@dataclass(frozen=True)
class Difference:
    """Of two runs on the same questions, accuracies in 0..1."""

    name: str
    num_questions: int
    accuracy_a: float
    accuracy_b: float
    low: float
    """95 % interval of the difference, videos resampled together for A and B."""
    high: float
    only_a: int
    """Questions only A got right."""
    only_b: int
    difference: float
    """B minus A."""


def compare(a: Sequence[Prediction], b: Sequence[Prediction], kind: Headline) -> list[Difference]:
    """Paired differences: the headline first, then each sub-task. ValueError where the questions are not the same.

    Pairing and resampling whole videos for both at once takes out what is hard about a video for either model.
    """
    by_id = {prediction.id: prediction for prediction in b}
    if {prediction.id for prediction in a} != set(by_id):
        common = len({prediction.id for prediction in a} & set(by_id))
        raise ValueError(f"not the same questions: {len(a)} in A, {len(b)} in B, {common} in both")
    pairs = [(first, by_id[first.id]) for first in sorted(a, key=attrgetter("id"))]
    tally_a = Tally.of([x for x, _ in pairs])
    tally_b = Tally.of([x for x, _ in pairs], [y.correct for _, y in pairs])
    (drawn_a, count), (drawn_b, _) = tally_a.resampled(), tally_b.resampled()
    categories = tally_a.categories
    spread = headline(kind, drawn_b, count, categories) - headline(kind, drawn_a, count, categories)
    lines: list[tuple[str, str | int, np.ndarray]] = [("headline", kind, spread)]
    for i, task in enumerate(tally_a.tasks):
        lines.append((task, i, headline(i, drawn_b - drawn_a, count, categories)))
    found = []
    for name, of, spread in lines:
        right = [(x.correct, y.correct) for x, y in pairs if of == kind or x.task == name]
        only_a, only_b = right.count((True, False)), right.count((False, True))
        one, other = headline_of(tally_a, of), headline_of(tally_b, of)
        found.append(Difference(name, len(right), one, other, *interval(spread), only_a, only_b, other - one))
    return found
