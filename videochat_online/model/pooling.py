"""Average pooling of feature maps to a coarser grid, at the speed of reading them once.

Knows nothing of levels or time. T maps, C channels, (h, w) a map's grid, g the wanted grid's side.
A row of cells is one matrix product of weights and the positions it covers: such a product reads the map once, straight
from memory, and takes as long as the map's mean alone. torch's own pooling kernels are 2 to 20 times slower.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

ALIGNMENT = 64
"""Bytes of a cache line; torch gives memory that begins with one."""


def pools_exactly(features: torch.Tensor, grid: int) -> bool:
    """Whether every cell of the grid covers as many positions of a map (..., h, w): then pooling keeps its mean."""
    height, width = features.shape[-2:]
    return height % grid == 0 and width % grid == 0


def average_pool(features: torch.Tensor, grid: int) -> torch.Tensor:
    """Pool one map (C, h, w) to (C, g, g); the same numbers whether a map comes alone or in a batch.

    Raises ValueError where the map is coarser than the grid.
    """
    _, height, width = features.shape
    if grid > height or grid > width:
        raise ValueError(f"a {height}x{width} map cannot be pooled to a finer {grid}x{grid} grid")
    if (height, width) == (grid, grid):
        return features
    if not _is_fast(features, grid):
        return F.adaptive_avg_pool2d(features[None], grid)[0]
    last = features.permute(1, 2, 0)  # (h, w, C)
    weights = _cell_weights(height, width, grid)
    if last.is_contiguous():
        return torch.bmm(weights, _aligned(last).reshape(grid, weights.shape[2], -1)).permute(2, 0, 1)
    return (_aligned(features.reshape(-1, weights.shape[2])) @ weights[0].t()).view(-1, grid, grid)


class BatchPooling:
    """Pools batches of maps to one grid, each map as by `average_pool`; one object belongs to one thread.

    On the CPU all results share one piece of memory: each call overwrites what the last one gave. (To be given fresh
    memory costs a third of the time that pooling takes.)
    """

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self._cells = torch.empty(0)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(T, C, h, w), T >= 1 -> (T, C, g, g)"""
        num, channels, height, width = features.shape
        last = features.permute(0, 2, 3, 1)  # (T, h, w, C)
        # One product for all maps gives the bits of one each, where each begins with a cache line; but for a single
        # cell: there sums are split over threads.
        aligned = features.data_ptr() % ALIGNMENT == 0 and channels * height * width * 4 % ALIGNMENT == 0
        if not (_is_fast(features, self.grid) and last.is_contiguous() and aligned and self.grid > 1):
            return torch.stack([average_pool(each, self.grid) for each in features])
        if self._cells.shape != (num * self.grid, self.grid, channels):
            with torch.inference_mode(False):
                self._cells = torch.empty(num * self.grid, self.grid, channels)
        weights = _cell_weights(height, width, self.grid)[:1].expand(num * self.grid, -1, -1)
        torch.bmm(weights, last.reshape(num * self.grid, -1, channels), out=self._cells)
        return self._cells.view(num, self.grid, self.grid, channels).permute(0, 3, 1, 2)


def _aligned(matrix: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor where a cache line begins: on some CPUs its place decides the last bit of its sums."""
    return matrix if matrix.data_ptr() % ALIGNMENT == 0 else matrix.clone()


def _is_fast(features: torch.Tensor, grid: int) -> bool:
    return features.dtype == torch.float32 and features.device.type == "cpu" and pools_exactly(features, grid)


@lru_cache
def _cell_weights(height: int, width: int, grid: int) -> torch.Tensor:
    """(g, g, h / g * w): for each row of cells the same matrix, from the positions it covers to its cells."""
    rows, columns = height // grid, width // grid
    with torch.inference_mode(False):  # kept for any caller, one that wants gradients included
        of_row = torch.eye(grid).repeat_interleave(columns, dim=1).repeat(1, rows) / (rows * columns)
        return of_row.expand(grid, -1, -1).contiguous()
