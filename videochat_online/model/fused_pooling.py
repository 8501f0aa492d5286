"""What the memory bank asks of a batch's maps, in one read of them: a Triton kernel, off unless a bank is made with it.

A program takes some channels of every frame in turn: the map's cells at the coarsest grid, its mean, and the product of
that mean with the mean of the frame before it, which it still has. torch reads each map twice, and compares on the CPU.
Sums follow one order whatever the batch is, so chunks change nothing. Runs on a GPU, or on a CPU under
TRITON_INTERPRET=1. T frames of a batch, C channels, (h, w) their maps' grid, (g, g') the coarsest level's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl

from ..config import Grid

BLOCK_VALUES = 4096
"""Of a map that a program holds at once, 32 for each of its 128 threads. At 16x16 they are 16 channels: 256 programs
for the 4,096 of the 4B model, and one sector of memory (32 bytes) at a time where channels come last."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit(do_not_specialize=["num_frames"])  # one compiled kernel for every T: the same bits
def _kernel(
    maps: tl.tensor, weights: tl.tensor, order: tl.tensor, cells: tl.tensor, means: tl.tensor, products: tl.tensor,
    num_frames: tl.tensor, channels: tl.tensor,
    frame_stride: tl.tensor, channel_stride: tl.tensor, position_stride: tl.tensor,
    POSITIONS: tl.constexpr, CELLS: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    position, channel = tl.arange(0, PADDED), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_position, is_channel = position < POSITIONS, channel < channels
    places = position[:, None] * position_stride + channel[None, :] * channel_stride
    before = tl.zeros((BLOCK,), tl.float64)
    for turn in range(num_frames):
        frame = tl.load(order + turn).to(tl.int64)
        inside = is_position[:, None] & is_channel[None, :]
        values = tl.load(maps + frame * frame_stride + places, mask=inside, other=0.0).to(tl.float32)
        mean = tl.sum(values, axis=0) / POSITIONS
        tl.store(means + frame * channels + channel, mean, mask=is_channel)
        now = mean.to(tl.float64)  # decisions are made in float64
        tl.store(products + frame * tl.num_programs(0) + tl.program_id(0), tl.sum(now * before, axis=0))
        before = now
        for cell in range(CELLS):
            share = tl.load(weights + cell * POSITIONS + position, mask=is_position, other=0.0)
            pooled = tl.sum(values * share[:, None], axis=0)
            at = cells + (frame * CELLS + cell) * channels + channel
            tl.store(at, pooled.to(cells.dtype.element_ty), mask=is_channel)


def pool_and_compare(
    maps: torch.Tensor, grid: Grid, order: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Of maps (T, C, h, w), contiguous in any layout: their cells (T, C, g, g') on their device; their means, float32
    (T, C), on the CPU; and for each the product of its mean with that of the one before it in `order`, 0 for the first.

    Waits for the device once. Raises ValueError for numbers and devices that the kernel does not run on.
    """
    if maps.dtype not in DTYPES:
        raise ValueError(f"the fused kernel takes float32, bfloat16 or float16 maps, got {maps.dtype}")
    if not maps.is_cuda and isinstance(_kernel, triton.JITFunction):
        raise ValueError(f"the fused kernel runs on a GPU (or under TRITON_INTERPRET=1), the maps are on {maps.device}")
    (num, channels, *whole), device = maps.shape, maps.device
    positions = whole[0] * whole[1]
    num_cells = 0 if tuple(whole) == grid else grid[0] * grid[1]
    padded = triton.next_power_of_2(positions)
    block = min(64, max(1, BLOCK_VALUES // padded))
    num_blocks = triton.cdiv(channels, block)
    cells = torch.empty(num, *grid, channels, dtype=maps.dtype, device=device) if num_cells else maps
    means = torch.empty(num, channels, device=device)
    products = torch.empty(num, num_blocks, dtype=torch.float64, device=device)
    in_order = torch.tensor(order, dtype=torch.int32, pin_memory=maps.is_cuda).to(device, non_blocking=True)
    weights = _shares(*whole, grid, device)
    strides = (channels * positions, positions, 1) if maps.is_contiguous() else (channels * positions, 1, channels)
    _kernel[(num_blocks,)](
        maps, weights, in_order, cells, means, products, num, channels, *strides, positions, num_cells, padded, block
    )
    # one transfer: a float64 goes along as two float32
    both = torch.cat((means, products.sum(1, keepdim=True).view(torch.float32)), 1).cpu()
    of_order = both[:, channels:].contiguous().view(torch.float64)[:, 0].tolist()
    return cells.permute(0, 3, 1, 2) if num_cells else maps, both[:, :channels], of_order


@lru_cache
def _shares(height: int, width: int, grid: Grid, device: torch.device) -> torch.Tensor:
    """(g * g', h * w): how much of each cell each position is; cells overlap where grids do not divide each other."""
    sides = []
    for size, number in ((height, grid[0]), (width, grid[1])):
        first = torch.arange(number) * size // number
        end = ((torch.arange(number) + 1) * size + number - 1) // number
        place = torch.arange(size)
        covered = (place >= first[:, None]) & (place < end[:, None])
        sides.append(covered / (end - first)[:, None])
    return torch.kron(*sides).contiguous().to(device)
