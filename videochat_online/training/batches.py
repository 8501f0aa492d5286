"""Which samples stand together in a batch, for every epoch and process; and the picture a batch without one borrows.

The plans themselves are data.sampler's. Here a step is shared out so that it holds the same samples on any number of
processes: batch n of a step goes to process n mod world size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from ..data.sampler import Lengths, Plan, fill_share, grouping_plan, packing_plan, padded_plan, shuffled
from .arguments import SettingError, TrainingConfig


@dataclass(frozen=True)
class BatchPlan:
    """What every epoch's steps are made of."""

    lengths: Lengths
    """Tokens of each sample, estimated."""
    config: TrainingConfig
    batches_per_step: int
    """Over all processes."""
    packed: Plan | None = None
    """With packing: the same batches in every epoch."""

    def batches(self, epoch: int) -> Plan:
        """An epoch's batches; neighbours make up a step, the order of steps is `ProcessBatches`' business."""
        if self.packed is not None:
            return self.packed
        seed, size = self.config.seed * 1_000_003 + epoch, self.config.batch_size
        if self.config.batching == "grouped":
            return grouping_plan(self.lengths, size, seed=seed, num_ranks=self.batches_per_step)
        return padded_plan(shuffled(len(self.lengths), f"{seed}/shuffling"), size)

    @property
    def num_batches(self) -> int:
        return -(-len(self.lengths) // self.config.batch_size) if self.packed is None else len(self.packed)

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return -(-self.num_batches // self.batches_per_step)

    @property
    def padding_share(self) -> float:
        """Of the first epoch's positions, by the estimated lengths."""
        return 1 - fill_share(np.minimum(self.lengths, self.config.max_length), self.batches(0))


class ProcessBatches(Sampler[list[int]]):
    """The share of one process in each epoch's batches: whole steps in a new random order, batch after batch.

    All steps are of one size: where the batches do not fill the last one, the first of the plan are used once more.
    A process holds the plan and the order of its steps, whatever the number of processes.
    """

    def __init__(self, plan: BatchPlan, *, world_size: int = 1, rank: int = 0) -> None:
        self.plan = plan
        self.places = range(rank, plan.batches_per_step, world_size)  # this process's batches of a step
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.plan.num_steps * len(self.places)

    def __iter__(self) -> Iterator[list[int]]:
        batches, size = self.plan.batches(self.epoch), self.plan.batches_per_step
        for step in shuffled(self.plan.num_steps, f"{self.plan.config.seed}/{self.epoch}/order").tolist():
            for place in self.places:
                yield batches[(step * size + place) % len(batches)]


def accumulation(config: TrainingConfig, world_size: int, samples_per_batch: float) -> int:
    """Batches each process adds up for one step.

    With packing a step holds --global-batch-size samples in the mean, as nearly as whole batches on all processes
    allow. Without, the numbers must divide; SettingError where they do not.
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


def make_plan(config: TrainingConfig, lengths: Lengths, world_size: int, *, boundary: int | None = None) -> BatchPlan:
    """The plan of a run over samples of these lengths.

    Args:
        boundary: with packing, samples of more tokens than this are kept apart from shorter ones (see `packing_plan`).

    Raises SettingError for an empty data set and for numbers that do not divide.
    """
    if not len(lengths):
        raise SettingError("--data holds no samples")
    lengths = np.asarray(lengths)
    packed, per_batch = None, float(config.batch_size)
    if config.batching == "packed":
        packed = packing_plan(
            lengths, config.max_length, batch_size=config.batch_size, seed=config.seed, boundary=boundary
        )
        per_batch = len(lengths) / len(packed)
    return BatchPlan(lengths, config, world_size * accumulation(config, world_size, per_batch), packed)


def with_picture(batch: Mapping[str, Any], *, image_size: int, image_token_id: int) -> dict[str, Any]:
    """A batch that holds at least one picture.

    A batch of text alone would leave connector and encoder without gradient on this process, while others wait for it
    to take part. It gets one black picture of one token at the end of its first row, behind all words: no
    other position attends to it and it bears no loss, so that loss and gradients are those of the text (the
    connector's are zero).
    """
    pictures = batch.get("pixel_values")
    if pictures is not None and len(pictures):
        return dict(batch)
    ids = batch["input_ids"]  # (B, N)
    column = ids.new_zeros(len(ids), 1)
    extra = {"input_ids": column.clone(), "labels": column - 100, "attention_mask": column, "position_ids": column}
    extra["input_ids"][0] = image_token_id
    longer = {key: torch.cat([batch[key], extra[key]], dim=1) for key in extra if batch.get(key) is not None}
    pixel_values = torch.zeros(1, 3, image_size, image_size)
    return {**batch, **longer, "pixel_values": pixel_values, "image_grids": torch.ones(1, dtype=torch.long)}
