"""Plans: every sample once, sequences well filled, the same for all ranks, and resumable."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from videochat_online.data.sampler import PlannedBatches, fill_share, first_fit, grouping_plan, packing_plan

RNG = random.Random(0)
LENGTHS = [RNG.choice((60, 300, 1200, 3800)) + RNG.randrange(200) for _ in range(3000)]
MAX_LENGTH = 8192


def numbers(plan: list[list[int]]) -> list[int]:
    return sorted(number for batch in plan for number in batch)


def test_first_fit_takes_the_first_with_room():
    assert first_fit([5, 4, 3, 2, 7], 7) == [[0, 3], [1, 2], [4]]
    assert first_fit([], 7) == []
    with pytest.raises(ValueError, match="sample 2 of a batch has 8 tokens, expected at most max_length=7"):
        first_fit([1, 2, 8], 7)


def test_packing_holds_every_sample_once_and_fills_the_sequences():
    plan = packing_plan(LENGTHS, MAX_LENGTH)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[n] for n in batch) <= MAX_LENGTH for batch in plan)
    assert fill_share(LENGTHS, plan, max_length=MAX_LENGTH) > 0.97
    assert packing_plan(LENGTHS, MAX_LENGTH) == plan != packing_plan(LENGTHS, MAX_LENGTH, seed=1)


def test_packing_several_sequences_a_batch():
    plan = packing_plan(LENGTHS, MAX_LENGTH, batch_size=4)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert all(len(first_fit([LENGTHS[n] for n in batch], MAX_LENGTH)) <= 4 for batch in plan)


def test_packing_takes_estimates_above_the_limit():
    assert numbers(packing_plan([10, 99, 5], 50)) == [0, 1, 2]


def test_packing_keeps_lengths_apart_where_rotary_factors_change():
    plan = packing_plan(LENGTHS, MAX_LENGTH, batch_size=2, boundary=1000)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert all(len({LENGTHS[n] > 1000 for n in batch}) == 1 for batch in plan)


def test_grouping_holds_every_sample_once_and_pads_little():
    plan = grouping_plan(LENGTHS, 8)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert {len(batch) for batch in plan} == {8}
    mixed = [list(range(start, start + 8)) for start in range(0, len(LENGTHS), 8)]
    assert fill_share(LENGTHS, plan) > 0.9 > 0.5 > fill_share(LENGTHS, mixed)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_a_plan(num_ranks: int):
    plan = grouping_plan(LENGTHS[:100], 3, num_ranks=num_ranks)
    ranks = [PlannedBatches(plan, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for epoch in range(2):
        for one in ranks:
            one.set_epoch(epoch)
        batches = [list(one) for one in ranks]
        assert {len(share) for share in batches} == {len(ranks[0])} == {-(-len(plan) // num_ranks)}
        seen = Counter(number for share in batches for batch in share for number in batch)
        assert set(seen) == set(range(100))
        assert sum(seen.values()) <= 100 + 3 * (num_ranks - 1)


def test_ranks_step_through_batches_of_like_length():
    plan = grouping_plan(LENGTHS, 4, num_ranks=2)
    first, second = (list(PlannedBatches(plan, rank=rank, num_ranks=2)) for rank in (0, 1))
    longest = [(max(LENGTHS[n] for n in a), max(LENGTHS[n] for n in b)) for a, b in zip(first, second, strict=True)]
    assert sum(abs(a - b) for a, b in longest) / len(longest) < 100


def test_epochs_differ_and_repeat_themselves():
    batches = PlannedBatches(packing_plan(LENGTHS, MAX_LENGTH), seed=3)
    first, again = list(batches), list(batches)
    batches.set_epoch(1)
    other = list(batches)
    batches.set_epoch(0)
    assert first == again == list(batches) != other
    assert sorted(map(tuple, first)) == sorted(map(tuple, other))


def test_wrong_ranks_and_empty_plans_are_named():
    with pytest.raises(ValueError, match="rank must be from 0 to num_ranks - 1 = 1, got 2"):
        PlannedBatches([[0]], rank=2, num_ranks=2)
    with pytest.raises(ValueError, match="holds no batches"):
        PlannedBatches([])
