"""Which samples share a batch: of like length where sequences are padded, filled up where they are packed.

Plans are lists of integers made from lengths; the same seed gives the same plan in every process, which takes its
part of it. Knows no data set.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

Plan = list[list[int]]
"""Batches of sample numbers."""

GROUPED_BATCHES = 50
"""Batches' worth of random samples that are sorted by length together."""
PACKED_TOGETHER = 2048
"""Random samples that are packed among themselves; more fill sequences no better and plan slower."""


def first_fit(lengths: Sequence[int], capacity: int) -> Plan:
    """Numbers 0 .. len-1 in bins: each goes, in order, into the first bin with room. ValueError if one fits in none.

    >>> first_fit([5, 4, 3, 2], capacity=7)
    [[0, 3], [1, 2]]
    """
    bins: Plan = []
    room = np.zeros(len(lengths), dtype=np.int64)
    for number, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"sample {number} of a batch has {length} tokens, expected at most max_length={capacity}")
        place = int(np.argmax(room[: len(bins)] >= length)) if bins else 0
        if place == len(bins) or room[place] < length:
            place = len(bins)
            bins.append([])
            room[place] = capacity
        bins[place].append(number)
        room[place] -= length
    return bins


def packing_plan(
    lengths: Sequence[int], max_length: int, *, batch_size: int = 1, seed: int = 0, boundary: int | None = None
) -> Plan:
    """Batches that pack into `batch_size` sequences of `max_length` tokens. Longer estimates count as `max_length`.

    Samples are taken at random, the longest of each few thousand first. Samples longer than `boundary` tokens are kept
    apart from the others: a language model whose rotary factors change there (Phi-3's LongRoPE at 4,096) uses one set
    for a whole batch.
    """
    clipped = np.minimum(np.asarray(lengths), max_length)
    order = random.Random(f"{seed}/packing").sample(range(len(clipped)), len(clipped))
    above = [number for number in order if boundary is not None and clipped[number] > boundary]
    below = [number for number in order if boundary is None or clipped[number] <= boundary]
    batches: Plan = []
    for numbers in (below, above):
        packs = [pack for few in _chunks(numbers, PACKED_TOGETHER) for pack in _pack(few, clipped, max_length)]
        batches += [[number for pack in some for number in pack] for some in _chunks(packs, batch_size)]
    return batches


def grouping_plan(lengths: Sequence[int], batch_size: int, *, seed: int = 0, num_ranks: int = 1) -> Plan:
    """Batches of `batch_size` samples of like length; the batches of one step, one a rank, are alike too."""
    order = random.Random(f"{seed}/grouping").sample(range(len(lengths)), len(lengths))
    batches: Plan = []
    for few in _chunks(order, batch_size * num_ranks * GROUPED_BATCHES):
        batches += _chunks(sorted(few, key=lambda number: -lengths[number]), batch_size)
    return batches


class PlannedBatches(Sampler[list[int]]):
    """A batch sampler: one rank's share of a plan, in a new random order each epoch.

    Every rank gets the same number of batches; where they do not come out even, the first of the order are seen again.
    Leave `num_ranks` at 1 where the trainer deals batches
    out to its ranks itself, as accelerate does.
    """

    def __init__(self, plan: Plan, *, seed: int = 0, rank: int = 0, num_ranks: int = 1) -> None:
        if not plan:
            raise ValueError("the plan holds no batches: there are no samples")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank must be from 0 to num_ranks - 1 = {num_ranks - 1}, got {rank}")
        self._plan = plan
        self._seed = seed
        self._rank = rank
        self._num_ranks = num_ranks
        self._epoch = 0

    def __len__(self) -> int:
        """Batches a rank has in an epoch."""
        return -(-len(self._plan) // self._num_ranks)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self._order():
            yield list(self._plan[number])

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of this epoch."""
        self._epoch = epoch

    def _order(self) -> list[int]:
        """This rank's batch numbers: whole steps (neighbours in the plan, one a rank) are shuffled."""
        numbers = list(range(len(self._plan)))
        missing = -len(numbers) % self._num_ranks
        steps = _chunks(numbers + (numbers * self._num_ranks)[:missing], self._num_ranks)
        random.Random(f"{self._seed}/{self._epoch}/order").shuffle(steps)
        return [step[self._rank] for step in steps]


def fill_share(lengths: Sequence[int], plan: Plan, *, max_length: int | None = None) -> float:
    """Share of a plan's positions that hold tokens, the rest being padding; `max_length`: sequences are packed."""
    num_tokens = num_positions = 0
    for batch in plan:
        sizes = [lengths[number] for number in batch]
        rows = [[size] for size in sizes]
        if max_length is not None:
            rows = [[sizes[place] for place in places] for places in first_fit(sizes, max_length)]
        num_tokens += sum(sizes)
        num_positions += len(rows) * max(map(sum, rows))
    return num_tokens / num_positions


def _pack(numbers: Sequence[int], lengths: np.ndarray, capacity: int) -> Plan:
    longest_first = sorted(numbers, key=lambda number: -lengths[number])
    bins = first_fit([int(lengths[number]) for number in longest_first], capacity)
    return [[longest_first[place] for place in places] for places in bins]


def _chunks(items: Sequence[Any], size: int) -> list[Any]:
    return [items[start : start + size] for start in range(0, len(items), size)]
