"""When a rule would have spoken, and whether that was right: hits, false alarms, duplicates, delays. Numbers only.

A moment is caught by the first word from its onset to HIT_SECONDS after it is certain; every other word is a false
alarm, also the second one for the same moment. Rates are a minute of one instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .standing import Rule, Standing

HIT_SECONDS = 2.0
Moments = Sequence[tuple[float, float]]
"""(onset, certain), seconds."""


@dataclass(frozen=True)
class Outcome:
    """Of some instructions together."""

    moments: int = 0
    hits: int = 0
    false: int = 0
    duplicates: int = 0
    """Of the false alarms, those for a moment that was caught before."""
    seconds: float = 0.0
    """Watched, summed over the instructions."""
    delays: tuple[float, ...] = field(default=(), repr=False)
    """Seconds from when a caught moment was certain; below 0: before that."""

    @property
    def recall(self) -> float:
        return self.hits / self.moments if self.moments else 0.0

    @property
    def alarms(self) -> float:
        """False ones a minute."""
        return 60 * self.false / self.seconds if self.seconds else 0.0

    @property
    def f1(self) -> float:
        said = self.hits + self.false
        return 2 * self.hits / (self.moments + said) if self.moments + said else 0.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.moments + other.moments, self.hits + other.hits, self.false + other.false,
            self.duplicates + other.duplicates, self.seconds + other.seconds, self.delays + other.delays,
        )  # fmt: skip


def fired(times: Sequence[float], probabilities: Sequence[float], rule: Rule) -> list[float]:
    """The seconds at which a rule speaks."""
    standing = Standing("", "", "", "Yes", rule)
    return [time for time, p in zip(times, probabilities, strict=True) if standing.decide(time, p)]


def judged(moments: Moments, said: Sequence[float], seconds: float) -> Outcome:
    """What was said at these seconds, of a stream watched for `seconds`."""
    caught: dict[int, float] = {}
    duplicates = 0
    for time in said:
        fits = [n for n, (start, certain) in enumerate(moments) if start <= time <= certain + HIT_SECONDS]
        free = [n for n in fits if n not in caught]
        if free:
            caught[free[0]] = time - moments[free[0]][1]
        duplicates += bool(fits) and not free
    return Outcome(len(moments), len(caught), len(said) - len(caught), duplicates, seconds, tuple(caught.values()))


def summed(outcomes: Iterable[Outcome]) -> Outcome:
    return sum(outcomes, Outcome())


def thresholds(probabilities: Iterable[Sequence[float]], number: int = 60) -> list[float]:
    """Thresholds to try: from those that a few frames pass to those that most do."""
    values = np.concatenate([np.asarray(each, float) for each in probabilities])
    tried = np.quantile(values, 1 - np.geomspace(0.5 / len(values), 0.8, number))
    return sorted({float(value) for value in tried if 0 < value < 1})
