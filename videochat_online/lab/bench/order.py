"""`bench order`: how much of a prompt must be computed again after each new frame, by the order of what stands in it.

Counted, not timed: prompts are compared position by position as the cache compares them. The trained format shows the
frames in the order of time and the question last; the other orders say what that costs or saves. The frames' maps are
a random walk, so that neighbours resemble each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from ...config import MemoryConfig
from ...model.memory_bank import MemoryFrame, PyramidMemoryBank
from ...streaming.cache import num_common

LINE_TOKENS = 14
"""Words and marks around one frame."""
QUESTION_TOKENS = 30
CAPACITIES = ((2, 2, 12), (24, 24, 144))
Order = Callable[[Sequence[MemoryFrame]], list[MemoryFrame]]


def by_time(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: frame.index)


def finest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: (frame.level, frame.index))


def coarsest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: (-frame.level, frame.index))


def newest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: -frame.index)


ORDERS: dict[str, tuple[Order, bool]] = {
    "by time, question last (trained)": (by_time, True),
    "by time, question first": (by_time, False),
    "newest frame first": (newest_first, True),
    "finest level first": (finest_first, True),
    "coarsest level first": (coarsest_first, True),
}
"""Name -> order of the frames, and whether the question stands behind them."""


def bench_order(*, num_frames: int = 2000, channels: int = 16) -> list[dict[str, Any]]:
    """Share of the prompt to compute at a question after each new frame (mean), per order and published bank."""
    return [row for capacities in CAPACITIES for row in _of_bank(capacities, num_frames, channels)]


def _of_bank(capacities: tuple[int, ...], num_frames: int, channels: int) -> list[dict[str, Any]]:
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=capacities))
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(channels, 16, 16, generator=generator)
    before: dict[str, list[Hashable]] = {name: [] for name in ORDERS}
    computed: dict[str, list[float]] = {name: [] for name in ORDERS}
    for number in range(num_frames):
        scene = 0.95 * scene + 0.3 * torch.randn(scene.shape, generator=generator)
        bank.write(scene[None], [float(number)])
        frames = bank.read()
        for name, (order, question_last) in ORDERS.items():
            prompt = _prompt(order(frames), f"question {number}", question_last=question_last)
            if len(frames) == bank.config.capacity:
                computed[name].append(1 - num_common(before[name], prompt) / len(prompt))
            before[name] = prompt
    rows = [
        {
            "bank": "/".join(map(str, capacities)),
            "order": name,
            "mean share computed": sum(shares) / len(shares),
            "share of questions that cost under a tenth": sum(share < 0.1 for share in shares) / len(shares),
        }
        for name, shares in computed.items()
    ]
    return [{**row, "ratio to a cold prompt": 1 / float(row["mean share computed"])} for row in rows]  # type: ignore[arg-type]


def _prompt(frames: Sequence[MemoryFrame], question: str, *, question_last: bool) -> list[Hashable]:
    """One key a position, as `position_keys` gives them."""
    shown: list[Hashable] = []
    for frame in frames:
        shown += [("line", frame.index)] * LINE_TOKENS + [frame.identity] * frame.num_tokens
    asked: list[Hashable] = [question] * QUESTION_TOKENS
    return shown + asked if question_last else asked + shown
