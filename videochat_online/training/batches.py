"""Which samples stand together in a batch, for every epoch and process; and the picture a batch without one borrows.

The order follows from seed and epoch alone, never from the number of processes: batch number n of an epoch goes to
process n mod world size, so that the steps of one process and of many hold the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from .arguments import SettingError, TrainingConfig

GROUPS_SORTED_TOGETHER = 50
"""Steps whose samples are sorted by length together: enough for little padding, few enough to stay shuffled."""


@dataclass(frozen=True)
class BatchPlan:
    """What one epoch's batches are made of."""

    lengths: tuple[int, ...]
    """Tokens of each sample, estimated."""
    batching: str
    batch_size: int
    batches_per_step: int
    """Over all processes."""
    seed: int
    sequences: tuple[tuple[int, ...], ...] = ()
    """With packing: the samples of each sequence, the same in every epoch."""

    @property
    def num_batches(self) -> int:
        units = len(self.sequences) if self.batching == "packed" else len(self.lengths)
        return -(-units // self.batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of one epoch; the last may be smaller."""
        return -(-self.num_batches // self.batches_per_step)

    def batches(self, epoch: int) -> list[list[int]]:
        """The epoch's batches, each the indices of its samples, in the order of training."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        if self.batching == "packed":
            order = torch.randperm(len(self.sequences), generator=generator).tolist()
            return [
                [index for number in order[start : start + self.batch_size] for index in self.sequences[number]]
                for start in range(0, len(order), self.batch_size)
            ]
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        if self.batching == "grouped":
            order = self._grouped(order, generator)
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Samples of like length next to each other, step after step in random order; an incomplete step stays last."""
        step = self.batch_size * self.batches_per_step
        together = step * GROUPS_SORTED_TOGETHER
        steps: list[list[int]] = []
        for start in range(0, len(order), together):
            chunk = sorted(order[start : start + together], key=lambda index: -self.lengths[index])
            steps += [chunk[first : first + step] for first in range(0, len(chunk), step)]
        rest = [steps.pop()] if len(steps[-1]) < step else []
        shuffled = [steps[number] for number in torch.randperm(len(steps), generator=generator).tolist()]
        return [index for one in shuffled + rest for index in one]


class ProcessBatches(Sampler[list[int]]):
    """The share of one process in each epoch's batches.

    Every process gets as many: where the batches do not divide, the first of the epoch are used once more.
    """

    def __init__(self, plan: BatchPlan, *, world_size: int = 1, rank: int = 0) -> None:
        self.plan = plan
        self.world_size = world_size
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.plan.num_batches // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.plan.batches(self.epoch)
        for number in range(self.rank, len(self) * self.world_size, self.world_size):
            yield batches[number % len(batches)]


def accumulation(config: TrainingConfig, world_size: int, samples_per_unit: float) -> int:
    """Batches each process adds up for one step.

    Args:
        samples_per_unit: 1, or with packing the mean number of samples in a sequence: the step then holds
            --global-batch-size samples in the mean, as nearly as whole sequences on all processes allow.

    Raises SettingError where, without packing, the numbers do not divide.
    """
    at_once = world_size * config.batch_size
    if config.batching == "packed":
        return max(1, round(config.global_batch_size / (samples_per_unit * at_once)))
    if config.global_batch_size % at_once:
        raise SettingError(
            f"--global-batch-size {config.global_batch_size} must be a multiple of --batch-size {config.batch_size} "
            f"times the {world_size} processes"
        )
    return config.global_batch_size // at_once


def make_plan(
    config: TrainingConfig, lengths: Sequence[int], world_size: int, sequences: Sequence[Sequence[int]] = ()
) -> BatchPlan:
    """The plan of a run over samples of these lengths; `sequences` are the packed ones, with packing."""
    per_unit = len(lengths) / len(sequences) if sequences else 1.0
    return BatchPlan(
        lengths=tuple(lengths),
        batching=config.batching,
        batch_size=config.batch_size,
        batches_per_step=world_size * accumulation(config, world_size, per_unit),
        seed=config.seed,
        sequences=tuple(tuple(sequence) for sequence in sequences),
    )


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
