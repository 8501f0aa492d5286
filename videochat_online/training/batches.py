"""Which samples stand together in a batch, for every epoch and process; and the picture a batch without one borrows.

The plans themselves are data.sampler's. Here a step is shared out so that it holds the same samples on any number of
processes: batch n of a step goes to process n mod world size.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from ..data.sampler import PlannedBatches, fill_share, grouping_plan, packing_plan
from .arguments import SettingError, TrainingConfig


@dataclass(frozen=True)
class BatchPlan:
    """What every epoch's steps are made of."""

    lengths: Sequence[int]
    """Tokens of each sample, estimated."""
    config: TrainingConfig
    batches_per_step: int
    """Over all processes."""
    packs: Sequence[Sequence[int]] = ()
    """With packing: the samples of each batch, the same in every epoch."""

    def batches(self, epoch: int) -> list[list[int]]:
        """The samples of each batch; neighbours make up a step, the order of steps is `ProcessBatches`' business."""
        if self.config.batching == "packed":
            return [list(pack) for pack in self.packs]
        seed = self.config.seed * 1_000_003 + epoch
        if self.config.batching == "grouped":
            return grouping_plan(self.lengths, self.config.batch_size, seed=seed, num_ranks=self.batches_per_step)
        order = random.Random(f"{seed}/shuffling").sample(range(len(self.lengths)), len(self.lengths))
        return [order[first : first + self.config.batch_size] for first in range(0, len(order), self.config.batch_size)]

    @property
    def num_batches(self) -> int:
        return len(self.packs) or -(-len(self.lengths) // self.config.batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return -(-self.num_batches // self.batches_per_step)

    @property
    def padding_share(self) -> float:
        """Of the first epoch's positions, by the estimated lengths."""
        packed = self.config.batching == "packed"
        return 1 - fill_share(self.lengths, self.batches(0), max_length=self.config.max_length if packed else None)


class ProcessBatches(Sampler[list[int]]):
    """The share of one process in each epoch's batches, step after step.

    All steps are of one size: where the samples do not fill the last one, some of the epoch are used once more.
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
        shares = [PlannedBatches(batches, seed=self.plan.config.seed, rank=n, num_ranks=size) for n in self.places]
        for share in shares:
            share.set_epoch(self.epoch)
        for step in zip(*shares, strict=True):
            yield from step


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


def make_plan(
    config: TrainingConfig, lengths: Sequence[int], world_size: int, *, boundary: int | None = None
) -> BatchPlan:
    """The plan of a run over samples of these lengths.

    Args:
        boundary: with packing, samples of more tokens than this are kept apart from shorter ones (see `packing_plan`).

    Raises SettingError for an empty data set and for numbers that do not divide.
    """
    if not len(lengths):
        raise SettingError("--data holds no samples")
    packs: list[list[int]] = []
    if config.batching == "packed":
        packs = packing_plan(
            lengths, config.max_length, batch_size=config.batch_size, seed=config.seed, boundary=boundary
        )
    per_batch = len(lengths) / len(packs) if packs else config.batch_size
    return BatchPlan(lengths, config, world_size * accumulation(config, world_size, per_batch), packs)


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
