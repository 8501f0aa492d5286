"""Which rows an epoch shows, and which samples share a batch: of like length where padded, filled up where packed.

Everything is an array, made with no loop over samples: two million of them take seconds and some megabytes. The same
seed gives the same numbers in every process and with every numpy. Knows no data set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .settings import Mixing

Lengths = Sequence[int] | np.ndarray
"""Tokens of each sample."""
Integers = NDArray[np.int64]

GROUPED_BATCHES = 50
"""Batches' worth of random samples that are sorted by length together."""
PACKED_TOGETHER = 2048
"""Random samples that are packed among themselves; more fill sequences no better and plan slower."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches of sequences of samples; in a padded batch each sample is a sequence."""

    numbers: Integers
    """Sample numbers, batch after batch."""
    sequences: Integers
    """(S + 1,): sequence s holds numbers[sequences[s] : sequences[s + 1]]."""
    batches: Integers
    """(B + 1,): batch b holds the sequences from batches[b] up to batches[b + 1]."""

    def __len__(self) -> int:
        return len(self.batches) - 1

    def __getitem__(self, batch: int) -> list[int]:
        """The sample numbers of a batch."""
        first, last = self.sequences[self.batches[batch : batch + 2]]
        return self.numbers[first:last].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[batch] for batch in range(len(self)))


def epoch_rows(sizes: Sequence[int], repeats: Sequence[float], *, mixing: Mixing, seed: int) -> Integers:
    """(num_samples, 2): set number and row number of each sample of an epoch, set after set; the same in every epoch.

    A set is shown `repeat_time` times. With `sqrt` the epoch keeps its length, and a set's share of it is that of the
    square root of what it would have been, so that small sets count among large ones.
    """
    counts = [samples_of_set(size, repeat) for size, repeat in zip(sizes, repeats, strict=True)]
    if mixing == "sqrt":
        counts = _shares(sum(counts), [math.sqrt(count) for count in counts])
    rows = []
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        # every row equally often, and a random choice of rows once more for what is left
        whole, left = divmod(count, size)
        rows += [np.tile(np.arange(size), whole), np.sort(shuffled(size, f"{seed}/{number}")[:left])]
    return np.stack([np.repeat(np.arange(len(counts)), counts), np.concatenate(rows)], axis=1)


def samples_of_set(size: int, repeat: float) -> int:
    """How many samples of an epoch a set of `size` rows gives by its repeat_time alone."""
    return max(1, round(size * repeat))


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in proportion to `weights`, one at least for each; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    order = sorted(range(len(exact)), key=lambda number: int(exact[number]) - exact[number])
    for number in order[: max(0, total - sum(counts))]:
        counts[number] += 1
    return counts


def padded_plan(numbers: Integers, batch_size: int) -> Plan:
    """Samples in this order, `batch_size` to a batch."""
    return Plan(numbers, np.arange(len(numbers) + 1), _borders(len(numbers), batch_size))


def shuffled(count: int, seed: str) -> Integers:
    """The numbers 0 .. count-1 in random order; RandomState's streams are the ones numpy promises never to change."""
    words = np.frombuffer(hashlib.sha256(seed.encode()).digest(), dtype="<u4")
    return np.random.RandomState(words).permutation(count).astype(np.int64, copy=False)


def first_fit(lengths: Lengths, capacity: int) -> list[list[int]]:
    """Numbers 0 .. len-1 in bins: each goes, in order, into the first bin with room. ValueError if one fits in none.

    >>> first_fit([5, 4, 3, 2], capacity=7)
    [[0, 3], [1, 2]]
    """
    for number, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(f"sample {number} of a batch has {length} tokens, expected at most max_length={capacity}")
    if not len(lengths):
        return []
    chosen = _first_fit(np.asarray(lengths)[None], capacity)[0]
    return [np.flatnonzero(chosen == one).tolist() for one in range(int(chosen.max()) + 1)]


