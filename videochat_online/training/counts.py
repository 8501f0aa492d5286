"""The course of a run in numbers, samples, tokens, steps; and whether that course can teach anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .arguments import TrainingConfig
from .batches import BatchPlan

FEW_STEPS = 10
"""Fewer steps that change weights are taken for a mistake, and said."""


@dataclass(frozen=True)
class Steps:
    """The course of a run."""

    num_samples: int
    """Of an epoch."""
    num_tokens: int
    """Of an epoch, by the estimated lengths."""
    padding_share: float
    per_epoch: int
    total: int
    warmup: int
    batches_per_step: int
    samples_per_step: float
    """In the mean."""

    @property
    def changing(self) -> int:
        """Steps whose learning rate is above 0: all, but the first where there is a warm-up, which starts from 0."""
        return self.total - (1 if self.warmup else 0)


def count_steps(plan: BatchPlan) -> Steps:
    config = plan.config
    total = max(math.ceil(config.epochs * plan.num_steps), config.min_steps)
    total = config.max_steps if config.max_steps > 0 else total
    warmup = math.ceil(config.warmup * total) if config.warmup < 1 else int(config.warmup)
    return Steps(
        num_samples=len(plan.lengths),
        num_tokens=int(sum(plan.lengths)),
        padding_share=plan.padding_share,
        per_epoch=plan.num_steps,
        total=total,
        warmup=warmup,
        batches_per_step=plan.batches_per_step,
        samples_per_step=len(plan.lengths) / plan.num_batches * plan.batches_per_step,
    )


@dataclass(frozen=True)
class Judgement:
    """What to think of a run before it starts, for `train` and `--check` alike."""

    problems: list[str]
    """Why it could not change any weight: it is refused."""
    warnings: list[str]
    """Why it would hardly do what was meant."""


def judge(steps: Steps, config: TrainingConfig) -> Judgement:
    problems, warnings = [], []
    advice = "lower --global-batch-size, raise --epochs, or take --preset finetune"
    if steps.changing < 1:
        problems.append(
            f"no weight would change: the run has {steps.total:,} step, and the first step of a warm-up has learning "
            f"rate 0 (--warmup {config.warmup:g}); {advice}"
        )
    elif steps.changing < FEW_STEPS:
        warnings.append(f"only {steps.changing:,} of {steps.total:,} steps change weights; {advice}")
    if steps.samples_per_step > steps.num_samples:
        times = steps.samples_per_step / steps.num_samples
        warnings.append(
            f"one step holds the {steps.num_samples:,} samples of the data {times:.1f} times over: "
            f"lower --global-batch-size {config.global_batch_size}, or take --preset finetune"
        )
    if 2 * steps.warmup > steps.total > 1:
        warnings.append(
            f"{min(steps.warmup, steps.total):,} of {steps.total:,} steps are warm-up (--warmup {config.warmup:g}), "
            f"most of the run, with less than the learning rate of {config.learning_rate:g}; lower --warmup"
        )
    return Judgement(problems, warnings)
