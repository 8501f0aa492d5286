"""When a rule would have spoken, and whether that was right: hits, false alarms, duplicates, delays. Numbers only.

A moment is caught by the first word from its onset to HIT_SECONDS after it is certain; every other word is a false
alarm, also the second one for the same moment. Rates are a minute of one instruction.

Calibrating: which threshold gives how many alarms an hour on one's own stream. Nothing is said, all probabilities are
kept. Whatever the rule would have said counts as an alarm; whether it was right, nobody knows there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, exp

import numpy as np

from .standing import NEVER, Rule, Standing

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


SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Thresholds of the table."""
HIGHEST = 0.9999
"""A threshold that is tried, and no higher one."""


def keep_all(standing: Standing) -> None:
    """Its curve forgets nothing from now on."""
    standing.rule, standing.curve = replace(standing.rule, threshold=NEVER), deque()


@dataclass(frozen=True)
class Calibration:
    """Of one instruction."""

    instruction: str
    minutes: float
    readouts: int
    highest: float | None
    """P that was reached."""
    alarms: dict[float, int]
    """Threshold -> times that it would have spoken."""
    threshold: float | None
    """The lowest from which on no threshold gives more alarms an hour than one would bear; None: nothing seen."""
    at_threshold: int = 0
    at_most_an_hour: float = 0.0
    """With 95 %, at that threshold: a short film without alarms promises little."""


def calibrated(standing: Standing, most: float) -> Calibration:
    """`most`: alarms an hour that one would bear."""
    curve = list(standing.curve)
    if len(curve) < 2:
        return Calibration(standing.text, 0.0, len(curve), None, {}, None)
    times, p = ([point[k] for point in curve] for k in (0, 1))
    hours = (times[-1] - times[0]) / 3600

    def alarms(threshold: float) -> int:
        return len(fired(times, p, replace(standing.rule, threshold=threshold)))

    chosen = HIGHEST
    for threshold in sorted({*SHOWN, *thresholds([p], 200)}, reverse=True):
        if threshold < chosen and alarms(threshold) > most * hours:
            break
        chosen = min(chosen, threshold)
    found = alarms(chosen := min(HIGHEST, ceil(chosen * 1e6) / 1e6))
    return Calibration(
        standing.text, hours * 60, len(curve), max(p), {each: alarms(each) for each in SHOWN}, chosen, found,
        poisson_limit(found) / hours,
    )  # fmt: skip


def poisson_limit(number: int) -> float:
    """The mean of a Poisson variable that is `number` or less with 5 %.

    >>> round(poisson_limit(0), 2), round(poisson_limit(2), 2)
    (3.0, 6.3)
    """
    low, high = float(number), number + 10 * (number + 1) ** 0.5
    for _ in range(60):
        mean = term = (low + high) / 2
        term, below = exp(-mean), 0.0
        for k in range(number + 1):
            below, term = below + term, term * mean / (k + 1)
        low, high = (mean, high) if below > 0.05 else (low, mean)
    return high


def calibration_text(found: Calibration, most: float) -> str:
    """For a person."""
    if found.threshold is None or found.highest is None:
        return f"{found.instruction}\nread out {found.readouts} times: too few frames to say anything"
    hours = found.minutes / 60
    lines = [
        f"{found.instruction}\n{found.minutes:.1f} minutes, {found.readouts} readouts, P up to {found.highest:.3f}",
        "threshold  alarms   an hour",
        *(f"{each:9g} {number:7d} {number / hours:9.1f}" for each, number in found.alarms.items()),
    ]
    seen = (
        f"{found.at_threshold} in {found.minutes:.1f} minutes; with 95 % fewer than {found.at_most_an_hour:.1f} an hour"
    )
    kept = (
        f"at most {most:g} an hour: --threshold"
        if found.at_threshold <= most * hours
        else "no threshold is high enough:"
    )
    lines.append(f"{kept} {found.threshold:g} ({seen})")
    return "\n".join(lines)
