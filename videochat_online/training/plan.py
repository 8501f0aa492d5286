"""The course of a run: which samples stand together in the batches of each step, and each step's learning rate;
and whether that can teach anything.

A step is planned for all processes together, so that it holds the same samples on any number of them. The orders
themselves are data.sampler's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..data.sampler import fill_share, grouping_plan, packing_plan
from ..data.settings import SettingError
from .configuration import TrainingConfig

FEW_STEPS = 10
"""Fewer steps that change weights are taken for a mistake, and said."""

Batch = list[int]
"""Numbers of samples."""


@dataclass(frozen=True)
class Plan:
    """What every epoch's steps are made of."""

    lengths: Sequence[int]
    """Tokens of each sample, estimated."""
    config: TrainingConfig
    batches_per_step: int
    """Over all processes."""
    packs: Sequence[Batch] = ()
    """With packing: the samples of each batch, the same in every epoch."""

    def steps(self, epoch: int) -> list[list[Batch]]:
        """The batches of each step; process n of W takes those at n, n + W, n + 2 W, ...

        All steps are of one size: where the samples do not fill the last one, some of the epoch are used once more.
        """
        batches, size = self._batches(epoch), self.batches_per_step
        batches += (batches * size)[: -len(batches) % size]
        steps = [batches[first : first + size] for first in range(0, len(batches), size)]
        random.Random(f"{self.config.seed}/{epoch}/order").shuffle(steps)
        return steps

    def _batches(self, epoch: int) -> list[Batch]:
        if self.config.batching == "packed":
            return [list(pack) for pack in self.packs]
        seed, size = self.config.seed * 1_000_003 + epoch, self.config.batch_size
        if self.config.batching == "grouped":  # the batches of one step are alike too
            return grouping_plan(self.lengths, size, seed=seed, num_ranks=self.batches_per_step)
        order = random.Random(f"{seed}/shuffling").sample(range(len(self.lengths)), len(self.lengths))
        return [order[first : first + size] for first in range(0, len(order), size)]

    @property
    def num_batches(self) -> int:
        return len(self.packs) or -(-len(self.lengths) // self.config.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_batches // self.batches_per_step)

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        if self.config.max_steps > 0:
            return self.config.max_steps
        return max(math.ceil(self.config.epochs * self.steps_per_epoch), self.config.min_steps)

    @property
    def warmup_steps(self) -> int:
        share = self.config.warmup
        return math.ceil(share * self.num_steps) if share < 1 else int(share)

    @property
    def changing_steps(self) -> int:
        """Steps whose learning rate is above 0: all, but the first where there is a warm-up, which starts from 0."""
        return self.num_steps - (1 if self.warmup_steps else 0)

    @property
    def samples_per_step(self) -> float:
        """In the mean."""
        return len(self.lengths) / self.num_batches * self.batches_per_step

    @property
    def padding_share(self) -> float:
        """Of the first epoch's positions, by the estimated lengths."""
        packed = self.config.batching == "packed"
        return 1 - fill_share(self.lengths, self._batches(0), max_length=self.config.max_length if packed else None)

    def learning_rate(self, step: int) -> float:
        """Of the step that comes after `step` finished ones: a linear warm-up from 0, then --schedule."""
        highest, warmup = self.config.learning_rate, self.warmup_steps
        if step < warmup:
            return highest * step / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        if self.config.schedule == "cosine":
            return highest * 0.5 * (1 + math.cos(math.pi * progress))
        return highest * (1 - progress) if self.config.schedule == "linear" else highest


def make_plan(config: TrainingConfig, lengths: Sequence[int], world_size: int, *, boundary: int | None = None) -> Plan:
    """The plan of a run over samples of these lengths.

    Args:
        boundary: with packing, samples of more tokens than this are kept apart from shorter ones (see `packing_plan`).

    Raises SettingError for an empty data set and for numbers that do not divide.
    """
    if not len(lengths):
        raise SettingError("--data holds no samples")
    packs: list[Batch] = []
    if config.batching == "packed":
        packs = packing_plan(
            lengths, config.max_length, batch_size=config.batch_size, seed=config.seed, boundary=boundary
        )
    per_batch = len(lengths) / len(packs) if packs else config.batch_size
    return Plan(lengths, config, world_size * _gradient_accumulation(config, world_size, per_batch), packs)


def _gradient_accumulation(config: TrainingConfig, world_size: int, samples_per_batch: float) -> int:
    """Batches of one process in a step.

    With packing a step holds --global-batch-size samples in the mean, as nearly as whole batches on all processes
    allow. Without, the numbers must divide.
    """
    if config.batching == "packed":
        return max(1, round(config.global_batch_size / (samples_per_batch * world_size)))
    at_once = world_size * config.batch_size
    if config.global_batch_size % at_once:
        raise SettingError(
            f"--global-batch-size {config.global_batch_size} must be a multiple of --batch-size {config.batch_size} "
            f"times the {world_size} processes"
        )
    return config.global_batch_size // at_once


@dataclass(frozen=True)
class Judgement:
    """What to think of a run before it starts, for `train` and `--check` alike."""

    problems: list[str]
    """Why it could not change any weight: it is refused."""
    warnings: list[str]
    """Why it would hardly do what was meant."""


def judge(plan: Plan) -> Judgement:
    problems, warnings, config = [], [], plan.config
    advice = "lower --global-batch-size, raise --epochs, or take --preset finetune"
    if plan.changing_steps < 1:
        problems.append(
            f"no weight would change: the run has {plan.num_steps:,} step, and the first step of a warm-up has "
            f"learning rate 0 (--warmup {config.warmup:g}); {advice}"
        )
    elif plan.changing_steps < FEW_STEPS:
        warnings.append(f"only {plan.changing_steps:,} of {plan.num_steps:,} steps change weights; {advice}")
    if plan.samples_per_step > len(plan.lengths):
        times = plan.samples_per_step / len(plan.lengths)
        warnings.append(
            f"one step holds the {len(plan.lengths):,} samples of the data {times:.1f} times over "
            f"(--global-batch-size {config.global_batch_size:,}); {advice}"
        )
    if 2 * plan.warmup_steps > plan.num_steps > 1:
        warnings.append(
            f"{min(plan.warmup_steps, plan.num_steps):,} of {plan.num_steps:,} steps are warm-up "
            f"(--warmup {config.warmup:g}), most of the run, with less than the learning rate of {config.learning_rate:g}; lower --warmup"
        )
    return Judgement(problems, warnings)


def steps_text(plan: Plan, num_processes: int) -> str:
    times, config = plan.batches_per_step // num_processes, plan.config
    unit = "sequence" if config.batching == "packed" else "sample"
    return "\n".join(
        [
            f"samples          {len(plan.lengths):,} an epoch, {sum(plan.lengths):,} tokens (estimated), "
            f"{plan.padding_share:.1%} padding ({config.batching})",
            f"a step           {plan.samples_per_step:,.0f} samples: {count(num_processes, 'process')} x "
            f"{times} times x {count(config.batch_size, unit)}",
            f"steps            {plan.num_steps:,} ({plan.steps_per_epoch:,} an epoch), {plan.warmup_steps:,} of them "
            f"warm-up; a checkpoint every {config.save_every:,}",
        ]
    )


def count(number: int, what: str) -> str:
    """1 process, 8 processes."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
