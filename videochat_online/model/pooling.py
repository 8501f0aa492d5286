"""Average pooling of one feature map to a coarser grid, at the speed of reading it once.

Knows nothing of levels or time. C channels, (h, w) the map's grid, g the wanted grid's side.
The encoder's maps lie channels-last in memory (each position's C values side by side), so sums of whole rows of
values are the fastest route; torch's own pooling kernels are 4 to 20 times slower there (measured on two cores).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pools_exactly(features: torch.Tensor, grid: int) -> bool:
    """Whether every cell of the grid covers as many positions of a map (..., h, w): then pooling keeps its mean."""
    height, width = features.shape[-2:]
    return height % grid == 0 and width % grid == 0


def average_pool(features: torch.Tensor, grid: int) -> torch.Tensor:
    """Pool one map (C, h, w) to (C, grid, grid); the same numbers whether a map comes alone or in a batch.

    Raises ValueError where the map is coarser than the grid.
    """
    _, height, width = features.shape
    if grid > height or grid > width:
        raise ValueError(f"a {height}x{width} map cannot be pooled to a finer {grid}x{grid} grid")
    if (height, width) == (grid, grid):
        return features
    plain = features.dtype == torch.float32 and features.device.type == "cpu"
    if not (plain and pools_exactly(features, grid)):
        return F.adaptive_avg_pool2d(features[None], grid)[0]
    if features.permute(1, 2, 0).is_contiguous():
        return _pool_channels_last(features.permute(1, 2, 0), grid).permute(2, 0, 1)
    return _pool_channels_first(features.contiguous(), grid)


def _pool_channels_last(values: torch.Tensor, grid: int) -> torch.Tensor:
    """(h, w, C) -> (grid, grid, C): halve as often as it goes, then add what is left of each cell."""
    height, width, channels = values.shape
    scale = grid * grid / (height * width)
    while (height // grid) % 2 == 0 and (width // grid) % 2 == 0:
        height, width = height // 2, width // 2
        rows = values.reshape(height, 2, 2 * width * channels)
        pairs = (rows[:, 0] + rows[:, 1]).reshape(height, width, 2, channels)
        values = pairs[:, :, 0] + pairs[:, :, 1]  # (h, w, C), each a sum
    if (height, width) != (grid, grid):
        values = values.reshape(grid, height // grid, grid, width // grid, channels).sum((1, 3))
    return values.mul_(scale)


def _pool_channels_first(values: torch.Tensor, grid: int) -> torch.Tensor:
    """(C, h, w) -> (C, grid, grid): fold the rows of each cell in halves, then add columns by a product with ones."""
    channels, height, width = values.shape
    rows, columns = height // grid, width // grid
    strips = values.reshape(channels * grid, rows * width)
    while rows % 2 == 0:
        rows //= 2
        strips = strips[:, : rows * width] + strips[:, rows * width :]
    if rows > 1:
        strips = strips.reshape(-1, rows, width).sum(1)
    ones = torch.full((columns,), grid * grid / (height * width), dtype=values.dtype)
    return (strips.reshape(-1, columns) @ ones).reshape(channels, grid, grid)
