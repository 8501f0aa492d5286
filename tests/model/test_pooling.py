"""Pooling: torch's own numbers, and the same bits however many maps come at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from videochat_online.model.memory_bank import BatchPooling, average_pool


@pytest.mark.parametrize("size", [(16, 16), (12, 12), (18, 6), (8, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_equals_torch(size, layout):
    features = torch.randn(1, 5, *size).to(memory_format=layout)
    for grid in (6, 4, 3, 2, 1):
        expected = F.adaptive_avg_pool2d(features, grid)[0]
        torch.testing.assert_close(average_pool(features[0], grid), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 100, 512])
@pytest.mark.parametrize(("side", "grid"), [(16, 4), (16, 2), (16, 1), (12, 4), (4, 2), (4, 1)])
def test_a_map_pools_to_the_same_bits_alone_and_in_a_batch(side, grid, channels):
    features = torch.randn(9, channels, side, side).to(memory_format=torch.channels_last)
    together = BatchPooling(grid)(features).clone()
    alone = BatchPooling(grid)
    for k in range(len(features)):
        assert torch.equal(alone(features[k : k + 1])[0], together[k])
        assert torch.equal(average_pool(features[k], grid), together[k])


@pytest.mark.parametrize("channels", [16, 512])
@pytest.mark.parametrize("grid", [(6, 7), (3, 7), (6, 10), (3, 5), (1, 3), (12, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_oblong_grids_pool_as_torch_does_alone_and_in_a_batch(grid, channels, layout):
    features = torch.randn(9, channels, 12, 21).to(memory_format=layout)
    together = BatchPooling(grid)(features).clone()
    expected = F.adaptive_avg_pool2d(features, grid)
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=1e-5)
    for k in range(len(features)):
        assert torch.equal(average_pool(features[k], grid), together[k])
    with pytest.raises(ValueError, match="12x21 map cannot be pooled to a finer 13x5 grid"):
        average_pool(features[0], (13, 5))


@pytest.mark.parametrize(("side", "grid"), [(9, 1), (9, 3), (16, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_has_the_same_bits_wherever_it_lies_in_memory(side, grid, channels_last):
    shape = (side, side, 6) if channels_last else (6, side, side)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    pooled = []
    for offset in range(17):
        place = torch.empty(values.numel() + 17)[offset : offset + values.numel()].view(shape).copy_(values)
        pooled.append(average_pool(place.permute(2, 0, 1) if channels_last else place, grid))
    assert all(torch.equal(each, pooled[0]) for each in pooled)
