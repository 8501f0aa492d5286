"""What a memory bank refuses: it says so, and loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videochat_online.config import MemoryConfig, MemoryLevel
from videochat_online.model.memory_bank import PyramidMemoryBank

from .test_memory_bank import random_maps, same_bank


def test_maps_that_an_encoded_memory_did_not_want_change_nothing():
    bank = PyramidMemoryBank(MemoryConfig.pyramid(small_frames="encoded"))
    good = {0: torch.ones(1, 6, 16, 16), 1: torch.ones(1, 6, 8, 8), 2: torch.ones(1, 6, 4, 4)}
    nan = {**good, 1: torch.full((1, 6, 8, 8), torch.nan)}
    for maps, message in (
        (torch.ones(1, 6, 16, 16), "takes one map a level, got maps"),
        ({0: good[0]}, r"one map a level, got levels \[0\]"),
        ({**good, 1: good[0]}, r"level 1 needs maps \(1, 6, 8, 8\), got \(1, 6, 16, 16\)"),
        ({**good, 0: torch.ones(2, 6, 16, 16)}, "level 0 needs maps"),
        (nan, "frame 0 are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            bank.write(maps, [0.0])
    assert bank.num_written == 0
    bank.write(good, [0.0])
    with pytest.raises(ValueError, match="maps that it pools itself"):
        PyramidMemoryBank().write(good, [0.0])
    with pytest.raises(ValueError, match=r"not the state of this bank: level0\.features1"):
        PyramidMemoryBank().load_state_dict(bank.state_dict())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("level0.norms"), r"level0.norms has shape none, expected \(2,\)"),
        (lambda s: s.pop("num_written"), "num_written has shape none"),
        (lambda s: s.update({"level7.features": torch.zeros(1)}), r"level7\.features has shape \(1,\), expected none"),
        (lambda s: s.update({"level1.features": s["level1.features"][:1]}), r"level1.norms has .*\(2,\), expected"),
        (lambda s: s.update({"level1.features": s["level1.features"][0]}), r"level1.features .* \(2, 6, 8, 8\)"),
        (lambda s: s.update({"level0.features": torch.zeros(1)}), r"level0.features has shape \(1,\), expected \(1"),
        (lambda s: s.update({"level1.features": s["level1.features"][:, :1]}), r"shape \(2, 1, 8, 8\), expected"),
        (lambda s: s.update({"level2.directions": s["level2.directions"][:, :3]}), r"directions has shape \(12, 3\)"),
        (lambda s: s.update(num_written=torch.tensor([1, 2])), r"num_written has shape \(2,\), expected \(\)"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage, message):
    bank, untouched = PyramidMemoryBank(), PyramidMemoryBank()
    for each in (bank, untouched):
        each.write(random_maps(30), range(30))
    state = bank.state_dict()
    damage(state)
    with pytest.raises(ValueError, match=message):
        bank.load_state_dict(state)
    same_bank(bank, untouched)


@pytest.mark.parametrize(
    ("features", "times", "message"),
    [
        (torch.zeros(4, 16, 16), [0.0], r"must be \(T, C, h, w\), got shape \(4, 16, 16\)"),
        (torch.zeros(1, 4, 16, 16, dtype=torch.uint8), [1.0], "must be floating-point numbers, got torch.uint8"),
        (torch.zeros(2, 4, 16, 16), [1.0], "2 frames came with 1 timestamps"),
        (torch.zeros(1, 4, 8, 8), [1.0], "finest level wants 16x16 maps, the encoder gives 8x8"),
        (torch.zeros(2, 4, 16, 16), [1.0, 0.5], r"time went back: frame 11 at 0.5 s comes after 1.0 s"),
        (torch.zeros(1, 4, 16, 16), [-1.0], r"time went back: frame 10 at -1.0 s comes after 0.9 s"),
        (torch.zeros(1, 4, 16, 16), [float("nan")], "timestamps must be finite seconds, got nan"),
        (torch.full((2, 4, 16, 16), float("nan")), [1.0, 2.0], r"frame 10 are not finite"),
        (torch.zeros(1, 3, 16, 16), [1.0], r"the bank holds \(channels, dtype, device\)"),
        (torch.zeros(1, 4, 16, 16, dtype=torch.float64), [1.0], r"the bank holds \(channels, dtype, device\)"),
    ],
)
def test_bad_input_says_so_and_loses_nothing(features, times, message):
    bank = PyramidMemoryBank()
    bank.write(random_maps(10, channels=4), np.arange(10) / 10)
    untouched = PyramidMemoryBank()
    untouched.load_state_dict(bank.state_dict())
    with pytest.raises(ValueError, match=message):
        bank.write(features, times)
    same_bank(bank, untouched)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryLevel(4, 1, -1), "capacity must be an integer >= 0, got -1"),
        (lambda: MemoryLevel(0, 1, 1), "grid must be an integer >= 1, got 0"),
        (lambda: MemoryLevel(4, 1.5, 1), "every must be an integer >= 1, got 1.5"),
        (lambda: MemoryConfig.pyramid(capacities=(-1, 2, 3)), "capacity must be an integer >= 0, got -1"),
        (lambda: MemoryConfig.pyramid(policy="newest"), "unknown memory policy 'newest', expected one of pyramid"),
        (lambda: MemoryConfig.pyramid(capacities=(2, 2)), "need one number a level"),
        (lambda: MemoryConfig.pyramid(capacities=(0, 0, 0)), "hold nothing"),
        (lambda: MemoryConfig.pyramid(grids=(4, 8, 16)), "grids must not grow"),
        (lambda: MemoryConfig.pyramid(every=(8, 4, 2)), "last level must take every frame"),
        (lambda: MemoryConfig(()), "at least one level"),
        (lambda: MemoryConfig.from_dict({"policy": "fifo"}), r"not a memory's settings \('levels'\)"),
        (lambda: MemoryConfig.from_dict({"levels": [{"grid": 4, "evry": 1}]}), "not a memory's settings .*'evry'"),
    ],
)
def test_bad_configuration(make, message):
    with pytest.raises(ValueError, match=message):
        make()
