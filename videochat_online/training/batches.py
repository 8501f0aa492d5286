"""From samples to the batch that the model takes, and which of its positions bear loss. B sequences, N positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..data.settings import SettingError
from ..prompt.render import IGNORE_INDEX
from .configuration import TrainingConfig

if TYPE_CHECKING:
    from ..processing import Processor

Collator = Callable[[list[Any]], dict[str, Any]]


def make_collator(config: TrainingConfig, processor: Processor) -> Collator:
    """Padded batches, or packed ones whose borders the language model reads off the positions.

    Flash attention reads them in a single sequence only, which may then be longer than --max-length. Raises
    SettingError for a tokenizer that has no token to pad with.
    """
    from ..data.collator import PackingCollator, PaddingCollator

    tokenizer = processor.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad is None:
        raise SettingError(f"--model {config.model}: its tokenizer has neither a padding token nor an end of text")
    if config.batching != "packed":
        return PaddingCollator(pad)
    one_sequence = config.attention == "flash_attention_2"
    return PackingCollator(pad, 2**31 if one_sequence else config.max_length)


class Collate:
    """The data set's collator, counts for the log, and a borrowed picture for batches of text alone."""

    def __init__(self, collator: Collator, image_size: int, image_token_id: int) -> None:
        self.collator = collator
        self.image_size = image_size
        self.image_token_id = image_token_id

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = self.collator(examples)
        counts = {
            "num_tokens": sum(len(example.input_ids) for example in examples),
            "num_images": sum(len(example.image_grids) for example in examples),
        }
        return counts | with_picture(batch, image_size=self.image_size, image_token_id=self.image_token_id)


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
    extra = dict.fromkeys(("attention_mask", "position_ids"), column)
    extra |= {"input_ids": column.clone(), "labels": column + IGNORE_INDEX}
    extra["input_ids"][0] = image_token_id
    longer = {key: torch.cat([batch[key], extra[key]], dim=1) for key in extra if batch.get(key) is not None}
    pixel_values = torch.zeros(1, 3, image_size, image_size)
    return {**batch, **longer, "pixel_values": pixel_values, "image_grids": torch.ones(1, dtype=torch.long)}


def num_targets(batch: Mapping[str, Any]) -> int:
    """Loss-bearing tokens of a batch: labels (B, N), each predicted at the position before it."""
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())


def next_tokens(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B, N) -> the next token's at the K positions that need logits (B, K), and those positions (K,).

    At least one position is kept, so that a batch without loss still goes through the whole model.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    wanted = (targets != IGNORE_INDEX).any(dim=0)
    wanted[0] |= ~wanted.any()
    positions = wanted.nonzero()[:, 0]
    return targets[:, positions], positions
