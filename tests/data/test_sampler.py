"""Plans: every sample once, sequences well filled, the same in every process."""

from __future__ import annotations

import random

import numpy as np
import pytest

from videochat_online.data.sampler import (
    PACKED_TOGETHER,
    Plan,
    fill_share,
    first_fit,
    grouping_plan,
    packing_plan,
    padded_plan,
    shuffled,
)

RNG = random.Random(0)
LENGTHS = [RNG.choice((60, 300, 1200, 3800)) + RNG.randrange(200) for _ in range(3000)]
MAX_LENGTH = 8192
ORDER = [4, 6, 0, 3, 1, 2, 9, 7, 5, 8]


def numbers(plan: Plan) -> list[int]:
    return sorted(number for batch in plan for number in batch)


def sequences(plan: Plan) -> list[list[int]]:
    return [part.tolist() for part in np.split(plan.numbers, plan.sequences[1:-1])]


def fits_one_by_one(lengths: list[int], capacity: int) -> list[list[int]]:
    """First fit as a textbook has it."""
    bins: list[list[int]] = []
    for number, length in enumerate(lengths):
        found = next((one for one in bins if sum(lengths[n] for n in one) + length <= capacity), None)
        if found is None:
            bins.append(found := [])
        found.append(number)
    return bins


def test_an_order_is_the_same_on_every_machine():
    assert shuffled(10, "0/grouping").tolist() == ORDER
    assert sorted(shuffled(1000, "1").tolist()) == list(range(1000))


def test_first_fit_takes_the_first_with_room():
    assert first_fit([5, 4, 3, 2, 7], 7) == [[0, 3], [1, 2], [4]]
    assert first_fit([], 7) == []
    lengths = LENGTHS[:300]
    assert first_fit(lengths, 5000) == fits_one_by_one(lengths, 5000)
    with pytest.raises(ValueError, match="sample 2 of a batch has 8 tokens, expected at most max_length=7"):
        first_fit([1, 2, 8], 7)


def test_packing_holds_every_sample_once_and_fills_the_sequences():
    plan = packing_plan(LENGTHS, MAX_LENGTH)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert all(sum(LENGTHS[n] for n in batch) <= MAX_LENGTH for batch in plan)
    assert fill_share(LENGTHS, plan) > 0.97
    again, other = packing_plan(LENGTHS, MAX_LENGTH), packing_plan(LENGTHS, MAX_LENGTH, seed=1)
    assert list(again) == list(plan) != list(other)


def test_packing_is_first_fit_among_the_longest_of_each_few_thousand():
    expected = []
    order = shuffled(len(LENGTHS), "0/packing").tolist()
    for few in (order[:PACKED_TOGETHER], order[PACKED_TOGETHER:]):
        longest_first = sorted(few, key=lambda number: -LENGTHS[number])
        bins = fits_one_by_one([LENGTHS[number] for number in longest_first], MAX_LENGTH)
        expected += [[longest_first[place] for place in one] for one in bins]
    assert list(packing_plan(LENGTHS, MAX_LENGTH)) == expected


def test_packing_several_sequences_a_batch():
    plan = packing_plan(LENGTHS, MAX_LENGTH, batch_size=4)
    assert numbers(plan) == list(range(len(LENGTHS)))
    assert all(len(first_fit([LENGTHS[n] for n in batch], MAX_LENGTH)) <= 4 for batch in plan)
    single = packing_plan(LENGTHS, MAX_LENGTH)
    assert sequences(plan) == sequences(single) == list(single)


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
    mixed = padded_plan(np.arange(len(LENGTHS)), 8)
    assert fill_share(LENGTHS, plan) > 0.9 > 0.5 > fill_share(LENGTHS, mixed)


def test_grouping_sorts_each_few_steps_by_length():
    expected = []
    order = shuffled(len(LENGTHS), "0/grouping").tolist()
    for start in range(0, len(order), 3 * 2 * 50):
        expected += sorted(order[start : start + 3 * 2 * 50], key=lambda number: -LENGTHS[number])
    assert grouping_plan(LENGTHS, 3, num_ranks=2).numbers.tolist() == expected


def test_the_fill_share_of_unequal_batches():
    plan = Plan(np.array([2, 0, 1]), np.array([0, 1, 2, 3]), np.array([0, 2, 3]))
    assert fill_share([5, 7, 10], plan) == (10 + 5 + 7) / (2 * 10 + 7)
    packed = Plan(np.array([2, 0, 1]), np.array([0, 1, 3]), np.array([0, 2]))
    assert fill_share([5, 7, 10], packed) == 22 / (2 * 12)
