"""Several possible answers behind one prompt, laid out so that one pass of the language model scores all of them.

Answers that begin alike share their beginning (a tree); each position sees the prompt and its own beginning only, so
every answer gets the probability it would get alone. Knows no cache and no stream.

M positions of the tree, the first of which is the prompt's last; N positions of the prompt before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class OptionTree:
    """`answers` as token ids, the end mark included, merged by common beginnings."""

    answers: tuple[tuple[int, ...], ...]
    nodes: dict[tuple[int, ...], int]
    """Beginning of an answer (without its last token, which nothing follows) -> its position in the tree."""

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> OptionTree:
        whole = tuple(tuple(ids) for ids in answers)
        nodes: dict[tuple[int, ...], int] = {(): 0}
        for ids in whole:
            for length in range(1, len(ids)):
                nodes.setdefault(ids[:length], len(nodes))
        return cls(whole, nodes)

    @property
    def spoken(self) -> list[int]:
        """(M - 1) ids that follow the prompt's last position."""
        return [beginning[-1] for beginning in self.nodes if beginning]

    def positions(self, num_before: int) -> torch.Tensor:
        """(1, M) position ids, for a prompt of `num_before` positions before its last."""
        return torch.tensor([[num_before + len(beginning) for beginning in self.nodes]])

    def mask(self, num_before: int, dtype: torch.dtype) -> torch.Tensor:
        """(1, 1, M, N + M), 0 where a position may look and the lowest number where not."""
        sees = torch.eye(len(self.nodes), dtype=torch.bool)
        for beginning, number in self.nodes.items():
            if beginning:
                sees[number] |= sees[self.nodes[beginning[:-1]]]
        hidden = torch.zeros(len(sees), num_before + len(sees), dtype=dtype)
        hidden[:, num_before:].masked_fill_(~sees, torch.finfo(dtype).min)
        return hidden[None, None]

    def scores(self, logits: torch.Tensor) -> list[float]:
        """(M, vocabulary) -> log-probability of each answer, summed over its tokens."""
        rows = [self.nodes[ids[:length]] for ids in self.answers for length in range(len(ids))]
        tokens = [token for ids in self.answers for token in ids]
        log_probabilities = logits.float().log_softmax(-1)
        found = log_probabilities[torch.tensor(rows), torch.tensor(tokens)].cpu()
        return [float(part.sum()) for part in found.split([len(ids) for ids in self.answers])]


def takes_mask(config: PreTrainedConfig, num_positions: int) -> bool:
    """Whether a mask can say to this model's attention which position sees which, over `num_positions`.

    Flash attention takes none, and a mask would replace the model's own sliding window where that begins to count.
    """
    window = getattr(config, "sliding_window", None)
    return config._attn_implementation in ("sdpa", "eager") and (window is None or num_positions <= window)
