"""Pyramid memory bank: a fixed number of frames from an endless stream, the finer the fresher and the more distinct.

Owns the maps' storage (allocated once, on the features' device) and applies what model/eviction.py decides. A batch of
T frames is decided first, with one transfer of its (T, C) summaries, and only the maps that survive it are pooled and
stored. T frames of a batch, C channels, (h, w) the encoder's grid, g a level's. Source: arXiv 2501.00584, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..config import MemoryConfig, scheduled_level
from .bank_state import COLUMNS, check_state
from .eviction import DROPPED, INCOMING, HeldFrame, LevelState, MemoryEvent
from .pooling import BatchPooling, average_pool, pools_exactly


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
    the map as it arrived goes on deciding. Not thread-safe: one bank belongs to one stream.
    """

    def __init__(self, config: MemoryConfig | None = None) -> None:
        self.config = config or MemoryConfig.pyramid()
        self._active = [k for k, level in enumerate(self.config.levels) if level.capacity]
        self._to_coarsest = BatchPooling(self.config.levels[self._active[-1]].grid)
        self.reset()

    def reset(self) -> None:
        """Forget everything; frame numbers start again from 0."""
        self._levels = [LevelState() for _ in self.config.levels]
        self._storage: list[torch.Tensor | None] = [None] * len(self._levels)  # (capacity, C, g, g) each
        self._is_channels_last = False  # how stored maps lie in memory
        self._num_written = 0
        self._last_timestamp = -float("inf")

    def __len__(self) -> int:
        return sum(len(level.frames) for level in self._levels)

    @property
    def num_written(self) -> int:
        """Frames seen since the start."""
        return self._num_written

    @property
    def num_held(self) -> tuple[int, ...]:
        """Frames held per level."""
        return tuple(len(level.frames) for level in self._levels)

    @property
    def num_tokens(self) -> int:
        """Tokens the language model would see now."""
        pairs = zip(self._levels, self.config.levels, strict=True)
        return sum(len(state.frames) * level.num_tokens for state, level in pairs)

    @property
    def num_bytes(self) -> int:
        """Bytes of the maps' storage: all of it is allocated at the first write and never grows."""
        return sum(store.numel() * store.element_size() for store in self._storage if store is not None)

    @torch.no_grad()
    def write(self, features: torch.Tensor, timestamps: Sequence[float]) -> list[MemoryEvent]:
        """Take in the next T frames: features (T, C, h, w), timestamps T seconds that never go back.

        Gives what left its level meanwhile, in order. Feeding frames one by one, in chunks or at once leaves identical
        banks. Raises ValueError, and changes nothing, for wrong shapes, values that are not finite, or time going back.
        """
        times = self._check(features, timestamps)
        if not times:
            return []
        features = _as_stored(features)
        cells, summaries = self._summarise(features)
        step = 1 if self.config.policy == "merge" else len(times)  # a merge needs the maps as they are now
        self._allocate(features, channels_last=not features.is_contiguous())
        events: list[MemoryEvent] = []
        for first in range(0, len(times), step):
            for k in range(first, first + step):
                newcomer = HeldFrame.arriving(self._num_written, times[k], summaries[k], slot=k)
                self._admit(newcomer, features, cells, events)
                self._num_written += 1
            self._store(features, cells)
        self._last_timestamp = times[-1]
        return events

    def read(self) -> list[MemoryFrame]:
        """The frames held, oldest first."""
        held = [(frame, k) for k, level in enumerate(self._levels) for frame in level.frames]
        held.sort(key=lambda pair: pair[0].number)
        return [
            MemoryFrame(f.number, f.timestamp, k, self._map(f).clone(memory_format=torch.preserve_format), f.num_merged)
            for f, k in held
        ]

    # ---- deciding -------------------------------------------------------------------------------------------------

    def _admit(
        self, newcomer: HeldFrame, features: torch.Tensor, cells: torch.Tensor, events: list[MemoryEvent]
    ) -> None:
        """Bring one frame into the level its number belongs to, making room there."""
        level = self._entry_level(newcomer.number)
        if level == DROPPED:
            return
        if self.config.policy == "merge" and len(self._levels[level].frames) == self.config.levels[level].capacity:
            self._merge(level, newcomer, features, cells, events)
            return
        self._make_room(level, newcomer, events, demoted=False)
        self._levels[level].append(newcomer)

    def _make_room(self, level: int, newcomer: HeldFrame, events: list[MemoryEvent], *, demoted: bool) -> None:
        """If the level is full, push one frame out of it: down the pyramid, or away."""
        state = self._levels[level]
        if len(state.frames) < self.config.levels[level].capacity:
            return
        position, decided_by = state.victim(self.config.policy, newcomer)
        frame = state.pop(position)
        below = DROPPED if demoted and not self.config.cascade else self._first_active(level + 1)
        events.append(MemoryEvent(self._num_written, level, position, frame.number, below, decided_by))
        if below != DROPPED:
            self._make_room(below, frame, events, demoted=True)
            self._levels[below].append(frame)

    def _entry_level(self, frame_number: int) -> int:
        return self._first_active(scheduled_level(frame_number, self.config.every))

    def _first_active(self, level: int) -> int:
        """The first level from `level` on down that holds any frames, or DROPPED."""
        return next((k for k in self._active if k >= level), DROPPED)

    # ---- maps -----------------------------------------------------------------------------------------------------

    def _summarise(self, features: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """One read of the batch: its maps at the coarsest grid (T, C, g, g) and their means, float64 (T, C)."""
        cells = self._to_coarsest(features)
        exact = features.dtype == torch.float32 and pools_exactly(features, self._to_coarsest.grid)
        means = cells.mean((2, 3)) if exact else features.mean((2, 3), dtype=torch.float32)
        summaries = means.cpu().numpy().astype(np.float64)
        for k, summary in enumerate(summaries):
            if not math.isfinite(summary @ summary):
                raise ValueError(f"features of frame {self._num_written + k} are not finite (NaN or infinity)")
        return cells, summaries

    def _store(self, features: torch.Tensor, cells: torch.Tensor) -> None:
        """Bring every surviving map to the level its frame now belongs to.

        Coarsest level first: maps come from finer levels, so each is read before its old place is written.
        """
        for level in reversed(self._active):
            arrived = [frame for frame in self._levels[level].frames if frame.stored_level != level]
            free = self._free_slots(level) if arrived else []
            for frame in arrived:
                values = self._pooled(frame, level, features, cells)
                frame.stored_level, frame.slot = level, free.pop()
                self._map(frame).copy_(values)

    def _pooled(self, frame: HeldFrame, level: int, features: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """The frame's map at `level`, pooled through every level it passed, so that chunks do not change a bit."""
        if frame.stored_level != INCOMING:
            entered, values = frame.stored_level + 1, self._map(frame)
        else:
            entered, values = self._entry_level(frame.number), features[frame.slot]
            if entered == self._active[-1]:
                return cells[frame.slot]
        for passed in self._active:
            if entered <= passed <= level:
                values = average_pool(values, self.config.levels[passed].grid)
        return values

    def _merge(
        self, level: int, newcomer: HeldFrame, features: torch.Tensor, cells: torch.Tensor, events: list[MemoryEvent]
    ) -> None:
        """Policy `merge`: average the most similar neighbours, the newcomer among them (as in arXiv 2307.16449)."""
        state = self._levels[level]
        state.append(newcomer)
        position = state.most_similar()
        assert position is not None, "a full level and a newcomer make a pair"
        events.append(
            MemoryEvent(
                self._num_written, level, position + 1, state.frames[position + 1].number, DROPPED,
                state.similarities[position],
            )
        )  # fmt: skip
        older, newer = state.frames[position], state.frames[position + 1]
        share = newer.num_merged / (older.num_merged + newer.num_merged)
        self._map(older).lerp_(self._pooled(newer, level, features, cells), share)
        summary = (1 - share) * older.norm * older.direction + share * newer.norm * newer.direction
        merged = HeldFrame.arriving(older.number, older.timestamp, summary, older.slot)
        merged.stored_level, merged.num_merged = level, older.num_merged + newer.num_merged
        frames = [*state.frames[:position], merged, *state.frames[position + 2 :]]
        self._levels[level] = LevelState()
        for frame in frames:
            self._levels[level].append(frame)

    def _map(self, frame: HeldFrame) -> torch.Tensor:
        """The stored map as a (C, g, g) view."""
        store = self._storage[frame.stored_level]
        assert store is not None, "a frame is held, so its level has storage"
        return store[frame.slot]

    def _free_slots(self, level: int) -> list[int]:
        taken = {frame.slot for frame in self._levels[level].frames if frame.stored_level == level}
        return [slot for slot in reversed(range(self.config.levels[level].capacity)) if slot not in taken]

    def _allocate(self, features: torch.Tensor, *, channels_last: bool) -> None:
        """Storage for all levels at the first write, in the memory layout the maps come in."""
        if self._storage[self._active[0]] is not None:
            return
        self._is_channels_last = channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        for k in self._active:
            level = self.config.levels[k]
            shape = (level.capacity, features.shape[1], level.grid, level.grid)
            self._storage[k] = torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout)

    # ---- checking and saving --------------------------------------------------------------------------------------

    def _check(self, features: torch.Tensor, timestamps: Sequence[float]) -> list[float]:
        if features.ndim != 4:
            raise ValueError(f"features must be (T, C, h, w), got shape {tuple(features.shape)}")
        if not features.is_floating_point():
            raise ValueError(f"features must be floating-point numbers, got {features.dtype}")
        times = [float(timestamp) for timestamp in timestamps]
        if len(times) != len(features):
            raise ValueError(f"{len(features)} frames came with {len(times)} timestamps")
        for k, (before, now) in enumerate(pairwise([self._last_timestamp, *times])):
            if not math.isfinite(now):
                raise ValueError(f"timestamps must be finite seconds, got {now}")
            if now < before:
                raise ValueError(f"time went back: frame {self._num_written + k} at {now} s comes after {before} s")
        finest = self.config.levels[self._active[0]].grid
        if min(features.shape[-2:]) < finest:
            raise ValueError(
                f"the memory's finest level wants {finest}x{finest} maps, the encoder gives "
                f"{features.shape[-2]}x{features.shape[-1]}: choose grids it can be pooled to"
            )
        store = self._storage[self._active[0]]
        if store is not None:
            held, given = (
                (store.shape[1], store.dtype, store.device),
                (features.shape[1], features.dtype, features.device),
            )
            if held != given:
                raise ValueError(f"the bank holds (channels, dtype, device) {held}, got {given}")
        return times

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything the bank knows, as plain tensors (safetensors can hold it)."""
        state = {
            "num_written": torch.tensor(self._num_written),
            "last_timestamp": torch.tensor(self._last_timestamp, dtype=torch.float64),
            "channels_last": torch.tensor(self._is_channels_last),
        }
        for k, level in enumerate(self._levels):
            if not level.frames:
                continue
            frames = level.frames
            state[f"level{k}.numbers"] = torch.tensor([f.number for f in frames])
            state[f"level{k}.timestamps"] = torch.tensor([f.timestamp for f in frames], dtype=torch.float64)
            state[f"level{k}.num_merged"] = torch.tensor([f.num_merged for f in frames])
            state[f"level{k}.norms"] = torch.tensor([f.norm for f in frames], dtype=torch.float64)
            state[f"level{k}.directions"] = torch.from_numpy(np.stack([f.direction for f in frames]))
            state[f"level{k}.features"] = torch.stack([self._map(f) for f in frames])
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over a `state_dict()`; maps stay on the device they come on.

        Raises ValueError, and changes nothing, where it does not fit.
        """
        check_state(self.config, state)
        self.reset()
        self._is_channels_last = bool(state["channels_last"])
        for k in self._active:
            if f"level{k}.features" in state:
                self._load_level(k, state)
        self._num_written = int(state["num_written"])
        self._last_timestamp = float(state["last_timestamp"])

    def _load_level(self, level: int, state: dict[str, torch.Tensor]) -> None:
        numbers, times, merged, norms, directions, maps = (state[f"level{level}.{name}"] for name in COLUMNS)
        self._allocate(maps, channels_last=self._is_channels_last)
        store = self._storage[level]
        assert store is not None
        store[: len(maps)] = maps
        columns = zip(numbers.tolist(), times.tolist(), merged.tolist(), norms.tolist(), strict=True)
        for slot, (number, timestamp, num_merged, norm) in enumerate(columns):
            direction = directions[slot].cpu().numpy().copy()
            self._levels[level].append(HeldFrame(number, timestamp, direction, norm, level, slot, num_merged))


def _as_stored(features: torch.Tensor) -> torch.Tensor:
    """Maps (T, C, h, w) in one of the two layouts that maps are stored in.

    Pooling sums in an order that follows the layout: in any other, a map from storage and the same map as it came
    would differ in the last bit, and so would chunks.
    """
    is_channels_last = features[:1].is_contiguous(memory_format=torch.channels_last)
    return features.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)
