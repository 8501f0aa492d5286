"""What each token weighs in the loss of a step (--loss-reduction).

The loss of a step is the weighted mean of its tokens' cross entropies, over all batches and processes, so the sum of
weights is all that they need of each other. Weights, as in InternVL's trainer: token 1, sample 1 / n and square
1 / sqrt(n), for n loss-bearing tokens of the token's sample. batch is 1 / n for those of its batch: the mean of the
batches' means, as published. Packed, each sample counts as a batch of its own: as published with one sample at once.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.checkpoint import checkpoint

from ..prompt.render import IGNORE_INDEX

POWERS = {"token": 0.0, "sample": -1.0, "square": -0.5, "batch": -1.0}


def token_weights(labels: torch.Tensor, reduction: str, position_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Labels (B, N) -> float32 (B, N): what each weighs, 0 where there is no loss.

    Positions `position_ids` (B, N) of 0 begin the samples of packed sequences; without them each row is a sample.
    """
    bears = labels != IGNORE_INDEX
    bears[:, 0] = False  # nothing stands before it that could predict it
    if reduction == "batch" and position_ids is None:
        groups = torch.zeros_like(labels)
    else:
        starts = torch.zeros_like(bears) if position_ids is None else position_ids == 0
        starts[:, 0] = True
        groups = starts.flatten().cumsum(0).view_as(labels)
    counts = torch.bincount(groups[bears], minlength=int(groups.max()) + 1)
    return bears * counts[groups].clamp(min=1).float() ** POWERS[reduction]


def next_tokens(labels: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels and their weights (B, N) -> the next token's at the K positions that need logits (B, K), and those (K,).

    At least one position is kept, so that a batch without loss still goes through the whole model.
    """
    targets = pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    wanted = (targets != IGNORE_INDEX).any(dim=0)
    wanted[0] |= ~wanted.any()
    positions = wanted.nonzero()[:, 0]
    return targets[:, positions], pad(weights[:, 1:], (0, 1))[:, positions], positions


def weighted_loss(
    head: nn.Module,
    hidden: torch.Tensor,
    *,
    targets: torch.Tensor,
    weights: torch.Tensor,
    positions: torch.Tensor,
    num_chunks: int = 1,
) -> torch.Tensor:
    """The sum of the losses of what `next_tokens` gives, each times its weight.

    Args:
        head: makes logits of hidden states.
        hidden: (B, N, D), what the language model's last layer gives.
        num_chunks: parts whose logits are made one after another, and again in the backward pass: never all at once.
            Their number is the same on every process, because ZeRO-3 gathers the head's weights at each call of it.
    """
    whole = hidden[:, positions].flatten(0, 1), targets.flatten(), weights.flatten()
    parts = zip(*(one.tensor_split(num_chunks) for one in whole), strict=True)
    if num_chunks == 1:
        return _weighted_sum(head, *next(parts))
    return torch.stack([checkpoint(_weighted_sum, head, *part, use_reentrant=False) for part in parts]).sum()


def _weighted_sum(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = cross_entropy(head(hidden).float(), targets, ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * weights).sum()
