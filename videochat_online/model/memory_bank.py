"""Pyramid memory bank: a fixed number of frames from an endless stream, the finer the fresher and the more distinct.

Owns the maps' storage (allocated once, on the features' device) and applies what model/placement.py decides. A batch of
T frames is decided first, with one transfer of its (T, C) summaries, and only the maps that survive it are pooled and
stored. T frames of a batch, C channels, (h, w) the encoder's grid, (g, g') a level's: a square, or oblong where frames
are. Encoded frames come with a map for each level instead, and keep those that they may go down to. Source: arXiv
2501.00584, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..config import Grid, MemoryConfig
from ..extras import require
from .placement import INCOMING, MemoryEvents, Neighbour, PlacedFrame, Placement, norm_and_direction

COLUMNS = {
    "numbers": "number", "timestamps": "timestamp", "norms": "norm", "directions": "direction",
    "num_merged": "num_merged",
}  # fmt: skip
"""Entries of a saved level, one row a frame in order of arrival -> the field of PlacedFrame, in order."""
Batch = Mapping[int, Any]
"""Level -> place in the batch being written -> map (C, g, g'); under INCOMING the maps that are still to be pooled."""
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
    """(C, g, g'), a copy."""
    num_merged: int = 1
    """Frames averaged into this one (policy `merge` only)."""

    @property
    def num_tokens(self) -> int:
        return self.features.shape[-1] * self.features.shape[-2]

    @property
    def identity(self) -> tuple[int, ...]:
        """Equal for equal maps of one stream: a frame is never changed but by going down, by merging or by pooling."""
        return self.index, self.level, self.num_merged, *self.features.shape[-2:]


class PyramidMemoryBank:
    """Holds at most `config.capacity` frames; see `MemoryConfig` for the rule.

    A frame keeps its spatial mean on its way down where the grids divide each other; where they do not, the mean of
    the map as it arrived decides all the way down. Not thread-safe: one bank belongs to one stream.
    """

    def __init__(self, config: MemoryConfig | None = None, *, fused: bool = False) -> None:
        """`fused`: pool and compare by a Triton kernel (docs/benchmarks/gpu.md says what it could be worth)."""
        self.config = config or MemoryConfig.pyramid()
        self.is_encoded = self.config.small_frames == "encoded"
        """Whether each level's maps come from the encoder, or are pooled here."""
        if fused and self.is_encoded:
            raise ValueError("a memory of encoded frames pools nothing: the fused kernel has nothing to do")
        if fused:
            require("triton")
        self.fused = fused
        self.reset()

    def reset(self, grids: Sequence[Grid] | None = None) -> None:
        """Forget everything; frame numbers start again from 0. `grids`: of the levels; None: the config's squares."""
        self.grids: tuple[Grid, ...] = tuple(grids or ((grid, grid) for grid in self.config.grids))
        self._placement = Placement(self.config)
        self._active = self._placement.active
        self._to_coarsest = BatchPooling(self.grids[self._active[-1]])
        # (level that holds a frame, level of the map) -> (capacity, C, g, g'); pooled frames have the map of one level
        self._storage: dict[tuple[int, int], torch.Tensor] = {}
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
        return sum(n * rows * columns for n, (rows, columns) in zip(self.num_held, self.grids, strict=True))

    @property
    def num_bytes(self) -> int:
        """Bytes of the maps' storage: all of it is allocated at the first write and never grows."""
        return sum(store.numel() * store.element_size() for store in self._storage.values())

    def wanted(self, num: int) -> dict[int, list[int]]:
        """Of the next `num` frames, which each level needs a map of: those that come in there, or may go down to it."""
        entered = [self._placement.entry_level(self.num_written + k) for k in range(num)]
        coarsest = self._active[-1]  # decides for all, also for what no level takes
        return {
            level: [k for k, entry in enumerate(entered) if level == coarsest or 0 <= entry <= level]
            for level in self._active
        }

    @torch.no_grad()
    def write(self, features: torch.Tensor | Mapping[int, torch.Tensor], timestamps: Sequence[float]) -> MemoryEvents:
        """Take in the next T frames: features (T, C, h, w), timestamps T seconds that never go back.

        Where frames are encoded for each level, `features` has by level the maps (n, C, g, g') of what is `wanted`.

        Gives what left its level meanwhile, in order, and in `arrivals` where each frame came in. Feeding frames one by
        one, in chunks or at once leaves identical banks. Raises ValueError, and changes nothing, for wrong shapes,
        values that are not finite, or time going back.
        """
        maps = {INCOMING: features} if isinstance(features, torch.Tensor) else dict(features)
        events, times = MemoryEvents(), self._check(maps, timestamps)
        if not times:
            return events
        # 1. one read of the batch: the maps at the coarsest grid, and their means for the decisions. In one of the two
        # layouts of storage: pooling sums in an order that follows it, and chunks would differ in the last bit.
        one = maps[INCOMING if INCOMING in maps else self._active[-1]][:1]
        layout = (
            torch.channels_last if one.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        )
        maps = {level: each.contiguous(memory_format=layout) for level, each in maps.items()}
        neighbours: Sequence[Neighbour | None] = [None] * len(times)
        if self.fused:
            batch, summaries, neighbours = self._fuse(maps[INCOMING])
        else:
            batch, summaries = self._encoded(maps, len(times)) if self.is_encoded else self._summarise(maps[INCOMING])
        self._allocate(one, channels_last=not one.contiguous(memory_format=layout).is_contiguous())
        step = 1 if self.config.policy == "merge" else len(times)  # a merge needs the maps as they are now
        for first in range(0, len(times), step):
            # 2. decide, frame by frame
            for k in range(first, first + step):
                summary = norm_and_direction(summaries[k])
                newcomer = PlacedFrame(self.num_written, times[k], *summary, slot=k, neighbour=neighbours[k])
                if pair := self._placement.admit(newcomer, events):  # policy `merge`
                    for level in self._levels_kept(pair.older.stored_level):
                        self._map(pair.older, level).lerp_(self._at(pair.newer, level, batch), pair.share)
                self.num_written += 1
            # 3. pool and store the maps that are still wanted
            self._store(batch)
        self.last_timestamp = times[-1]
        return events

    @property
    def coarsest_grid(self) -> Grid:
        """Of the last level that holds any frames."""
        return self.grids[self._active[-1]]

    @property
    def times(self) -> dict[int, float]:
        """Seconds of the frames held, by their number in the stream, oldest first."""
        return dict(
            sorted((frame.number, frame.timestamp) for level in self._placement.levels for frame in level.frames)
        )

    def read(self, only: Container[int] | None = None, *, coarsest: bool = False) -> list[MemoryFrame]:
        """The frames held, oldest first. `only`: those of these numbers; `coarsest`: as the coarsest level has them."""
        held = []
        for k, level in enumerate(self._placement.levels):
            for frame in (each for each in level.frames if only is None or each.number in only):
                features = self._at(frame, self._active[-1], {}) if coarsest else self._map(frame)
                features = features.clone(memory_format=torch.preserve_format)
                held.append(MemoryFrame(frame.number, frame.timestamp, k, features, frame.num_merged))
        return sorted(held, key=attrgetter("index"))

    def _summarise(self, features: torch.Tensor) -> tuple[Batch, np.ndarray]:
        """One read of the batch: its maps as they came and at the coarsest grid, and their means, float64 (T, C)."""
        cells = self._to_coarsest(features)
        exact = features.dtype == torch.float32 and _pools_exactly(features, self._to_coarsest.grid)
        means = cells.mean((2, 3)) if exact else features.mean((2, 3), dtype=torch.float32)
        return {INCOMING: features, self._active[-1]: cells}, self._finite(means, range(len(features)))

    def _fuse(self, features: torch.Tensor) -> tuple[Batch, np.ndarray, list[Neighbour | None]]:
        """The same by the kernel, and of each frame its product with the one that came into its level before it."""
        from .fused_pooling import pool_and_compare

        numbers = range(len(features))
        entered = [self._placement.entry_level(self.num_written + k) for k in numbers]
        order = sorted(numbers, key=entered.__getitem__)
        cells, means, products = pool_and_compare(features, self.grids[self._active[-1]], order)
        neighbours: list[Neighbour | None] = [None] * len(features)
        for before, k in pairwise(order):
            if entered[before] == entered[k]:
                neighbours[k] = Neighbour(self.num_written + before, products[k])
        return {INCOMING: features, self._active[-1]: cells}, self._finite(means, numbers), neighbours

    def _encoded(self, maps: Mapping[int, torch.Tensor], num: int) -> tuple[Batch, np.ndarray]:
        """The same of `num` frames that came encoded for each level: the coarsest maps decide, which all have."""
        wanted = self.wanted(num)
        means = [self._finite(maps[k].mean((2, 3), dtype=torch.float32), wanted[k]) for k in self._active]
        return {k: dict(zip(wanted[k], maps[k], strict=True)) for k in self._active}, means[-1]

    def _finite(self, means: torch.Tensor, numbers: Sequence[int]) -> np.ndarray:
        """(n, C) of the frames with these numbers in the batch, as float64; ValueError for NaN and infinity."""
        summaries = means.cpu().numpy().astype(np.float64)
        for k, summary in zip(numbers, summaries, strict=True):
            if not math.isfinite(summary @ summary):
                raise ValueError(f"features of frame {self.num_written + k} are not finite (NaN or infinity)")
        return summaries

    def _levels_kept(self, level: int) -> list[int]:
        """Of a frame held at `level`, the levels whose maps are stored: encoded ones down to the coarsest."""
        return [k for k in self._active if k >= level] if self.is_encoded else [level]

    def _store(self, batch: Batch) -> None:
        """Bring every surviving map to the level its frame now belongs to.

        Coarsest level first: maps come from finer levels, so each is read before its old place is written.
        """
        for level in reversed(self._active):
            frames = self._placement.levels[level].frames
            taken = {frame.slot for frame in frames if frame.stored_level == level}
            free = (slot for slot in range(self.config.levels[level].capacity) if slot not in taken)
            for frame in frames:
                if frame.stored_level != level:
                    values = {kept: self._at(frame, kept, batch) for kept in self._levels_kept(level)}
                    frame.stored_level, frame.slot = level, next(free)
                    for kept, of_level in values.items():
                        self._map(frame, kept).copy_(of_level)

    def _at(self, frame: PlacedFrame, level: int, batch: Batch) -> torch.Tensor:
        """The frame's map at `level`: as it was encoded, or pooled through every level it passed, so that chunks do
        not change a bit."""
        if self.is_encoded:
            return batch[level][frame.slot] if frame.stored_level == INCOMING else self._map(frame, level)
        if frame.stored_level != INCOMING:
            entered, values = frame.stored_level + 1, self._map(frame)
        else:
            entered, values = self._placement.entry_level(frame.number), batch[INCOMING][frame.slot]
            if entered == self._active[-1]:
                return batch[entered][frame.slot]
        for passed in self._active:
            if entered <= passed <= level:
                values = average_pool(values, self.grids[passed])
        return values

    def _map(self, frame: PlacedFrame, level: int | None = None) -> torch.Tensor:
        """The stored map as a (C, g, g') view: of the level that holds the frame, or of one that it may go down to."""
        return self._storage[frame.stored_level, frame.stored_level if level is None else level][frame.slot]

    def _allocate(self, features: torch.Tensor, *, channels_last: bool) -> None:
        """Storage for all levels at the first write, for maps like these (T, C, ., .) in this memory layout."""
        if self._storage:
            return
        self._is_channels_last = channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        for k in self._active:
            for kept in self._levels_kept(k):
                shape = (self.config.levels[k].capacity, features.shape[1], *self.grids[kept])
                try:
                    empty = torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout)
                except (RuntimeError, TypeError) as error:  # no room; or no 64 bits hold the number
                    self._storage.clear()
                    asked = f"memory.levels[{k}].capacity is {shape[0]}"
                    maps = f"maps {shape[1:]} of {features.dtype}"
                    raise ValueError(f"{asked}: there is no room for so many {maps}") from error
                self._storage[k, kept] = empty

    def _check(self, maps: Mapping[int, torch.Tensor], timestamps: Sequence[float]) -> list[float]:
        if sorted(maps) != (self._active if self.is_encoded else [INCOMING]):
            kind = "one map a level" if self.is_encoded else "maps that it pools itself"
            raise ValueError(
                f"this memory takes {kind}, got {'maps' if INCOMING in maps else f'levels {sorted(maps)}'}"
            )
        features = maps[max(maps)]  # the coarsest, which all frames have
        for each in maps.values():
            if each.ndim != 4:
                raise ValueError(f"features must be (T, C, h, w), got shape {tuple(each.shape)}")
            if not each.is_floating_point():
                raise ValueError(f"features must be floating-point numbers, got {each.dtype}")
        times = list(map(float, timestamps))
        if len(times) != len(features):
            raise ValueError(f"{len(features)} frames came with {len(times)} timestamps")
        self._check_fit(maps, len(times))
        before = -math.inf if self.last_timestamp is None else self.last_timestamp
        for k, now in enumerate(times):
            if not math.isfinite(now):
                raise ValueError(f"timestamps must be finite seconds, got {now}")
            if now < before:
                raise ValueError(f"time went back: frame {self.num_written + k} at {now} s comes after {before} s")
            before = now
        return times

    def _check_fit(self, maps: Mapping[int, torch.Tensor], num: int) -> None:
        """Raise ValueError unless maps of `num` frames have the bank's grids, channels, dtype and device."""
        features = maps[max(maps)]
        if self.is_encoded:
            channels = features.shape[1]
            for level, frames in self.wanted(num).items():
                expected = (len(frames), channels, *self.grids[level])
                if maps[level].shape != expected:
                    raise ValueError(f"level {level} needs maps {expected}, got {tuple(maps[level].shape)}")
        else:
            (height, width), (rows, columns) = features.shape[-2:], self.grids[self._active[0]]
            if height < rows or width < columns:
                raise ValueError(
                    f"the memory's finest level wants {rows}x{columns} maps, the encoder gives "
                    f"{height}x{width}: choose grids it can be pooled to"
                )
        store = next(iter(self._storage.values()), None)
        held = None if store is None else (store.shape[1], store.dtype, store.device)
        given = (features.shape[1], features.dtype, features.device)
        if held not in (None, given):
            raise ValueError(f"the bank holds (channels, dtype, device) {held}, got {given}")

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
                for kept in self._levels_kept(k):
                    state[_name(k, kept)] = torch.stack([self._map(frame, kept) for frame in level.frames])
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over a `state_dict()`; maps stay on the device they come on.

        Raises ValueError, and changes nothing, where it does not fit.
        """
        self._check_state(state)
        self.reset(self.grids)
        self._is_channels_last = bool(state["channels_last"])
        for k in self._active:
            if _name(k, k) in state:
                self._allocate(state[_name(k, k)], channels_last=self._is_channels_last)
                for kept in self._levels_kept(k):
                    maps = state[_name(k, kept)]
                    self._storage[k, kept][: len(maps)] = maps
                rows = zip(*(state[f"level{k}.{name}"].tolist() for name in COLUMNS), strict=True)
                for slot, row in enumerate(rows):
                    frame = PlacedFrame(*row)
                    frame.direction, frame.stored_level, frame.slot = np.array(frame.direction), k, slot
                    self._placement.levels[k].append(frame)
        self.num_written = int(state["num_written"])
        self.last_timestamp = float(state["last_timestamp"]) if self.num_written else None

    def _check_state(self, state: dict[str, torch.Tensor]) -> None:
        """Raise ValueError unless a bank of this config could have given `state`: names and shapes are compared."""
        maps = {k: state[name] for k in self._active if (name := _name(k, k)) in state}
        channels = next((features.shape[1] for features in maps.values() if features.ndim == 4), 0)
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(("num_written", "last_timestamp", "channels_last"), ())
        for k, features in maps.items():
            num_frames = min(len(features), self.config.levels[k].capacity)
            rows = {"directions": (channels,)}
            expected |= {f"level{k}.{name}": (num_frames, *rows.get(name, ())) for name in COLUMNS}
            expected |= {_name(k, kept): (num_frames, channels, *self.grids[kept]) for kept in self._levels_kept(k)}
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if wrong := [
            f"{name} has shape {shapes.get(name, 'none')}, expected {expected.get(name, 'none')}"
            for name in sorted(expected.keys() | shapes.keys())
            if shapes.get(name) != expected.get(name)
        ]:
            raise ValueError(f"not the state of this bank: {'; '.join(wrong)}")


def _name(level: int, of_level: int) -> str:
    """In a saved state, of the maps of frames held at `level`: their own, or those of a level they may go down to."""
    return f"level{level}.features" if of_level == level else f"level{level}.features{of_level}"


# ---- pooling --------------------------------------------------------------------------------------------------------
# A row of cells is one matrix product of weights and the positions it covers: such a product reads the map once,
# straight from memory, and takes as long as the map's mean alone. torch's own kernels are 2 to 20 times slower.


def _pools_exactly(features: torch.Tensor, grid: Grid) -> bool:
    """Whether every cell of the grid covers as many positions of a map (..., h, w): then pooling keeps its mean."""
    height, width = features.shape[-2:]
    return height % grid[0] == 0 and width % grid[1] == 0


def average_pool(features: torch.Tensor, grid: int | Grid) -> torch.Tensor:
    """Pool one map (C, h, w) to (C, g, g'), a number being the side of a square; the same numbers whether a map comes
    alone or in a batch.

    Raises ValueError where the map is coarser than the grid.
    """
    grid = rows, columns = (grid, grid) if isinstance(grid, int) else grid
    _, height, width = features.shape
    if rows > height or columns > width:
        raise ValueError(f"a {height}x{width} map cannot be pooled to a finer {rows}x{columns} grid")
    if (height, width) == grid:
        return features
    if not _is_fast(features, grid):
        return F.adaptive_avg_pool2d(features[None], grid)[0]
    last = features.permute(1, 2, 0)  # (h, w, C)
    weights = _cell_weights(height, width, grid)
    if last.is_contiguous():
        return torch.bmm(weights, _aligned(last).reshape(rows, weights.shape[2], -1)).permute(2, 0, 1)
    return (_aligned(features.reshape(-1, weights.shape[2])) @ weights[0].t()).view(-1, rows, columns)


class BatchPooling:
    """Pools batches of maps to one grid, each map as by `average_pool`; one object belongs to one thread.

    On the CPU all results share one piece of memory: each call overwrites what the last one gave. (To be given fresh
    memory costs a third of the time that pooling takes.)
    """

    def __init__(self, grid: int | Grid) -> None:
        self.grid: Grid = (grid, grid) if isinstance(grid, int) else grid
        self._cells = torch.empty(0)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(T, C, h, w), T >= 1 -> (T, C, g, g')"""
        num, channels, height, width = features.shape
        last = features.permute(0, 2, 3, 1)  # (T, h, w, C)
        # One product for all maps gives the bits of one each, where each begins with a cache line; but for a single
        # cell: there sums are split over threads.
        aligned = features.data_ptr() % ALIGNMENT == 0 and channels * height * width * 4 % ALIGNMENT == 0
        if features.device.type != "cpu" and max(self.grid) > 1:  # a single cell's sum is split as the batch wants it
            return F.adaptive_avg_pool2d(features, self.grid)  # each cell is one thread's: one launch, the same bits
        if not (_is_fast(features, self.grid) and last.is_contiguous() and aligned and min(self.grid) > 1):
            return torch.stack([average_pool(each, self.grid) for each in features])
        rows, columns = self.grid
        if self._cells.shape != (num * rows, columns, channels):
            with torch.inference_mode(False):
                self._cells = torch.empty(num * rows, columns, channels)
        weights = _cell_weights(height, width, self.grid)[:1].expand(num * rows, -1, -1)
        torch.bmm(weights, last.reshape(num * rows, -1, channels), out=self._cells)
        return self._cells.view(num, rows, columns, channels).permute(0, 3, 1, 2)


def _aligned(matrix: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor where a cache line begins: on some CPUs its place decides the last bit of its sums."""
    return matrix if matrix.data_ptr() % ALIGNMENT == 0 else matrix.clone()


def _is_fast(features: torch.Tensor, grid: Grid) -> bool:
    return features.dtype == torch.float32 and features.device.type == "cpu" and _pools_exactly(features, grid)


@lru_cache
def _cell_weights(height: int, width: int, grid: Grid) -> torch.Tensor:
    """(g, g', h / g * w): for each row of cells the same matrix, from the positions it covers to its cells."""
    rows, columns = height // grid[0], width // grid[1]
    with torch.inference_mode(False):  # kept for any caller, one that wants gradients included
        of_row = torch.eye(grid[1]).repeat_interleave(columns, dim=1).repeat(1, rows) / (rows * columns)
        return of_row.expand(grid[0], -1, -1).contiguous()
