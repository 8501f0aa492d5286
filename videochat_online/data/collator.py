"""Examples -> one batch: padded to the longest, or packed end to end into full sequences. Knows no model.

B sequences, L tokens of the longest, T pictures of the whole batch in order. Both give what the model's forward takes:
input_ids and labels (B, L), attention_mask or position_ids (B, L), and, if there are pictures, pixel_values
(T, 3, S, S) with image_grids (T,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ..prompt.render import IGNORE_INDEX
from .dataset import TrainingExample
from .sampler import first_fit

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PaddingCollator:
    """One example a sequence, padded at the end. `attention_mask` (B, L) int64 is 1 where there is no padding."""

    pad_token_id: int

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        batch = _batch([[example] for example in examples], self.pad_token_id)
        sizes = torch.tensor([len(example.input_ids) for example in examples])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < sizes[:, None]).long()  # (B, L)
        return batch


@dataclass(frozen=True)
class PackingCollator:
    """Several examples a sequence: `position_ids` (B, L) start at 0 in each example, and in the padding.

    There is no mask of L x L: the language model reads the borders off the positions (model/language_model.py),
    torch's sdpa only while it keeps no cache (use_cache=False).
    Examples go, in order, into the first sequence of `max_length` tokens that has room; a plan whose lengths were
    estimates may thus need one sequence more. ValueError for an example of more tokens than that.
    """

    pad_token_id: int
    max_length: int

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        # 1. which examples stand in which sequence
        bins = first_fit([len(example.input_ids) for example in examples], self.max_length)
        rows = [[examples[number] for number in numbers] for numbers in bins]
        batch = _batch(rows, self.pad_token_id)
        # 2. positions that show where each begins
        positions = torch.zeros_like(batch["input_ids"])
        for places, row in zip(positions, rows, strict=True):
            sizes = [len(example.input_ids) for example in row]
            places.copy_(torch.cat([*map(torch.arange, sizes), torch.arange(len(places) - sum(sizes))]))
        # 3. a label is the next token's: the last token of an example does not predict the next example
        batch["labels"][positions == 0] = IGNORE_INDEX
        return {**batch, "position_ids": positions}


def _batch(rows: Sequence[Sequence[TrainingExample]], pad_token_id: int) -> Batch:
    """Ids, labels and pictures of B sequences, each of the examples of one row, end to end."""
    ids = [[id_ for example in row for id_ in example.input_ids] for row in rows]
    labels = [[label for example in row for label in example.labels] for row in rows]
    batch = {"input_ids": _padded(ids, pad_token_id), "labels": _padded(labels, IGNORE_INDEX)}
    examples = [example for row in rows for example in row]
    if grids := [grid for example in examples for grid in example.image_grids]:
        pixels = [example.pixel_values for example in examples]
        batch["pixel_values"] = torch.cat(pixels) if len(pixels) > 1 else pixels[0]
        batch["image_grids"] = torch.tensor(grids)
    return batch


def _padded(sequences: Sequence[list[int]], value: int) -> torch.Tensor:
    return pad_sequence(list(map(torch.tensor, sequences)), batch_first=True, padding_value=value)
