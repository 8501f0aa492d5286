"""From replies to numbers: finding the answer in a text, accuracies, baselines and intervals.

Knows predictions and questions only. No answer found is wrong and counted; no question is ever left out of a
denominator. Intervals resample whole videos, since questions about one video are not independent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .types import Prediction, Question

NUM_RESAMPLES = 2000
SEED = 0

_MARKED = r"[(\[]\s*([A-Ea-e])\s*[)\]]"  # (A) or [a]
_LISTED = r"^\s*([A-Ea-e])\s*(?:[.):]|$)"  # a line that begins "B." or is "b"
_ANNOUNCED = r"(?i:\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*)([a-e])(?=\W*$)"  # a text that ends "answer: b"
_BARE = r"(?<![\w'’-])([A-E])(?![\w'’-])"  # a capital on its own
_LETTER = re.compile(f"{_MARKED}|{_LISTED}|{_ANNOUNCED}|{_BARE}", re.MULTILINE)
_SENTENCE_STARTS = re.compile(r"(?:^|[.!?\n])[\s\"“'*]*$")
_WORD_FOLLOWS = re.compile(r"\s+(?!(?:is|was|and|or|because|since|as|seems|would)\b)[a-z]")


def extract_letter(text: str) -> str | None:
    """The first stand-alone letter A to E of a reply, as a capital, or None.

    The article is not option A: a small letter counts only where it is marked (`(a)`, a line `b.`, `answer: c`), and
    the capital that begins a sentence (`A man walks`) does not count.

    >>> [extract_letter(text) for text in ("(B) a dog", "The answer is C.", "A man with a hat", "Not a B but A")]
    ['B', 'C', None, 'B']
    """
    for match in _LETTER.finditer(text):
        start, end = match.span(match.lastindex or 0)
        article = text[start:end] == "A" and _WORD_FOLLOWS.match(text, end)
        if not (article and _SENTENCE_STARTS.search(text, 0, start)):
            return text[start:end].upper()
    return None


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
        """Tally `correct` (one value a prediction), by default the verdicts."""
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

    def resampled(self, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
        """(resamples, tasks) right answers and questions, drawing whole videos with replacement."""
        num_videos = len(self.count)
        equal = np.full(num_videos, 1 / num_videos)
        weights = np.random.default_rng(seed).multinomial(num_videos, equal, num_resamples)
        return weights @ self.correct, weights @ self.count


def headline(kind: str, correct: np.ndarray, count: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """The one number from (..., tasks) sums: mean of `tasks`, mean of `categories` (means of tasks), or `pooled`.

    A sub-task without questions (a resample, a part of the benchmark) is left out of the mean.
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


def chance_of(predictions: Sequence[Prediction], questions: dict[str, Question]) -> Tally:
    """Guessing among the options. An open answer (a count) cannot be guessed: 0."""
    return Tally.of(predictions, [questions[p.id].chance for p in predictions])


def commonest_of(predictions: Sequence[Prediction]) -> Tally:
    """Always giving the answer that is most often right in its sub-task: what a model without eyes can learn."""
    favourite = commonest_answers(predictions)
    return Tally.of(predictions, [float(p.answer == favourite[p.task]) for p in predictions])


def commonest_answers(predictions: Iterable[Prediction]) -> dict[str, str]:
    """Sub-task -> its most frequent right answer (the first in alphabetical order of equals)."""
    answers: dict[str, Counter[str]] = {}
    for prediction in predictions:
        answers.setdefault(prediction.task, Counter())[prediction.answer] += 1
    return {task: min(counts, key=lambda answer: (-counts[answer], answer)) for task, counts in answers.items()}
