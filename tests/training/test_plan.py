"""Steps hold the same samples on any number of processes; every sample is seen; packs keep apart what must be."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.tiny import settings
from videochat_online.data.sampler import PACKED_TOGETHER
from videochat_online.data.settings import SettingError
from videochat_online.training.plan import PACKING_TRIES, judge, make_plan

BATCHINGS = ("shuffled", "grouped", "packed")
LENGTHS = random.Random(7).choices(range(5, 61), k=101)


def steps_of(batching: str, world_size: int, epoch: int, **changes) -> list[list[int]]:
    """The samples of each step of an epoch, over all processes."""
    config = settings("run", batching=batching, **{"global_batch_size": 8, "batch_size": 1, **changes})
    plan = make_plan(config, LENGTHS, world_size)
    shares = [list(plan.batches(epoch, rank=rank)) for rank in range(world_size)]
    per_step = plan.shape.batches_per_step // world_size
    assert {len(share) for share in shares} == {plan.steps_per_epoch * per_step}
    return [
        sorted(index for share in shares for batch in share[first : first + per_step] for index in batch)
        for first in range(0, len(shares[0]), per_step)
    ]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_step_is_the_same_on_any_number_of_processes(batching: str):
    for epoch in (0, 1):
        alone = steps_of(batching, 1, epoch)
        assert alone == steps_of(batching, 2, epoch)
        assert batching == "packed" or alone == steps_of(batching, 4, epoch)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_sample_is_seen_and_few_twice(batching: str):
    steps = steps_of(batching, 2, 0)
    seen = Counter(index for step in steps for index in step)
    assert set(seen) == set(range(101)) and max(seen.values()) <= 2
    assert sum(seen.values()) - 101 < max(map(len, steps))  # only the last step is filled up
    assert steps != steps_of(batching, 2, 1)
    assert steps == steps_of(batching, 2, 0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_epochs_differ_and_repeat_themselves(batching: str):
    plan = make_plan(settings("run", batching=batching, batch_size=1, global_batch_size=8), LENGTHS, 2)
    first, other, again = (list(plan.batches(epoch, rank=1)) for epoch in (0, 1, 0))
    assert first == again != other


def test_processes_step_through_batches_of_like_length():
    plan = make_plan(settings("run", batching="grouped", batch_size=4, global_batch_size=8), LENGTHS, 2)
    first, second = (list(plan.batches(0, rank=rank)) for rank in (0, 1))
    longest = [(max(LENGTHS[n] for n in a), max(LENGTHS[n] for n in b)) for a, b in zip(first, second, strict=True)]
    assert all(abs(a - b) <= 8 for a, b in longest[:-1])


def to_the_first_batch(batching: str, num_samples: int, world_size: int) -> tuple[int, float, int]:
    """From the lengths to the first batch: calls of functions, bytes a sample at the peak; calls for a hundred more."""
    lengths = np.random.RandomState(0).randint(50, 4000, num_samples).astype(np.int32)
    config = settings("run", batching=batching, batch_size=1, global_batch_size=1024, max_length=8192)
    num_calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        batches = make_plan(config, lengths, world_size).batches(0)
        next(batches)
        until_first = num_calls
        for _ in zip(range(100), batches, strict=False):
            pass
    finally:
        sys.setprofile(None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return until_first, peak / num_samples, num_calls - until_first


CALLS = {"shuffled": 300, "grouped": 300, "packed": 20 * PACKED_TOGETHER}


@pytest.mark.parametrize("batching", BATCHINGS)
def test_the_first_batch_needs_no_loop_over_samples_or_processes(batching: str):
    """A budget of operations and memory: two million samples on 64 processes must not take minutes or gigabytes.

    Packing takes a few calls for each place among the samples that are packed together, however many samples there are;
    on many processes it tries a few lengths of sequences.
    """
    first, bytes_a_sample, more = to_the_first_batch(batching, 20_000, 64)
    assert first < CALLS[batching]
    assert bytes_a_sample < 150
    assert more < 100 * 10
    for num_samples, world_size in ((80_000, 64), (20_000, 1), (20_000, 512)):
        calls, size, _ = to_the_first_batch(batching, num_samples, world_size)
        tries = PACKING_TRIES if (batching, world_size) == ("packed", 512) else 1
        assert calls < tries * first * 1.1 + 20, (num_samples, world_size)
        assert size < bytes_a_sample * (1.1 if tries == 1 else 1.2), (num_samples, world_size)


def test_grouped_batches_pad_less():
    shares = {}
    for batching in ("shuffled", "grouped"):
        config = settings("run", batch_size=4, global_batch_size=4, batching=batching)
        shares[batching] = make_plan(config, LENGTHS, 1).padding_share
    assert shares["grouped"] < 0.3 * shares["shuffled"]


def test_packed_steps_hold_the_asked_number_of_samples_in_the_mean():
    plan = make_plan(settings("run", batching="packed", batch_size=1, max_length=200, global_batch_size=24), LENGTHS, 1)
    mean = len(LENGTHS) / plan.num_batches * plan.shape.batches_per_step
    assert mean == pytest.approx(24, rel=0.15)
    assert all(sum(LENGTHS[index] for index in pack) <= 200 for pack in plan.batches(0))


def test_samples_past_the_rotary_line_are_packed_apart():
    plan = make_plan(settings("run", batching="packed", batch_size=1, max_length=200), LENGTHS, 1, boundary=40)
    for pack in plan.batches(0):
        assert len({LENGTHS[index] > 40 for index in pack}) == 1


def test_numbers_that_do_not_divide():
    with pytest.raises(
        SettingError, match="--global-batch-size 10 must be a multiple of --batch-size 4 times the 2 proc"
    ):
        make_plan(settings("run", global_batch_size=10, batch_size=4), LENGTHS, 2)


def test_no_samples(tmp_path: Path):
    with pytest.raises(SettingError, match="--data holds no samples"):
        make_plan(settings(tmp_path), [], 1)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_resumed_epoch_begins_where_it_was_left(batching: str):
    plan = make_plan(settings("run", batching=batching, batch_size=1), LENGTHS, 2)
    whole, rest = (list(plan.batches(3, rank=1, first=first)) for first in (0, 5))
    assert rest == whole[5 * plan.shape.batches_per_step // 2 :]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 0.3, 4])
def test_the_learning_rate_is_that_of_transformers(schedule: str, warmup: float):
    """Of every step, to the last digits of a float."""
    from transformers import get_scheduler

    plan = make_plan(settings("run", schedule=schedule, warmup=warmup, learning_rate=0.3), [1] * 20, 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = get_scheduler(schedule, optimizer, plan.warmup_steps, plan.num_steps)
    for step in range(plan.num_steps):
        assert plan.learning_rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-18)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("world_size", [8, 64, 512])
def test_packed_steps_of_the_published_size_on_any_number_of_gpus(world_size: int):
    """1,024 samples of the published mix: sequences are made shorter where full ones would hold too many samples."""
    rng = np.random.RandomState(0)
    lengths = rng.permutation(np.concatenate([rng.randint(200, 3900, 38_000), rng.randint(4200, 20_000, 2000)]))
    config = settings("run", batching="packed", batch_size=1, global_batch_size=1024, max_length=32768)
    plan = make_plan(config, lengths, world_size, boundary=4096)
    assert plan.samples_per_step == pytest.approx(1024, rel=0.1)
    assert plan.padding_share < 0.05 and not judge(plan)[1]
    fullest = max(int(lengths[pack].sum()) for pack in plan.batches(0))
    assert fullest < 20_000 if world_size == 512 else 32768 >= fullest > 20_000
