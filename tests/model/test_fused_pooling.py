"""The memory bank's Triton kernel against the plain way, on a GPU or under Triton's interpreter:

    pip install triton && TRITON_INTERPRET=1 pytest tests/model/test_fused_pooling.py

It is no dependency of the tests: triton is a download of 290 MB, and decides for a whole process whether it interprets.
"""

from __future__ import annotations

import importlib.util
import os
from itertools import pairwise

import pytest
import torch

from videochat_online.config import MemoryConfig
from videochat_online.model.memory_bank import PyramidMemoryBank

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
how = "needs the package triton, and TRITON_INTERPRET=1 in the environment or a CUDA device"
if HAS_TRITON:
    from videochat_online.model.fused_pooling import pool_and_compare
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason=how)
on_devices = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason=how)),
        pytest.param("cuda", marks=[pytest.mark.gpu, needs_triton]),
    ],
)
GRIDS = [
    ((16, 16), (4, 4)),  # the 4B model
    ((4, 4), (1, 1)),  # pocket
    ((16, 16), (16, 16)),  # nothing to pool
    ((12, 21), (3, 5)),  # pictures of 16:9: cells overlap
    ((18, 14), (4, 3)),
    ((8, 8), (3, 5)),
    ((24, 24), (6, 6)),
    ((1, 7), (1, 3)),
]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Of a cell: sums in another order, rounded once to the maps' numbers (a half of 2^-7, 2^-10 of the value)."""


def walk(num: int, channels: int, grid: tuple[int, int], dtype=torch.float32, device="cpu", seed=0) -> torch.Tensor:
    maps = torch.randn(num, channels, *grid, generator=torch.Generator().manual_seed(seed))
    return (maps.cumsum(0) * 0.3 + 0.5).to(dtype).to(device)


def in_layout(maps: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    return maps.contiguous(memory_format=layout)


@on_devices
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("whole, grid", GRIDS)
def test_cells_means_and_products(whole, grid, dtype, layout, device):
    maps = in_layout(walk(5, 70, whole, dtype, device), layout)  # 70 channels: the last block is not full
    order = [0, 4, 1, 2, 3]
    cells, means, products = pool_and_compare(maps, grid, order)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps.double(), grid)
    assert cells.shape == expected.shape and cells.dtype == dtype and cells.device == maps.device
    torch.testing.assert_close(cells.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    exact = maps.double().mean((2, 3)).cpu()
    torch.testing.assert_close(means.double(), exact, rtol=2e-6, atol=2e-6)
    assert products[0] == 0
    for before, k in pairwise(order):
        assert products[k] == pytest.approx(float(means[k].double() @ means[before].double()), rel=1e-12)


@on_devices
@pytest.mark.parametrize("whole", [None, (12, 21)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    "config",
    [
        MemoryConfig.pyramid(),
        MemoryConfig.pyramid(grids=(4, 2, 1)),
        MemoryConfig.pyramid(capacities=(2, 2, 2, 6), grids=(16, 8, 4, 2), every=(8, 4, 2, 1), cascade=True),
        MemoryConfig.pyramid(capacities=(2, 0, 3)),
        MemoryConfig.recent(4),
        MemoryConfig.single("merge", capacity=5, grid=4),
    ],
)
def test_a_fused_bank_holds_what_a_plain_one_holds(config, dtype, whole, device):
    side = config.levels[0].grid
    grids = config.grids_on(whole, 16) if whole and side == 16 else None
    plain, fused, chunked = PyramidMemoryBank(config), *(PyramidMemoryBank(config, fused=True) for _ in range(2))
    for bank in (plain, fused, chunked):
        bank.reset(grids)
    maps = in_layout(walk(42, 12, whole if grids else (side, side), dtype, device), torch.channels_last)
    maps[20:23] = maps[19]  # a still picture: ties
    events = plain.write(maps, range(42))
    found = fused.write(maps, range(42))
    assert [(e.step, e.from_level, e.position, e.frame, e.to_level) for e in found] == [
        (e.step, e.from_level, e.position, e.frame, e.to_level) for e in events
    ]
    for one, other in zip(found, events, strict=True):
        assert one.similarity == pytest.approx(other.similarity, abs=1e-5)
    for one, other in zip(fused.read(), plain.read(), strict=True):
        assert one.identity == other.identity
        torch.testing.assert_close(one.features, other.features, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for first, end in ((0, 1), (1, 2), (2, 7), (7, 30), (30, 42)):
        chunked.write(maps[first:end], range(first, end))
    for name, value in fused.state_dict().items():
        assert torch.equal(chunked.state_dict()[name], value), name


@on_devices
def test_one_wait_a_batch_and_maps_that_are_not_finite(device, monkeypatch):
    bank = PyramidMemoryBank(fused=True)
    maps = walk(9, 8, (16, 16), device=device)
    waits = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self, cpu=torch.Tensor.cpu: waits.append(self.shape) or cpu(self))
    bank.write(maps, range(9))
    assert waits[0] == (9, 8 + 2) and waits[1:] == [(9, 8)]  # the second is on the CPU already
    maps[4, 3, 2, 1] = float("inf")
    with pytest.raises(ValueError, match="features of frame 13 are not finite"):
        bank.write(maps, range(9, 18))
    assert bank.num_written == 9


@pytest.mark.skipif(not (HAS_TRITON and not INTERPRETED), reason="needs the package triton that does not interpret")
def test_maps_on_a_cpu_are_refused():
    with pytest.raises(ValueError, match="runs on a GPU"):
        PyramidMemoryBank(fused=True).write(walk(1, 4, (16, 16)), [0])


@on_devices
def test_other_numbers_are_refused(device):
    with pytest.raises(ValueError, match="float32, bfloat16 or float16 maps, got torch\\.float64"):
        PyramidMemoryBank(fused=True).write(walk(1, 4, (16, 16), torch.float64, device), [0])


@pytest.mark.skipif(HAS_TRITON, reason="triton is here")
def test_without_triton_it_says_what_to_install():
    with pytest.raises(ImportError, match="the package triton is missing: pip install triton"):
        PyramidMemoryBank(fused=True)


def test_encoded_frames_have_nothing_to_fuse():
    with pytest.raises(ValueError, match="pools nothing"):
        PyramidMemoryBank(MemoryConfig.pyramid(small_frames="encoded"), fused=True)


@pytest.mark.skipif(not (HAS_TRITON and not INTERPRETED), reason="needs the package triton that does not interpret")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("numbers", ["bf16", "fp16", "fp32"])
def test_it_compiles_for_a_gpu_that_is_not_here(numbers, channels_last):
    """The interpreter takes what the compiler refuses. No register may go to memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from videochat_online.model.fused_pooling import _kernel

    sizes = {"POSITIONS": 256, "CELLS": 16, "PADDED": 256, "BLOCK": 16}
    sizes["channel_stride" if channels_last else "position_stride"] = 1
    pointers = {
        "maps": numbers,
        "weights": "fp32",
        "order": "i32",
        "cells": numbers,
        "means": "fp32",
        "products": "fp64",
    }
    names = list(_kernel.arg_names)
    signature = {
        name: "constexpr" if name in sizes else f"*{pointers[name]}" if name in pointers else "i32" for name in names
    }
    source = ASTSource(_kernel, signature, constexprs={(names.index(name),): size for name, size in sizes.items()})
    compiled = compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".local" not in compiled.asm["ptx"] and compiled.metadata.shared <= 48 * 2**10
