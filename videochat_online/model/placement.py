"""Which frames each level of a memory holds: decisions on summaries and integers only, no feature map is touched.

A frame's summary is the spatial mean of its map. Pooling by an exact factor keeps that mean, so a summary never
changes on a frame's way down, and each decision follows from the summaries alone. Similarities of neighbours are
kept beside them: a frame that arrives or leaves costs one product of two vectors, whatever the level's capacity.
C channels. Source: arXiv 2501.00584, section 4.1; the other policies are baselines for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..config import MemoryConfig, scheduled_level

DROPPED = -1
INCOMING = -1


class Arrival(NamedTuple):
    """A frame that was written."""

    frame: int
    """Number of the frame in the stream."""
    level: int
    """Level it came into, or -1 where no level takes it."""


@dataclass(frozen=True)
class MemoryEvent:
    """A frame that left its level while frame number `step` was written."""

    step: int
    from_level: int
    position: int
    """Place in the level, in order of arrival, before it left."""
    frame: int
    """Number of the frame that left."""
    to_level: int
    """Level it went down to, or -1 where it was dropped (or merged into its neighbour)."""
    similarity: float | None
    """Cosine of the pair that decided (None where no pair did)."""


class MemoryEvents(list[MemoryEvent]):
    """What writing some frames changed: the frames that left their level, in order, and where each new one came in."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[Arrival] = []
        """One for each frame written, in order."""

    def add(self, later: MemoryEvents) -> None:
        """Append what the next frames changed."""
        self.extend(later)
        self.arrivals.extend(later.arrivals)


@dataclass(slots=True, eq=False)
class PlacedFrame:
    """One frame the bank knows: what is decided by, and where its map lies."""

    number: int
    timestamp: float
    direction: np.ndarray
    """Summary scaled to length 1, float64 (C,); zeros for a map of zeros."""
    norm: float
    """Length of the summary."""
    stored_level: int = INCOMING
    """Level whose storage holds the map, or -1 while it is in the batch being written."""
    slot: int = 0
    """Place in that storage, or in the batch."""
    num_merged: int = 1
    """Frames averaged into this one (policy `merge`)."""

    @classmethod
    def arriving(cls, number: int, timestamp: float, summary: np.ndarray, slot: int) -> PlacedFrame:
        norm = float(np.sqrt(summary @ summary))
        return cls(number, timestamp, summary / norm if norm else summary, norm, slot=slot)


def similarity(one: PlacedFrame, other: PlacedFrame) -> float:
    """Cosine of two summaries, summed in float64 and rounded to float32: equal frames give exactly 1.

    (Rounding noise must not choose between ties; a tie goes to the first pair.)
    """
    return float(np.float32(one.direction @ other.direction))


COLUMNS = ("numbers", "timestamps", "num_merged", "norms", "directions")
"""What a level's frames are saved as: one row a frame each, in order of arrival."""


@dataclass(slots=True)
class LevelState:
    """The frames of one level in order of arrival, and the similarity of each to the next."""

    frames: list[PlacedFrame] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)

    def columns(self) -> dict[str, np.ndarray]:
        """COLUMNS of the frames held, at least one."""
        frames = self.frames
        numbers, merged = [f.number for f in frames], [f.num_merged for f in frames]
        times, norms, directions = zip(*((f.timestamp, f.norm, f.direction) for f in frames), strict=True)
        values = (np.array(numbers), np.array(times), np.array(merged), np.array(norms), np.stack(directions))
        return dict(zip(COLUMNS, values, strict=True))

    def load(self, level: int, columns: dict[str, np.ndarray]) -> None:
        """The reverse of `columns`, for a level whose storage holds the maps in the same order."""
        directions = columns["directions"].copy()
        rows = zip(*(columns[name].tolist() for name in COLUMNS[:-1]), strict=True)
        for slot, (number, timestamp, num_merged, norm) in enumerate(rows):
            self.append(PlacedFrame(number, timestamp, directions[slot], norm, level, slot, num_merged))

    def append(self, frame: PlacedFrame) -> None:
        if self.frames:
            self.similarities.append(similarity(self.frames[-1], frame))
        self.frames.append(frame)

    def pop(self, position: int) -> PlacedFrame:
        frame = self.frames.pop(position)
        if not self.similarities:
            return frame
        self.similarities.pop(min(position, len(self.similarities) - 1))
        if 0 < position < len(self.frames):
            self.similarities[position - 1] = similarity(self.frames[position - 1], self.frames[position])
        return frame

    def most_similar(self) -> int | None:
        """Position of the older frame of the most similar neighbours, the first of equals; None without a pair."""
        if not self.similarities:
            return None
        return self.similarities.index(max(self.similarities))

    def victim(self, policy: str, newcomer: PlacedFrame) -> tuple[int, float | None]:
        """Position of the frame that must leave a full level for `newcomer`, and the similarity that decided."""
        if policy in ("fifo", "recent"):
            return 0, None
        if policy == "uniform":
            return self._least_missed(newcomer), None
        position = self.most_similar()
        return (0, None) if position is None else (position, self.similarities[position])

    def _least_missed(self, newcomer: PlacedFrame) -> int:
        """The frame whose absence leaves the smallest gap in time; the first frame of the stream is kept."""
        times = [frame.timestamp for frame in self.frames] + [newcomer.timestamp]
        gaps = [times[k + 1] - times[k - 1] for k in range(1, len(times) - 1)]
        return 1 + gaps.index(min(gaps)) if gaps else 0