def packing_plan(
    lengths: Lengths, max_length: int, *, batch_size: int = 1, seed: int = 0, boundary: int | None = None
) -> Plan:
    """Batches that pack into `batch_size` sequences of `max_length` tokens. Longer estimates count as `max_length`.

    Samples are taken at random, the longest of each few thousand first. Samples longer than `boundary` tokens are kept
    apart from the others: a language model whose rotary factors change there (Phi-3's LongRoPE at 4,096) uses one set
    for a whole batch.
    """
    clipped = np.minimum(np.asarray(lengths), max_length)
    order = shuffled(len(clipped), f"{seed}/packing")
    above = np.zeros(len(order), dtype=bool) if boundary is None else np.asarray(lengths)[order] > boundary
    parts = [_packed(part, clipped, max_length) for part in (order[~above], order[above]) if len(part)]
    numbers, counts = zip(*parts, strict=True)
    in_batches = [np.diff(_borders(len(some), batch_size)) for some in counts]
    return Plan(np.concatenate(numbers), _from_sizes(np.concatenate(counts)), _from_sizes(np.concatenate(in_batches)))


def grouping_plan(lengths: Lengths, batch_size: int, *, seed: int = 0, num_ranks: int = 1) -> Plan:
    """Batches of `batch_size` samples of like length; the batches of one step, one a rank, are alike too."""
    order = shuffled(len(lengths), f"{seed}/grouping")
    sizes = np.asarray(lengths, dtype=np.int64)[order]
    together = np.arange(len(order)) // (batch_size * num_ranks * GROUPED_BATCHES)
    longest_first = np.argsort(together * (sizes.max(initial=0) + 1) - sizes, kind="stable")
    return padded_plan(order[longest_first], batch_size)


def fill_share(lengths: Lengths, plan: Plan) -> float:
    """Share of a plan's positions that hold tokens, the rest being padding to the longest sequence of each batch."""
    sizes = np.add.reduceat(np.asarray(lengths, dtype=np.int64)[plan.numbers], plan.sequences[:-1])
    longest = np.maximum.reduceat(sizes, plan.batches[:-1])
    return float(sizes.sum() / (longest * np.diff(plan.batches)).sum())


def _packed(numbers: Integers, lengths: np.ndarray, capacity: int) -> tuple[Integers, Integers]:
    """The numbers sequence after sequence, and how many each sequence holds."""
    num_groups = -(-len(numbers) // PACKED_TOGETHER)
    width = min(len(numbers), PACKED_TOGETHER)
    padded = np.full(num_groups * width, -1, dtype=np.int64)
    padded[: len(numbers)] = numbers
    groups = padded.reshape(num_groups, width)
    sizes = np.where(groups < 0, 0, lengths[groups])  # what fills up the last group takes no room and goes again
    longest_first = np.argsort(-sizes, axis=1, kind="stable")
    groups, sizes = (np.take_along_axis(values, longest_first, axis=1) for values in (groups, sizes))
    chosen = _first_fit(sizes, capacity) + np.arange(num_groups)[:, None] * width
    real = groups.ravel() >= 0
    sequence, members = chosen.ravel()[real], groups.ravel()[real]
    counts = np.bincount(sequence)
    return members[np.argsort(sequence, kind="stable")], counts[counts > 0]


def _first_fit(sizes: np.ndarray, capacity: int) -> Integers:
    """(G, M) sizes -> (G, M) bins: in each group every item goes, in order, into the first bin with room.

    One step places an item of every group: bins that nothing is in yet have all their room, so the first with room is
    at most one behind the last used.
    """
    room = np.full(sizes.shape, capacity, dtype=np.int64)
    bins = np.empty(sizes.shape, dtype=np.int64)
    groups, num_open = np.arange(len(sizes)), 0
    for place in range(sizes.shape[1]):
        first = np.argmax(room[:, : num_open + 1] >= sizes[:, place, None], axis=1)
        bins[:, place] = first
        room[groups, first] -= sizes[:, place]
        num_open = max(num_open, int(first.max()) + 1)
    return bins


def _borders(count: int, size: int) -> Integers:
    """0, size, 2 size, ... count."""
    return np.append(np.arange(0, count, size), count)


def _from_sizes(sizes: Integers) -> Integers:
    return np.concatenate([[0], np.cumsum(sizes)])
