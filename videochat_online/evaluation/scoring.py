"""From predictions to numbers: accuracies, baselines, intervals, paired differences of two runs, and the cost.

Knows predictions and questions only. No answer found is wrong and counted; no question is ever left out of a
denominator. Intervals resample whole videos, since questions about one video are not independent. Scores depend on the
answers alone, so a run that was killed or shared out gives the same ones; what was measured with a clock stands apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        values = [float(p.correct) for p in predictions] if correct is None else list(correct)
        category_of = {p.task: p.category for p in predictions}
        tasks = sorted(category_of, key=lambda task: (category_of[task], task))
        videos = {video: i for i, video in enumerate(sorted({p.video for p in predictions}))}
        shape = (len(videos), len(tasks))
        sums, count = np.zeros(shape), np.zeros(shape)
        for prediction, value in zip(predictions, values, strict=True):
            place = videos[prediction.video], tasks.index(prediction.task)
            sums[place] += value
            count[place] += 1
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


def headline(kind: str, correct: np.ndarray, count: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """The one number from (..., tasks) sums: mean of `tasks`, mean of `categories` (means of tasks), or `pooled`.

    A sub-task without questions (a resample, a part of the benchmark) is left out of the mean.
    Raises ValueError for an unknown kind.
    """
    if kind == "pooled":
        return correct.sum(-1) / np.maximum(count.sum(-1), 1)
    present = count > 0
    accuracy = np.where(present, correct / np.maximum(count, 1), 0.0)
    if kind == "tasks":
        return accuracy.sum(-1) / np.maximum(present.sum(-1), 1)
    if kind != "categories":
        raise ValueError(f"unknown headline {kind!r}, expected tasks, categories or pooled")
    names = sorted(set(categories))
    groups = [np.flatnonzero([category == name for category in categories]) for name in names]
    means = np.stack([accuracy[..., g].sum(-1) / np.maximum(present[..., g].sum(-1), 1) for g in groups], -1)
    some = np.stack([present[..., g].any(-1) for g in groups], -1)
    return (means * some).sum(-1) / np.maximum(some.sum(-1), 1)


def headline_of(tally: Tally, kind: str) -> float:
    return float(headline(kind, tally.correct.sum(0), tally.count.sum(0), tally.categories))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def chance_tally(predictions: Sequence[Prediction], questions: Mapping[str, Question]) -> Tally:
    """Guessing among the options. An open answer (a count) cannot be guessed: 0."""
    return Tally.of(predictions, [questions[p.id].chance for p in predictions])


def commonest_tally(predictions: Sequence[Prediction]) -> Tally:
    """Always giving the answer that is most often right in its sub-task: what a model without eyes can learn."""
    favourite = commonest_answers(predictions)
    return Tally.of(predictions, [float(p.answer == favourite[p.task]) for p in predictions])


def commonest_answers(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Sub-task -> its most frequent right answer (the first in alphabetical order of equals)."""
    answers: dict[str, Counter[str]] = {}
    for prediction in predictions:
        answers.setdefault(prediction.task, Counter())[prediction.answer] += 1
    return {task: min(counts, key=lambda answer: (-counts[answer], answer)) for task, counts in answers.items()}


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

    def figures(kind: Headline) -> dict[str, float]:
        low, high = interval(headline(kind, *drawn, model.categories))
        others = {name: headline_of(tally, kind) for name, tally in baselines.items()}
        return {"accuracy": headline_of(model, kind), "low": low, "high": high, **others}

    return {
        "headline": figures(kind),
        "pooled": figures("pooled"),
        "questions": len(rows),
        "videos": len({row.task_id for row in rows}),
        "unanswered": _share(row.extracted is None for row in rows),
        "not_asked": sum(row.error is not None for row in rows),
        "categories": _categories(model),
        "sources": {
            source: {"questions": len(members), "accuracy": _share(row.correct for row in members)}
            for source, members in _grouped(rows, "source").items()
        },
        "tasks": _task_rows(model, drawn, baselines, _grouped(rows, "task")),
        "problems": _problems(rows),
    }


def _share(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))


def _grouped(rows: Sequence[Prediction], field: str) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for row in sorted(rows, key=lambda row: (getattr(row, field), row.id)):
        groups.setdefault(getattr(row, field), []).append(row)
    return groups