@dataclass(frozen=True)
class MergedPair:
    """Two neighbours that become one frame, in the older one's place."""

    older: PlacedFrame
    newer: PlacedFrame
    share: float
    """Weight of the newer one in the mean."""

    def merged(self) -> PlacedFrame:
        older, newer = self.older, self.newer
        summary = (1 - self.share) * older.norm * older.direction + self.share * newer.norm * newer.direction
        frame = PlacedFrame.arriving(older.number, older.timestamp, summary, older.slot)
        frame.stored_level, frame.num_merged = older.stored_level, older.num_merged + newer.num_merged
        return frame


class Placement:
    """The levels of one memory, and the rule of `config` by which frames move between them."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self._every = config.every
        self.levels = [LevelState() for _ in config.levels]
        self.active = [number for number, level in enumerate(config.levels) if level.capacity]
        """Levels that hold any frames, finest first."""
        self._next_active = [DROPPED] * (len(config.levels) + 1)  # from each level on down, itself included
        for number in reversed(range(len(config.levels))):
            self._next_active[number] = number if config.levels[number].capacity else self._next_active[number + 1]

    def entry_level(self, frame_number: int) -> int:
        """Level that a new frame comes into, or -1."""
        return self._next_active[scheduled_level(frame_number, self._every)]

    def admit(self, newcomer: PlacedFrame, events: MemoryEvents) -> MergedPair | None:
        """Bring the next frame into its level, making room there; what happened is appended to `events`.

        Gives the two frames that policy `merge` made one of, where it did.
        """
        level = self.entry_level(newcomer.number)
        events.arrivals.append(Arrival(newcomer.number, level))
        if level == DROPPED:
            return None
        if self.config.policy == "merge" and self._is_full(level):
            return self._merge(level, newcomer, events)
        self._make_room(level, newcomer, events, step=newcomer.number, demoted=False)
        self.levels[level].append(newcomer)
        return None

    def _make_room(
        self, level: int, newcomer: PlacedFrame, events: MemoryEvents, *, step: int, demoted: bool
    ) -> None:
        """If the level is full, push one frame out of it: down the pyramid, or away."""
        if not self._is_full(level):
            return
        position, decided_by = self.levels[level].victim(self.config.policy, newcomer)
        frame = self.levels[level].pop(position)
        below = DROPPED if demoted and not self.config.cascade else self._next_active[level + 1]
        events.append(MemoryEvent(step, level, position, frame.number, below, decided_by))
        if below != DROPPED:
            self._make_room(below, frame, events, step=step, demoted=True)
            self.levels[below].append(frame)

    def _merge(self, level: int, newcomer: PlacedFrame, events: MemoryEvents) -> MergedPair:
        """Make one of the most similar neighbours, the newcomer among them (as in arXiv 2307.16449)."""
        state = self.levels[level]
        state.append(newcomer)
        position = state.most_similar()
        assert position is not None, "a full level and a newcomer make a pair"
        older, newer = state.frames[position], state.frames[position + 1]
        decided_by = state.similarities[position]
        events.append(MemoryEvent(newcomer.number, level, position + 1, newer.number, DROPPED, decided_by))
        pair = MergedPair(older, newer, newer.num_merged / (older.num_merged + newer.num_merged))
        frames = [*state.frames[:position], pair.merged(), *state.frames[position + 2 :]]
        self.levels[level] = LevelState()
        for frame in frames:
            self.levels[level].append(frame)
        return pair

    def _is_full(self, level: int) -> bool:
        return len(self.levels[level].frames) >= self.config.levels[level].capacity
