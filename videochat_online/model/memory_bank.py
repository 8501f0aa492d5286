"""Pyramid memory bank: a fixed number of frames from an endless stream, the finer the fresher and the more distinct.

Owns the maps' storage (allocated once, on the features' device) and applies what model/placement.py decides. A batch of
T frames is decided first, with one transfer of its (T, C) summaries, and only the maps that survive it are pooled and
stored. T frames of a batch, C channels, (h, w) the encoder's grid, g a level's. Source: arXiv 2501.00584, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

import numpy as np
import torch
import torch.nn.functional as F

from ..config import MemoryConfig
from .placement import INCOMING, MemoryEvents, PlacedFrame, Placement, norm_and_direction

COLUMNS = {
    "numbers": "number", "timestamps": "timestamp", "norms": "norm", "directions": "direction",
    "num_merged": "num_merged",
}  # fmt: skip
"""Entries of a saved level, one row a frame in order of arrival -> the field of PlacedFrame, in order."""
ALIGNMENT = 64
"""Bytes of a cache line; torch gives memory that begins with one."""


@dataclass(frozen=True)
class MemoryFrame:
    """One frame as the memory holds it."""

    index: int
    """Number of the frame in the stream, from 0."""
    timestamp: float
    """Seconds."""
    level: int
    features: torch.Tensor
    """(C, g, g), a copy."""
    num_merged: int = 1
    """Frames averaged into this one (policy `merge` only)."""

    @property
    def num_tokens(self) -> int:
        return self.features.shape[-1] * self.features.shape[-2]

    @property
    def identity(self) -> tuple[int, int, int]:
        """Equal for equal maps of one stream: a frame is never changed but by going down or by merging."""
        return self.index, self.level, self.num_merged


class PyramidMemoryBank:
    """Holds at most `config.capacity` frames; see `MemoryConfig` for the rule.

    A frame keeps its spatial mean on its way down where the grids divide each other; where they do not, the mean of
    the map as it arrived decides all the way down. Not thread-safe: one bank belongs to one stream.
    """

    def __init__(self, config: MemoryConfig | None = None) -> None:
        self.config = config or MemoryConfig.pyramid()
        self.reset()
        self._to_coarsest = BatchPooling(self.config.levels[self._active[-1]].grid)

    def reset(self) -> None:
        """Forget everything; frame numbers start again from 0."""
        self._placement = Placement(self.config)
        self._active = self._placement.active
        self._storage: dict[int, torch.Tensor] = {}  # level -> (capacity, C, g, g)
        self._is_channels_last = False  # how stored maps lie in memory
        self.num_written = 0
        """Frames seen since the start."""
        self.last_timestamp: float | None = None
        """Seconds, of the newest frame seen."""

    def __len__(self) -> int:
        return sum(self.num_held)

    @property
    def num_held(self) -> tuple[int, ...]:
        """Frames held per level."""
        return tuple(len(level.frames) for level in self._placement.levels)

    @property
    def num_tokens(self) -> int:
        """Tokens the language model would see now."""
        return sum(n * level.num_tokens for n, level in zip(self.num_held, self.config.levels, strict=True))

    @property
    def num_bytes(self) -> int:
        """Bytes of the maps' storage: all of it is allocated at the first write and never grows."""
        return sum(store.numel() * store.element_size() for store in self._storage.values())

    @torch.no_grad()
    def write(self, features: torch.Tensor, timestamps: Sequence[float]) -> MemoryEvents:
        """Take in the next T frames: features (T, C, h, w), timestamps T seconds that never go back.

        Gives what left its level meanwhile, in order, and in `arrivals` where each frame came in. Feeding frames one by
        one, in chunks or at once leaves identical banks. Raises ValueError, and changes nothing, for wrong shapes,
        values that are not finite, or time going back.
        """
        events, times = MemoryEvents(), self._check(features, timestamps)
        if not times:
            return events
        # 1. one read of the batch: the maps at the coarsest grid, and their means for the decisions. In one of the two
        # layouts of storage: pooling sums in an order that follows it, and chunks would differ in the last bit.
        is_channels_last = features[:1].is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_channels_last else torch.contiguous_format
        features = features.contiguous(memory_format=layout)
        cells, summaries = self._summarise(features)
        self._allocate(features, channels_last=not features.is_contiguous())
        step = 1 if self.config.policy == "merge" else len(times)  # a merge needs the maps as they are now
        for first in range(0, len(times), step):
            # 2. decide, frame by frame
            for k in range(first, first + step):
                newcomer = PlacedFrame(self.num_written, times[k], *norm_and_direction(summaries[k]), slot=k)
                if pair := self._placement.admit(newcomer, events):  # policy `merge`
                    level = pair.older.stored_level
                    self._map(pair.older).lerp_(self._pooled(pair.newer, level, features, cells), pair.share)
                self.num_written += 1
            # 3. pool and store the maps that are still wanted
            self._store(features, cells)
        self.last_timestamp = times[-1]
        return events

    def read(self) -> list[MemoryFrame]:
        """The frames held, oldest first."""
        held = []
        for k, level in enumerate(self._placement.levels):
            for frame in level.frames:
                features = self._map(frame).clone(memory_format=torch.preserve_format)
                held.append(MemoryFrame(frame.number, frame.timestamp, k, features, frame.num_merged))
        return sorted(held, key=attrgetter("index"))

    def _summarise(self, features: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """One read of the batch: its maps at the coarsest grid (T, C, g, g) and their means, float64 (T, C)."""
        cells = self._to_coarsest(features)
        exact = features.dtype == torch.float32 and _pools_exactly(features, self._to_coarsest.grid)
        means = cells.mean((2, 3)) if exact else features.mean((2, 3), dtype=torch.float32)
        summaries = means.cpu().numpy().astype(np.float64)
        for k, summary in enumerate(summaries):
            if not math.isfinite(summary @ summary):
                raise ValueError(f"features of frame {self.num_written + k} are not finite (NaN or infinity)")
        return cells, summaries

    def _store(self, features: torch.Tensor, cells: torch.Tensor) -> None:
        """Bring every surviving map to the level its frame now belongs to.

        Coarsest level first: maps come from finer levels, so each is read before its old place is written.
        """
        for level in reversed(self._active):
            frames = self._placement.levels[level].frames
            taken = {frame.slot for frame in frames if frame.stored_level == level}
            free = (slot for slot in range(self.config.levels[level].capacity) if slot not in taken)
            for frame in frames:
                if frame.stored_level != level:
                    values = self._pooled(frame, level, features, cells)
                    frame.stored_level, frame.slot = level, next(free)
                    self._map(frame).copy_(values)

    def _pooled(self, frame: PlacedFrame, level: int, features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """The frame's map at `level`, pooled through every level it passed, so that chunks do not change a bit."""
        if frame.stored_level != INCOMING:
            entered, values = frame.stored_level + 1, self._map(frame)
        else:
            entered, values = self._placement.entry_level(frame.number), features[frame.slot]
            if entered == self._active[-1]:
                return cells[frame.slot]
        for passed in self._active:
            if entered <= passed <= level:
                values = average_pool(values, self.config.levels[passed].grid)
        return values

    def _map(self, frame: PlacedFrame) -> torch.Tensor:
        """The stored map as a (C, g, g) view."""
        return self._storage[frame.stored_level][frame.slot]

    def _allocate(self, features: torch.Tensor, *, channels_last: bool) -> None:
        """Storage for all levels at the first write, in the memory layout the maps come in."""
        if self._storage:
            return
        self._is_channels_last = channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        for k in self._active:
            level = self.config.levels[k]
            shape = (level.capacity, features.shape[1], level.grid, level.grid)
            self._storage[k] = torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout)

    def _check(self, features: torch.Tensor, timestamps: Sequence[float]) -> list[float]:
        if features.ndim != 4:
            raise ValueError(f"features must be (T, C, h, w), got shape {tuple(features.shape)}")
        if not features.is_floating_point():
            raise ValueError(f"features must be floating-point numbers, got {features.dtype}")
        times = list(map(float, timestamps))
        if len(times) != len(features):
            raise ValueError(f"{len(features)} frames came with {len(times)} timestamps")
        before = -math.inf if self.last_timestamp is None else self.last_timestamp
        for k, now in enumerate(times):
            if not math.isfinite(now):
                raise ValueError(f"timestamps must be finite seconds, got {now}")
            if now < before:
                raise ValueError(f"time went back: frame {self.num_written + k} at {now} s comes after {before} s")
            before = now
        finest = self.config.levels[self._active[0]].grid
        if min(features.shape[-2:]) < finest:
            raise ValueError(
                f"the memory's finest level wants {finest}x{finest} maps, the encoder gives "
                f"{features.shape[-2]}x{features.shape[-1]}: choose grids it can be pooled to"
            )
        store = self._storage.get(self._active[0])
        held = None if store is None else (store.shape[1], store.dtype, store.device)
        given = (features.shape[1], features.dtype, features.device)
        if held not in (None, given):
            raise ValueError(f"the bank holds (channels, dtype, device) {held}, got {given}")
        return times

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything the bank knows, as plain tensors (safetensors can hold it)."""
        newest = -math.inf if self.last_timestamp is None else self.last_timestamp
        state = {
            "num_written": torch.tensor(self.num_written),
            "last_timestamp": torch.tensor(newest, dtype=torch.float64),
            "channels_last": torch.tensor(self._is_channels_last),
        }
        for k, level in enumerate(self._placement.levels):
            if level.frames:
                for name, field in COLUMNS.items():
                    rows = np.array([getattr(frame, field) for frame in level.frames])
                    state[f"level{k}.{name}"] = torch.from_numpy(rows)
                state[f"level{k}.features"] = torch.stack([self._map(frame) for frame in level.frames])
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over a `state_dict()`; maps stay on the device they come on.

        Raises ValueError, and changes nothing, where it does not fit.
        """
        self._check_state(state)
        self.reset()
        self._is_channels_last = bool(state["channels_last"])
        for k in self._active:
            maps = state.get(f"level{k}.features")
            if maps is not None:
                self._allocate(maps, channels_last=self._is_channels_last)
                self._storage[k][: len(maps)] = maps
                rows = zip(*(state[f"level{k}.{name}"].tolist() for name in COLUMNS), strict=True)
                for slot, row in enumerate(rows):
                    frame = PlacedFrame(*row)
                    frame.direction, frame.stored_level, frame.slot = np.array(frame.direction), k, slot
                    self._placement.levels[k].append(frame)
        self.num_written = int(state["num_written"])
        self.last_timestamp = float(state["last_timestamp"]) if self.num_written else None

    def _check_state(self, state: dict[str, torch.Tensor]) -> None:
        """Raise ValueError unless a bank of this config could have given `state`: names and shapes are compared."""
        maps = {k: state[name] for k in self._active if (name := f"level{k}.features") in state}
        channels = next((features.shape[1] for features in maps.values() if features.ndim == 4), 0)
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("num_written", "last_timestamp", "channels_last"), ())
        for k, features in maps.items():
            level, num_frames = self.config.levels[k], min(len(features), self.config.levels[k].capacity)
            rows = {"directions": (channels,), "features": (channels, level.grid, level.grid)}
            expected |= {f"level{k}.{name}": (num_frames, *rows.get(name, ())) for name in (*COLUMNS, "features")}
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if wrong := [
            f"{name} has shape {shapes.get(name, 'none')}, expected {expected.get(name, 'none')}"
            for name in sorted(expected.keys() | shapes.keys())
            if shapes.get(name) != expected.get(name)
        ]:
            raise ValueError(f"not the state of this bank: {'; '.join(wrong)}")


# ---- pooling --------------------------------------------------------------------------------------------------------
# A row of cells is one matrix product of weights and the positions it covers: such a product reads the map once,
# straight from memory, and takes as long as the map's mean alone. torch's own kernels are 2 to 20 times slower.


def _pools_exactly(features: torch.Tensor, grid: int) -> bool:
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
    return features.dtype == torch.float32 and features.device.type == "cpu" and _pools_exactly(features, grid)


@lru_cache
def _cell_weights(height: int, width: int, grid: int) -> torch.Tensor:
    """(g, g, h / g * w): for each row of cells the same matrix, from the positions it covers to its cells."""
    rows, columns = height // grid, width // grid
    with torch.inference_mode(False):  # kept for any caller, one that wants gradients included
        of_row = torch.eye(grid).repeat_interleave(columns, dim=1).repeat(1, rows) / (rows * columns)
        return of_row.expand(grid, -1, -1).contiguous()
