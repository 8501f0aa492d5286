"""The schedule of the pyramid against the recorded one, and its limits."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from videochat_online import config
from videochat_online.config import scheduled_grids, scheduled_level


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
