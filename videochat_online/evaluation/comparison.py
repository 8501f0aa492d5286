"""Two runs on the same questions: the paired difference B minus A with its interval, in all and for each sub-task.

Pairing and resampling whole videos for both at once takes out what is hard about a video for either model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scoring import Tally, headline, headline_of, interval
from .summary import cost_of
from .types import Prediction


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


def compare(a: Sequence[Prediction], b: Sequence[Prediction], kind: str) -> list[Difference]:
    """Paired differences: the headline first, then each sub-task. Both must hold the same questions."""
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


def cost_line(a: Sequence[Prediction], b: Sequence[Prediction]) -> str:
    """What both runs cost; times compare only where both were measured on one machine."""
    costs = [cost_of(rows) for rows in (a, b)]
    frames = [cost["frames"] or 0 for cost in costs]
    seconds = [cost["seconds"] or 0.0 for cost in costs]
    ratio = f", B is {seconds[1] / seconds[0]:.2f} times A" if seconds[0] else ""
    return f"frames encoded: A {frames[0]}, B {frames[1]}; seconds: A {seconds[0]:.1f}, B {seconds[1]:.1f}{ratio}"


def table_of(differences: list[Difference]) -> str:
    """Markdown; accuracies and differences in points of 100."""
    heads = ("", "questions", "A", "B", "B - A", "95 %", "only A right", "only B right")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for one in differences:
        span = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
        numbers = f"{100 * one.accuracy_a:.1f} | {100 * one.accuracy_b:.1f} | {100 * one.difference:+.1f} | {span}"
        lines.append(f"| {one.name} | {one.num_questions} | {numbers} | {one.only_a} | {one.only_b} |")
    return "\n".join(lines)
