"""What each token weighs in the loss of a step (--loss-reduction).

The loss of a step is the weighted mean of its tokens' cross entropies, over all batches and processes, so the sum of
weights is all that they need of each other. Weights, as in InternVL's trainer: token 1, sample 1 / n and square
1 / sqrt(n), for n loss-bearing tokens of the token's sample. batch is 1 / n for those of its batch: the mean of the
batches' means, as published.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ..prompt.render import IGNORE_INDEX

POWERS = {"token": 0.0, "sample": -1.0, "square": -0.5, "batch": -1.0}


def token_weights(labels: torch.Tensor, reduction: str, position_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Labels (B, N) -> float32 (B, N): what each weighs, 0 where there is no loss.

    Positions `position_ids` (B, N) of 0 begin the samples of packed sequences; without them each row is a sample.
    """
    bears = labels != IGNORE_INDEX
    bears[:, 0] = False  # nothing stands before it that could predict it
    if reduction == "batch":
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