def _categories(tally: Tally) -> dict[str, dict[str, float]]:
    """Each category: mean of its sub-tasks (as boards report it), and pooled."""
    found = {}
    for name in dict.fromkeys(tally.categories):
        members = [i for i, category in enumerate(tally.categories) if category == name]
        count = tally.count[:, members].sum()
        found[name] = {
            "questions": int(count),
            "accuracy": float(tally.accuracies()[members].mean()),
            "pooled": float(tally.correct[:, members].sum() / count),
        }
    return found


def _task_rows(
    tally: Tally,
    drawn: tuple[np.ndarray, np.ndarray],
    baselines: Mapping[str, Tally],
    members: Mapping[str, Sequence[Prediction]],
) -> list[dict[str, Any]]:
    found = []
    for i, task in enumerate(tally.tasks):
        present = drawn[1][:, i] > 0
        low, high = interval(drawn[0][present, i] / drawn[1][present, i])
        found.append(
            {
                "task": task,
                "category": tally.categories[i],
                "questions": len(members[task]),
                "accuracy": float(tally.accuracies()[i]),
                "low": low,
                "high": high,
                "unanswered": _share(row.extracted is None for row in members[task]),
                **{name: float(baseline.accuracies()[i]) for name, baseline in baselines.items()},
            }
        )
    return found


def _problems(rows: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Videos whose questions could not be asked, by name."""
    broken = Counter((row.task_id, row.error) for row in rows if row.error is not None)
    return [{"video": video, "questions": n, "error": error} for (video, error), n in sorted(broken.items())]


def cost_of(predictions: Sequence[Prediction]) -> dict[str, float | int | None]:
    """What was measured with a clock, over the questions that were asked. Seconds."""
    asked = [row for row in predictions if row.error is None]
    frames = sum(row.new_frames for row in asked)
    frame_seconds = sum(row.frame_seconds for row in asked)
    return {
        "frames": frames,
        "seconds_per_frame": frame_seconds / frames if frames else None,
        "seconds_per_question": sum(row.answer_seconds for row in asked) / len(asked) if asked else None,
        "seconds": frame_seconds + sum(row.answer_seconds for row in asked),
    }


@dataclass(frozen=True)
class Difference:
    """B minus A on the same questions, accuracy points in 0..1."""

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

    @property
    def difference(self) -> float:
        return self.accuracy_b - self.accuracy_a


def compare(a: Sequence[Prediction], b: Sequence[Prediction], kind: Headline) -> list[Difference]:
    """Paired differences: the headline first, then each sub-task. ValueError where the questions are not the same.

    Pairing and resampling whole videos for both at once takes out what is hard about a video for either model.
    """
    by_id = {prediction.id: prediction for prediction in b}
    if {prediction.id for prediction in a} != set(by_id):
        common = len({prediction.id for prediction in a} & set(by_id))
        raise ValueError(f"not the same questions: {len(a)} in A, {len(b)} in B, {common} in both")
    pairs = [(first, by_id[first.id]) for first in sorted(a, key=lambda prediction: prediction.id)]
    tally_a = Tally.of([x for x, _ in pairs])
    tally_b = Tally.of([x for x, _ in pairs], [float(y.correct) for _, y in pairs])
    (drawn_a, count), (drawn_b, _) = tally_a.resampled(), tally_b.resampled()
    spread = headline(kind, drawn_b, count, tally_a.categories) - headline(kind, drawn_a, count, tally_a.categories)
    total = _difference("headline", pairs, headline_of(tally_a, kind), headline_of(tally_b, kind), spread)
    rows = [total]
    for i, task in enumerate(tally_a.tasks):
        drawn = count[:, i] > 0
        spread = (drawn_b[drawn, i] - drawn_a[drawn, i]) / count[drawn, i]
        members = [(x, y) for x, y in pairs if x.task == task]
        rows.append(_difference(task, members, tally_a.accuracies()[i], tally_b.accuracies()[i], spread))
    return rows


def _difference(
    name: str, pairs: Sequence[tuple[Prediction, Prediction]], a: float, b: float, spread: np.ndarray
) -> Difference:
    only_a = sum(x.correct and not y.correct for x, y in pairs)
    only_b = sum(y.correct and not x.correct for x, y in pairs)
    return Difference(name, len(pairs), float(a), float(b), *interval(spread), only_a, only_b)
