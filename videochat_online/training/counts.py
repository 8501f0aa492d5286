"""The course of a run in numbers: samples, tokens, steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .batches import BatchPlan


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


def count_steps(plan: BatchPlan) -> Steps:
    config = plan.config
    total = config.max_steps if config.max_steps > 0 else math.ceil(config.epochs * plan.num_steps)
    warmup = math.ceil(config.warmup * total) if config.warmup < 1 else int(config.warmup)
    return Steps(
        num_samples=len(plan.lengths),
        num_tokens=int(np.sum(plan.lengths)),
        padding_share=plan.padding_share,
        per_epoch=plan.num_steps,
        total=total,
        warmup=warmup,
        batches_per_step=plan.batches_per_step,
        samples_per_step=len(plan.lengths) / plan.num_batches * plan.batches_per_step,
    )
