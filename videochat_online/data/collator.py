"""Examples -> one batch: padded to the longest, or packed end to end into full sequences. Knows no model.

B sequences, L tokens, T pictures of the whole batch in order. Both give what the model's forward takes: input_ids,
labels (B, L), attention_mask or position_ids, and pixel_values (T, 3, S, S) with image_grids (T,) if there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..prompt.render import IGNORE_INDEX
from .dataset import TrainingExample
from .sampler import first_fit

Batch = dict[str, torch.Tensor]
PackedAttention = Literal["mask", "positions"]


@dataclass(frozen=True)
class PaddingCollator:
    """One example a sequence, padded at the end. `attention_mask` (B, L) int64 is 1 where there is no padding."""

    pad_token_id: int
    pad_to_multiple: int = 1
    """L is a multiple of this."""

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        rows = [[example] for example in examples]
        length = padded_length(rows, self.pad_to_multiple)
        batch = _sequences(rows, length, self.pad_token_id)
        sizes = torch.tensor([len(example.input_ids) for example in examples])
        batch["attention_mask"] = (torch.arange(length) < sizes[:, None]).long()  # (B, L)
        return {**batch, **_pictures(rows)}


@dataclass(frozen=True)
class PackingCollator:
    """Several examples a sequence: positions start at 0 in each, and none attends to another.

    Examples go, in order, into the first sequence of `max_length` tokens that has room; a plan whose lengths were
    estimates may thus need one sequence more. `position_ids` (B, L) always; padding counts as one more example.
    """

    pad_token_id: int
    max_length: int
    attention: PackedAttention = "mask"
    """mask: `attention_mask` (B, 1, L, L) bool, True where a token may look; for torch's sdpa. positions: no mask. The
    language model reads the borders off position_ids: flash attention does, and the other kinds while they keep
    no cache (use_cache=False), without the L x L of memory that a mask takes in the loader."""
    pad_to_multiple: int = 1

    def __post_init__(self) -> None:
        if self.attention not in ("mask", "positions"):
            raise ValueError(f"attention must be 'mask' or 'positions', got {self.attention!r}")

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        plan = first_fit([len(example.input_ids) for example in examples], self.max_length)
        rows = [[examples[number] for number in numbers] for numbers in plan]
        length = padded_length(rows, self.pad_to_multiple)
        batch = _sequences(rows, length, self.pad_token_id)
        sizes = [_with_padding([len(example.input_ids) for example in row], length) for row in rows]
        batch["position_ids"] = torch.stack([torch.cat([torch.arange(size) for size in row]) for row in sizes])
        # A label is the next token's: the first of an example must not be asked of the last of the one before.
        batch["labels"][batch["position_ids"] == 0] = IGNORE_INDEX
        if self.attention == "mask":
            batch["attention_mask"] = torch.stack([block_mask(row) for row in sizes])[:, None]
        return {**batch, **_pictures(rows)}


def block_mask(sizes: Sequence[int]) -> torch.Tensor:
    """bool (L, L): token i may look at token j if j is not later and in the same block; L = sum(sizes)."""
    block = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return (block[:, None] == block[None, :]).tril_()


def padded_length(rows: Sequence[Sequence[TrainingExample]], multiple: int) -> int:
    """Tokens of the longest sequence, rounded up."""
    longest = max(sum(len(example.input_ids) for example in row) for row in rows)
    return -(-longest // multiple) * multiple


def _sequences(rows: Sequence[Sequence[TrainingExample]], length: int, pad_token_id: int) -> Batch:
    input_ids = torch.full((len(rows), length), pad_token_id)
    labels = torch.full((len(rows), length), IGNORE_INDEX)
    for number, row in enumerate(rows):
        ids = [id_ for example in row for id_ in example.input_ids]
        input_ids[number, : len(ids)] = torch.tensor(ids)
        labels[number, : len(ids)] = torch.tensor([label for example in row for label in example.labels])
    return {"input_ids": input_ids, "labels": labels}


def _pictures(rows: Sequence[Sequence[TrainingExample]]) -> Batch:
    """In the order of their places in the sequences; nothing for a batch of texts."""
    examples = [example for row in rows for example in row]
    grids = [grid for example in examples for grid in example.image_grids]
    if not grids:
        return {}
    pixel_values = torch.cat([example.pixel_values for example in examples])
    return {"pixel_values": pixel_values, "image_grids": torch.tensor(grids)}


def _with_padding(sizes: list[int], length: int) -> list[int]:
    return [*sizes, length - sum(sizes)] if sum(sizes) < length else sizes
