"""How often an epoch shows each row of each set: `repeat_time`, and mixing by the square root of the sets' sizes.

Integers only. The same for every process and every epoch, so that lengths and plans stay valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from .sampler import shuffled

Mixing = Literal["proportional", "sqrt"]


def epoch_rows(
    sizes: Sequence[int], repeats: Sequence[float], *, mixing: Mixing = "proportional", seed: int = 0
) -> np.ndarray:
    """int64 (num_samples, 2): set number and row number of each sample of an epoch, set after set.

    A set is seen `repeat_time` times. With `sqrt` the epoch keeps its length, and a set's share of it is that of the
    square root of what it would have been, so that small sets are heard among large ones.
    """
    counts = [samples_of_set(size, repeat) for size, repeat in zip(sizes, repeats, strict=True)]
    if mixing == "sqrt":
        counts = _shares(sum(counts), [math.sqrt(count) for count in counts])
    rows = [
        rows_of_set(size, count, seed=f"{seed}/{number}")
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    return np.stack([np.repeat(np.arange(len(counts)), counts), np.concatenate(rows)], axis=1)


def samples_of_set(size: int, repeat: float) -> int:
    """How many samples of an epoch a set of `size` rows gives by its repeat_time alone."""
    return max(1, round(size * repeat))


def rows_of_set(size: int, count: int, *, seed: str) -> np.ndarray:
    """int64 (count,) row numbers: every row equally often, and a random choice of rows once more for what is left."""
    whole, left = divmod(count, size)
    extra = np.sort(shuffled(size, seed)[:left])
    return np.concatenate([np.tile(np.arange(size), whole), extra])


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in proportion to `weights`, one at least for each; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda number: int(exact[number]) - exact[number])
    for number in order[: max(0, total - sum(counts))]:
        counts[number] += 1
    return counts
