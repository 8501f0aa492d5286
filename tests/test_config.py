"""The schedule of the pyramid against the recorded one, and its limits."""

from __future__ import annotations

import doctest
import json
from itertools import pairwise
from pathlib import Path

import pytest

from videochat_online import config
from videochat_online.config import MemoryConfig, is_same_shape, scheduled_grids, scheduled_level, stream_grid


def test_grids_are_the_recorded_ones(golden: Path):
    """Recorded is by how much a frame's map is reduced; a grid of 16 stands for no reduction.

    On purpose not as published: a schedule that leaves frames out (no level takes every frame) is refused.
    """
    cases = json.loads((golden / "token_levels.json").read_text("utf-8"))
    whole = [case for case in cases if 1 in case["intervals"]]
    assert sum(len(case["out"]) for case in whole) > 1000
    for case in whole:
        grids = [16 // ratio for ratio in case["downsample_ratio"]]
        want = [16 // ratio for ratio in case["out"]]
        assert scheduled_grids(case["num_frames"], case["intervals"], grids) == want


def test_the_docstrings_examples():
    assert doctest.testmod(config).failed == 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="count from 0, got -1"):
        scheduled_level(-1, (8, 4, 1))
    with pytest.raises(ValueError, match=r"no level takes frame 3: every=\(8, 4\) must end with 1"):
        scheduled_level(3, (8, 4))


SHAPES = [
    (1080, 1920),
    (1920, 1080),
    (480, 640),
    (720, 720),
    (1000, 1010),
    (1080, 2560),
    (1200, 3600),
    (9, 100),
    (4000, 3),
]


@pytest.mark.parametrize("side", [1, 2, 4, 9, 16])
@pytest.mark.parametrize("height, width", SHAPES)
def test_no_shape_costs_more_than_the_square(height, width, side):
    rows, columns = stream_grid(height, width, side)
    assert rows * columns <= side * side and min(rows, columns) >= max(1, side // 4)
    if side == 16 and max(height, width) < 3.5 * min(height, width):
        assert is_same_shape(width / height, columns / rows) and rows * columns >= 0.85 * 256
    assert stream_grid(width, height, side)[0] * stream_grid(width, height, side)[1] == rows * columns
    for every in ((8, 4, 1), (16, 8, 4, 2, 1)):
        memory = MemoryConfig.pyramid(capacities=(2,) * len(every), every=every).for_encoder(side)
        grids = memory.grids_on((rows, columns), side)
        assert grids[0] == (rows, columns)
        for (h, w), level in zip(grids, memory.levels, strict=True):
            assert 1 <= h * w <= level.num_tokens
        assert all(a[0] >= b[0] and a[1] >= b[1] for a, b in pairwise(grids))
        assert memory.grids_on((side, side), side) == tuple((grid, grid) for grid in memory.grids)


def test_no_side_is_shorter_than_a_quarter_of_the_square():
    assert stream_grid(9, 100, 16) == (4, 46) and stream_grid(1, 1000, 16) == (4, 64)
    assert stream_grid(1000, 1, 16) == (64, 4)
