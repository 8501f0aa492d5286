"""The course of a run: which samples stand together in the batches of each step, and each step's learning rate;
and whether that can teach anything.

A step is planned for all processes together, so that it holds the same samples on any number of them. The orders
themselves are data.sampler's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..data.sampler import Lengths, fill_share, grouping_plan, packing_plan, padded_plan, shuffled
from ..data.sampler import Plan as Batches
from ..data.settings import SettingError
from .configuration import TrainingConfig
from .distributed import data_workers

FEW_STEPS = 10
"""Fewer steps that change weights are taken for a mistake, and said."""


@dataclass(frozen=True)
class RunShape:
    """How a run is shared out. A checkpoint is resumed exactly only in the same shape."""

    world_size: int
    strategy: str
    batch_size: int
    """Samples (packed: sequences) one process takes at once."""
    accumulation: int
    """Steps of gradient accumulation."""

    @property
    def batches_per_step(self) -> int:
        """Over all processes."""
        return self.world_size * self.accumulation

    def __str__(self) -> str:
        step = f"{self.batches_per_step} x {self.batch_size} samples or sequences a step"
        return f"{self.strategy} on {self.world_size} processes, {step}"


@dataclass(frozen=True)
class TrainingPlan:
    """What every epoch's steps are made of."""

    lengths: np.ndarray
    """Tokens of each sample, estimated."""
    config: TrainingConfig
    shape: RunShape
    packed: Batches | None = None
    """With packing: the same batches in every epoch."""

    def batches(self, epoch: int, *, rank: int = 0, first: int = 0, stop: int | None = None) -> Iterator[list[int]]:
        """The samples of one process's batches, of the steps `first` to `stop` of an epoch, step after step.

        Neighbours make up a step, and the steps are shuffled. All are of one size: where the batches do not fill the
        last one, the first of the epoch are used once more.
        """
        batches, size = self._batches(epoch), self.shape.batches_per_step
        order = shuffled(self.steps_per_epoch, f"{self.config.seed}/{epoch}/order")
        for step in order[first:stop].tolist():
            for place in range(rank, size, self.shape.world_size):
                yield batches[(step * size + place) % len(batches)]

    def _batches(self, epoch: int) -> Batches:
        if self.packed is not None:
            return self.packed
        seed, size = self.config.seed * 1_000_003 + epoch, self.config.batch_size
        if self.config.batching == "grouped":  # the batches of one step are alike too
            return grouping_plan(self.lengths, size, seed=seed, num_ranks=self.shape.batches_per_step)
        return padded_plan(shuffled(len(self.lengths), f"{seed}/shuffling"), size)

    @property
    def num_batches(self) -> int:
        return -(-len(self.lengths) // self.config.batch_size) if self.packed is None else len(self.packed)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_batches // self.shape.batches_per_step)

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
        return len(self.lengths) / self.num_batches * self.shape.batches_per_step

    @property
    def padding_share(self) -> float:
        """Of the first epoch's positions, by the estimated lengths."""
        return 1 - fill_share(np.minimum(self.lengths, self.config.max_length), self._batches(0))

    def learning_rate(self, step: int) -> float:
        """Of the step that comes after `step` finished ones: a linear warm-up from 0, then --schedule."""
        highest, warmup = self.config.learning_rate, self.warmup_steps
        if step < warmup:
            return highest * step / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        if self.config.schedule == "cosine":
            return highest * 0.5 * (1 + math.cos(math.pi * progress))
        return highest * (1 - progress) if self.config.schedule == "linear" else highest


def make_plan(
    config: TrainingConfig, lengths: Lengths, world_size: int, *, boundary: int | None = None
) -> TrainingPlan:
    """The plan of a run over samples of these lengths.

    Args:
        boundary: with packing, samples of more tokens than this are kept apart from shorter ones (see `packing_plan`).

    Raises SettingError for an empty data set and, without packing, for numbers that do not divide. With packing a step
    holds --global-batch-size samples in the mean, as nearly as whole batches on all processes allow.
    """
    if not len(lengths):
        raise SettingError("--data holds no samples")
    lengths, batch_size, wanted, packed = np.asarray(lengths), config.batch_size, config.global_batch_size, None
    if config.batching == "packed":
        packed = packing_plan(lengths, config.max_length, batch_size=batch_size, seed=config.seed, boundary=boundary)
        accumulation = max(1, round(wanted * len(packed) / (len(lengths) * world_size)))
    elif wanted % (world_size * batch_size):
        raise SettingError(
            f"--global-batch-size {wanted} must be a multiple of --batch-size {batch_size} times the {world_size} "
            "processes"
        )
    else:
        accumulation = wanted // (world_size * batch_size)
    return TrainingPlan(lengths, config, RunShape(world_size, config.strategy, batch_size, accumulation), packed)


def judge(plan: TrainingPlan) -> tuple[list[str], list[str]]:
    """Why the run could not change any weight, and why it would hardly do what was meant. For `train` and `--check`."""
    problems, warnings, config = [], [], plan.config
    advice = "lower --global-batch-size, raise --epochs, or take --preset finetune"
    if config.max_steps > 0:
        advice = f"raise --max-steps {config.max_steps}"
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
            f"one step holds the {len(plan.lengths):,} samples of the data {times:.1f} times over: "
            f"lower --global-batch-size {config.global_batch_size}, or take --preset finetune"
        )
    if 2 * plan.warmup_steps > plan.num_steps > 1:
        warnings.append(
            f"{min(plan.warmup_steps, plan.num_steps):,} of {plan.num_steps:,} steps are warm-up "
            f"(--warmup {config.warmup:g}), most of the run, with less than the learning rate of "
            f"{config.learning_rate:g}; lower --warmup"
        )
    if config.batching == "packed" and config.loss_reduction == "batch":
        warnings.append(
            "--loss-reduction batch: each packed sequence counts alike, however many samples it holds; "
            "with sample each sample does, as in the published recipe, which does not pack"
        )
    return problems, warnings


def steps_text(plan: TrainingPlan) -> str:
    """Samples, the make-up of a step, the number of steps and who reads the data, a line each."""
    shape, config = plan.shape, plan.config
    unit = "sequence" if config.batching == "packed" else "sample"
    return (
        f"samples          {len(plan.lengths):,} an epoch, {int(np.sum(plan.lengths)):,} tokens (estimated), "
        f"{plan.padding_share:.1%} padding ({config.batching})\n"
        f"a step           {plan.samples_per_step:,.0f} samples: {counted(shape.world_size, 'process')} x "
        f"{shape.accumulation} times x {counted(config.batch_size, unit)}\n"
        f"steps            {plan.num_steps:,} ({plan.steps_per_epoch:,} an epoch), {plan.warmup_steps:,} of them "
        f"warm-up; a checkpoint every {config.save_every:,}\n"
        f"reading          {counted(data_workers(config), 'data worker')} for each process, if started on this machine"
    )


def counted(number: int, what: str) -> str:
    """1 process, 8 processes."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
