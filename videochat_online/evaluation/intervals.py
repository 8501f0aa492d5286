"""Intervals and tests that hold for few questions and for questions that share a video. Knows numbers only.

V videos, T sub-tasks. Answers about one video are not independent: sums of a video are one draw. An accuracy gets the
exact binomial interval at its effective number of independent questions (Korn and Graubard 1998), so 0 of 2 is
"0 to 84", not "0 to 0"; a paired difference the interval of Bonett and Price (2012) at that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

CONFIDENCE = 0.95
MAX_EXACT = 14
"""Videos that differ up to which all their 2^n signs are tried."""
NUM_FLIPS = 20_000
"""Random signs beyond; their number bounds p from below."""
SEED = 0


def beta_quantile(a: float, b: float, share: float) -> float:
    """The value below which `share` of a Beta(a, b) lies, by its density over the logit."""
    narrow = 1 / a + 1 / b
    logit = np.log(a / b) + np.linspace(-1, 1, 20_001) * (10 * sqrt(narrow) + 40 * narrow)
    log_density = -a * np.logaddexp(0, -logit) - b * np.logaddexp(0, logit)
    density = np.exp(log_density - log_density.max())
    below = np.cumsum(density) - density / 2
    return float(1 / (1 + np.exp(-np.interp(share * density.sum(), below, logit))))


def student_quantile(freedom: int) -> float:
    """How many standard errors CONFIDENCE takes with so many degrees of freedom."""
    x = beta_quantile(freedom / 2, 0.5, 1 - CONFIDENCE)
    return sqrt(freedom * (1 - x) / x)


def effective_number(
    share: float, second: float, residuals: np.ndarray, count: np.ndarray, weight: np.ndarray
) -> float:
    """As many independent questions as these tell as much as; at most as many as there are.

    Args:
        share, second: the mean and the mean square of one question's value.
        residuals: (V, T) of each video's sum; count: (V, T) questions; weight: (T,) of each sub-task, 1 together.
    """
    seen = count > 0
    videos, per_task = int(seen.any(1).sum()), seen.sum(0)
    if count.max() <= 1 and count.shape[1] == 1:
        return float(videos)  # a video each: nothing is shared
    # A sub-task seen in one video says nothing about videos: all its questions are one.
    at_most = 1 / float((weight**2 / np.where(per_task > 1, count.sum(0), 1)).sum())
    spread = residuals * np.sqrt(per_task / np.maximum(per_task - 1, 1)) * weight / count.sum(0)
    variance = float((spread.sum(1) ** 2).sum())
    single = second - share**2
    if single <= 1e-12:
        return min(float(videos), at_most)  # no spread can be seen: at worst a video decides all its questions
    few = (student_quantile(max(round(at_most) - 1, 1)) / student_quantile(videos - 1)) ** 2
    return min(single / max(variance, 1e-12) * few, at_most)


def accuracy_interval(correct: np.ndarray, count: np.ndarray, weight: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the weighted mean of accuracies; None where one video is all there is.

    Args:
        correct, count: (V, T) right answers and questions; weight: (T,), 1 together.
    """
    if (count.sum(1) > 0).sum() < 2:
        return None
    rates = correct.sum(0) / count.sum(0)
    share = float(weight @ rates)
    number = effective_number(share, share, correct - rates * count, count, weight)
    right, wrong = share * number, (1 - share) * number
    tail = (1 - CONFIDENCE) / 2
    low = beta_quantile(right, wrong + 1, tail) if right > 1e-9 else 0.0
    high = beta_quantile(right + 1, wrong, 1 - tail) if wrong > 1e-9 else 1.0
    return low, high


def difference_interval(
    gained: np.ndarray, lost: np.ndarray, count: np.ndarray, weight: np.ndarray
) -> tuple[float, float] | None:
    """95 % interval of the weighted mean of (gained - lost) / count, as `accuracy_interval`.

    Args:
        gained, lost: (V, T) questions that only the second, only the first of two answered rightly.
    """
    videos = int((count.sum(1) > 0).sum())
    if videos < 2:
        return None
    up, down = (float(weight @ (one.sum(0) / count.sum(0))) for one in (gained, lost))
    residuals = gained - lost - (gained - lost).sum(0) / count.sum(0) * count
    number = effective_number(up - down, up + down, residuals, count, weight)
    up, down = ((one * number + 1) / (number + 2) for one in (up, down))
    reach = student_quantile(videos - 1) * sqrt((up + down - (up - down) ** 2) / (number + 2))
    return max(up - down - reach, -1.0), min(up - down + reach, 1.0)


def jackknife_interval(whole: float, without: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of any share, by what it is without each of the videos (V,); None where one is all there is."""
    videos = len(without)
    if videos < 2:
        return None
    spread = sqrt((videos - 1) * float(np.var(without))) * student_quantile(videos - 1)
    return max(whole - spread, 0.0), min(whole + spread, 1.0)


def flip_test(differences: np.ndarray) -> float:
    """Two-sided p that videos' differences (V,) are as likely to have either sign: A and B swapped in whole videos.

    Exact up to MAX_EXACT videos that differ; beyond that over random signs, the seen ones among them.
    """
    differ = differences[differences != 0]
    if len(differ) <= MAX_EXACT:
        signs = 1 - 2.0 * (np.arange(2 ** len(differ))[:, None] >> np.arange(len(differ)) & 1)
    else:
        signs = np.random.default_rng(SEED).choice((-1.0, 1.0), (NUM_FLIPS, len(differ)))
        signs[0] = 1
    return float((np.abs(signs @ differ) >= abs(differ.sum()) - 1e-9).mean())


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the chance that any of them is wrong stays bounded."""
    order = np.argsort(values)
    stepped = np.maximum.accumulate(np.asarray(values)[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()
