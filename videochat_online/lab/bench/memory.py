"""`bench memory`: the memory bank against a straightforward one, and against one read of the incoming map.

The floor is the map's spatial mean alone: no bank that compares frames can do with less. Maps lie in memory as the
encoder gives them (channels last); the same with channels first is reported beside it.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F

from ...config import MemoryConfig, scheduled_level
from ...model.memory_bank import PyramidMemoryBank
from .measure import Tables, alternate

CAPACITIES = ((2, 2, 12), (24, 24, 144))


class StraightforwardBank:
    """The rule said plainly: every summary and cosine of a level again at each insert. For comparison only."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.levels: list[list[tuple[int, torch.Tensor]]] = [[] for _ in config.levels]
        self.num_written = 0

    def write(self, features: torch.Tensor) -> None:
        for frame in features:
            level = scheduled_level(self.num_written, self.config.every)
            pooled = F.adaptive_avg_pool2d(frame, self.config.levels[level].grid)
            self._insert(level, (self.num_written, pooled), demoted=False)
            self.num_written += 1

    def _insert(self, level: int, frame: tuple[int, torch.Tensor], *, demoted: bool) -> None:
        group = self.levels[level]
        if len(group) == self.config.levels[level].capacity:
            means = torch.stack([features.mean((1, 2)) for _, features in group])
            number, features = group.pop(int(F.cosine_similarity(means[:-1], means[1:]).argmax()))
            if level + 1 < len(self.levels) and not demoted:
                grid = self.config.levels[level + 1].grid
                self._insert(level + 1, (number, F.adaptive_avg_pool2d(features, grid)), demoted=True)
        group.append(frame)

    @property
    def indices(self) -> list[int]:
        return sorted(number for group in self.levels for number, _ in group)


def measure(options: argparse.Namespace) -> Tables:
    return {
        "milliseconds a frame": bench_memory(channels=options.channels, batch=options.batch, repeats=options.repeats)
    }


def bench_memory(*, channels: int = 4096, batch: int = 32, repeats: int = 7) -> list[dict[str, Any]]:
    """Milliseconds a frame of a full bank and their ratios, for both published capacities and both layouts."""
    return [
        _measure(capacities, layout, channels=channels, batch=batch, repeats=repeats)
        for capacities in CAPACITIES
        for layout in ("channels_last", "channels_first")
    ]


def _measure(capacities: tuple[int, ...], layout: str, *, channels: int, batch: int, repeats: int) -> dict[str, Any]:
    config = MemoryConfig.pyramid(capacities=capacities)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    maps = torch.randn(batch, channels, 16, 16).to(memory_format=memory_format)
    bank, plain = PyramidMemoryBank(config), StraightforwardBank(config)
    times = [0.0] * batch
    while len(bank) < config.capacity:  # full before anything is timed
        bank.write(maps, times)
        plain.write(maps)
    if bank.num_written != plain.num_written or [f.index for f in bank.read()] != plain.indices:
        raise AssertionError("the two banks hold different frames: the comparison would mean nothing")

    def one_by_one() -> None:
        for k in range(batch):
            bank.write(maps[k : k + 1], times[:1])

    def floor() -> None:
        for k in range(batch):
            maps[k].mean((1, 2))

    seconds = alternate(
        {
            "floor": floor,
            "batch": lambda: bank.write(maps, times),
            "one": one_by_one,
            "plain": lambda: plain.write(maps),
        },
        repeats=repeats,
    )
    per_frame = {name: value / batch * 1e3 for name, value in seconds.items()}
    return {
        "bank": "/".join(map(str, capacities)),
        "maps": layout,
        "floor ms": per_frame["floor"],
        "batch ms": per_frame["batch"],
        "one by one ms": per_frame["one"],
        "plain ms": per_frame["plain"],
        "batch/floor": seconds["batch"] / seconds["floor"],
        "one/floor": seconds["one"] / seconds["floor"],
        "plain/batch": seconds["plain"] / seconds["batch"],
        "plain/one": seconds["plain"] / seconds["one"],
    }
