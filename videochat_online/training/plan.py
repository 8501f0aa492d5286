"""The course of a run: which samples stand together in the batches of each step, and each step's learning rate;
and whether that can teach anything.

A step is planned for all processes together, so that it holds the same samples on any number of them. The orders
themselves are data.sampler's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..data.sampler import Lengths, fill_share, grouping_plan, packing_plan, padded_plan, shuffled
from ..data.sampler import Plan as Batches
from ..data.settings import SettingError
from .configuration import TrainingConfig
from .distributed import data_workers

FEW_STEPS = 10
"""Fewer steps that change weights are taken for a mistake, and said."""
NEARLY_EQUAL = 0.1
"""Share by which the samples of a packed step may differ from what was asked, in the mean."""
PACKING_TRIES = 4


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
    if world_size % (size := config.sequence_parallel):
        raise SettingError(f"--sequence-parallel {size} must divide the number of processes, {world_size}")
    world_size //= size  # those that share a sequence count as one
    lengths, batch_size, wanted, packed = np.asarray(lengths), config.batch_size, config.global_batch_size, None
    if config.batching == "packed":
        packed = packed_batches(config, lengths, world_size, boundary)
        accumulation = max(1, round(wanted * len(packed) / (len(lengths) * world_size)))
    elif wanted % (world_size * batch_size):
        raise SettingError(
            f"--global-batch-size {wanted} must be a multiple of --batch-size {batch_size} times the {world_size} "
            "processes"
        )
    else:
        accumulation = wanted // (world_size * batch_size)
    return TrainingPlan(lengths, config, RunShape(world_size, config.strategy, batch_size, accumulation), packed)


def packed_batches(config: TrainingConfig, lengths: np.ndarray, world_size: int, boundary: int | None) -> Batches:
    """Sequences of --max-length tokens at most; of fewer where a whole number of such batches on every process would
    miss --global-batch-size: on many processes full ones hold more samples than a step may."""
    room, found = config.max_length, dict[float, Batches]()
    for _ in range(PACKING_TRIES):
        packed = packing_plan(lengths, room, batch_size=config.batch_size, seed=config.seed, boundary=boundary)
        times = config.global_batch_size * len(packed) / (len(lengths) * world_size)
        nearest = max(1, round(times))
        miss = abs(nearest / times - 1)
        found.setdefault(miss, packed)
        if miss <= NEARLY_EQUAL:
            break
        if room * times > nearest * config.max_length:
            nearest = math.ceil(times)
        room = math.ceil(room * times / nearest)
    return found[min(found)]


def judge(plan: TrainingPlan) -> tuple[list[str], list[str]]:
    """Why the run could not change any weight, and why it would hardly do what was meant. For `train` and `--check`."""
    problems, warnings, config = [], [], plan.config
    finetune = "" if config.min_steps else ", or take --preset finetune"  # which sets --min-steps
    advice = f"lower --global-batch-size, or raise --epochs{finetune}"
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
            f"lower --global-batch-size {config.global_batch_size}{finetune}"
        )
    if 2 * plan.warmup_steps > plan.num_steps > 1:
        warnings.append(
            f"{min(plan.warmup_steps, plan.num_steps):,} of {plan.num_steps:,} steps are warm-up "
            f"(--warmup {config.warmup:g}), most of the run, with less than the learning rate of "
            f"{config.learning_rate:g}; lower --warmup"
        )
    if abs(plan.samples_per_step / config.global_batch_size - 1) > NEARLY_EQUAL:
        warnings.append(
            f"a step holds {plan.samples_per_step:,.0f} samples in the mean, --global-batch-size is "
            f"{config.global_batch_size:,}: packed on {counted(plan.shape.world_size, 'process')} it comes no nearer"
        )
    return problems, warnings


def steps_text(plan: TrainingPlan) -> str:
    """Samples, the make-up of a step, the number of steps and who reads the data, a line each; what packing saves."""
    shape, config = plan.shape, plan.config
    unit, packing = "sample", ""
    if plan.packed is not None:
        unit, num_sequences = "sequence", len(plan.packed.sequences) - 1
        alone = replace(plan, config=replace(config, batching="grouped"), packed=None)
        packing = (
            f"\npacking          {counted(num_sequences, 'sequence')} of {len(plan.lengths) / num_sequences:.1f} "
            f"samples and {np.sum(plan.lengths) / num_sequences:,.0f} tokens in the mean; grouped they would be "
            f"{alone.num_batches:,} batches with {alone.padding_share:.1%} padding"
        )
    mean_tokens = np.mean(plan.lengths) * plan.samples_per_step
    return (
        f"samples          {len(plan.lengths):,} an epoch, {int(np.sum(plan.lengths)):,} tokens (estimated), "
        f"{plan.padding_share:.1%} padding ({config.batching}){packing}\n"
        f"a step           {plan.samples_per_step:,.0f} samples, {mean_tokens:,.0f} tokens: "
        f"{counted(shape.world_size, 'process')} x {shape.accumulation} times x {counted(config.batch_size, unit)}\n"
        f"steps            {plan.num_steps:,} ({plan.steps_per_epoch:,} an epoch), {plan.warmup_steps:,} of them "
        f"warm-up; a checkpoint every {config.save_every:,}\n"
        f"reading          {counted(data_workers(config), 'data worker')} for each process, if started on this machine"
    )


def counted(number: int, what: str) -> str:
    """1 process, 8 processes."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
