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


class BatchPooling:
    """Pools batches of maps to one grid, reading each map once; keeps its scratch memory, so it belongs to one thread.

    The same result for a map whether it comes alone or in a batch.
    """

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self._strips = self._halves = torch.empty(0)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(T, C, h, w) -> (T, C, grid, grid)"""
        last = features.permute(0, 2, 3, 1)  # (T, h, w, C)
        plain = features.dtype == torch.float32 and features.device.type == "cpu" and len(features) > 0
        cell = (features.shape[2] / self.grid, features.shape[3] / self.grid)
        if plain and cell in ((2, 2), (4, 4)) and last.is_contiguous():
            cells = last.new_empty(len(last), self.grid, self.grid, last.shape[3])
            for each, out in zip(last, cells, strict=True):
                self._pool_channels_last(each, out)
            return cells.permute(0, 3, 1, 2)
        if plain and cell in ((2, 2), (4, 4)) and features.is_contiguous():
            cells = features.new_empty(*features.shape[:2], self.grid, self.grid)
            for each, out in zip(features, cells, strict=True):
                self._pool_channels_first(each, out)
            return cells
        pooled = [average_pool(each, self.grid) for each in features]
        return torch.stack(pooled) if pooled else features

    def _pool_channels_last(self, values: torch.Tensor, out: torch.Tensor) -> None:
        """(h, w, C) -> out (g, g, C): weigh and add the rows of each cell (a product, which only reads), then add its
        columns in halves."""
        (height, width, channels), grid = values.shape, self.grid
        size = height // grid  # positions along a cell's side
        self._strips = _scratch(self._strips, grid, width * channels)
        weights = values.new_full((size,), 1.0 / size**2)
        for row, strip in zip(values.view(grid, size, width * channels), self._strips, strict=True):
            torch.mv(row.t(), weights, out=strip)
        columns, out = self._strips.view(grid * grid, size * channels), out.view(grid * grid, channels)
        if size == 4:
            self._halves = _scratch(self._halves, grid * grid, 2 * channels)
            columns = _add_halves(columns, self._halves)
        _add_halves(columns, out)

    def _pool_channels_first(self, values: torch.Tensor, out: torch.Tensor) -> None:
        """(C, h, w) -> out (C, g, g): add the rows of each cell in halves, then weigh and add its columns."""
        (channels, height, width), grid = values.shape, self.grid
        size = height // grid
        self._strips = _scratch(self._strips, channels * grid, size // 2 * width)
        rows = _add_halves(values.view(channels * grid, size * width), self._strips)
        if size == 4:
            self._halves = _scratch(self._halves, channels * grid, width)
            rows = _add_halves(rows, self._halves)
        torch.mv(rows.view(-1, size), values.new_full((size,), 1.0 / size**2), out=out.view(-1))


def _scratch(kept: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The kept tensor if it has this shape, else a new one."""
    return kept if kept.shape == (rows, columns) else torch.empty(rows, columns)


def _add_halves(values: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """(N, 2 K) -> out (N, K): left half plus right half."""
    half = values.shape[1] // 2
    return torch.add(values[:, :half], values[:, half:], out=out)


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
