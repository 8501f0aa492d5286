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


class Neighbour(NamedTuple):
    """What was found about a frame and another one while their maps were read."""

    number: int
    product: float
    """Of both summaries."""


@dataclass(slots=True, eq=False)
class PlacedFrame:
    """One frame the bank knows: what is decided by, and where its map lies."""

    number: int
    timestamp: float
    norm: float
    """Length of the summary."""
    direction: np.ndarray
    """Summary scaled to length 1, float64 (C,); zeros for a map of zeros."""
    num_merged: int = 1
    """Frames averaged into this one (policy `merge`)."""
    stored_level: int = INCOMING
    """Level whose storage holds the map, or -1 while it is in the batch being written."""
    slot: int = 0
    """Place in that storage, or in the batch."""
    neighbour: Neighbour | None = None
    """The frame that came into the level before it, where they were compared beforehand."""


def norm_and_direction(summary: np.ndarray) -> tuple[float, np.ndarray]:
    """What a frame keeps of its summary."""
    norm = float(np.sqrt(summary @ summary))
    return norm, summary / norm if norm else summary


def similarity(one: PlacedFrame, other: PlacedFrame) -> float:
    """Cosine of two summaries, summed in float64 and rounded to float32: equal frames give exactly 1.

    (Rounding noise must not choose between ties; a tie goes to the first pair.)
    """
    known = other.neighbour
    if known and known.number == one.number and one.num_merged == other.num_merged == 1:
        return float(np.float32(known.product / (one.norm * other.norm or 1.0)))
    return float(np.float32(one.direction @ other.direction))


class MergedPair(NamedTuple):
    """Two neighbours of which the older one has become their mean."""

    older: PlacedFrame
    newer: PlacedFrame
    share: float
    """Weight of the newer one in the mean."""


@dataclass(slots=True)
class LevelState:
    """The frames of one level in order of arrival, and the similarity of each to the next."""

    frames: list[PlacedFrame] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)

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

    def merge(self, position: int) -> MergedPair:
        """Make one frame of those at `position` and behind it, in the place of the older one."""
        older, newer = self.frames[position], self.pop(position + 1)
        share = newer.num_merged / (older.num_merged + newer.num_merged)
        summary = (1 - share) * older.norm * older.direction + share * newer.norm * newer.direction
        older.norm, older.direction = norm_and_direction(summary)
        older.num_merged += newer.num_merged
        for k in range(max(position - 1, 0), min(position + 1, len(self.similarities))):
            self.similarities[k] = similarity(self.frames[k], self.frames[k + 1])
        return MergedPair(older, newer, share)

    def victim(self, policy: str, newcomer: PlacedFrame) -> tuple[int, float | None]:
        """Position of the frame that must leave a full level for `newcomer`, and the similarity that decided.

        Where a similarity decides it is the older frame of the most similar neighbours, of equal pairs the first.
        """
        if policy == "uniform":
            return self._least_missed(newcomer), None
        if policy in ("fifo", "recent") or not self.similarities:
            return 0, None
        highest = max(self.similarities)
        return self.similarities.index(highest), highest

    def _least_missed(self, newcomer: PlacedFrame) -> int:
        """The frame whose absence leaves the smallest gap in time; the first frame of the stream is kept."""
        times = [frame.timestamp for frame in self.frames] + [newcomer.timestamp]
        gaps = [times[k + 1] - times[k - 1] for k in range(1, len(times) - 1)]
        return 1 + gaps.index(min(gaps)) if gaps else 0


class Placement:
    """The levels of one memory, and the rule of `config` by which frames move between them."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.levels = [LevelState() for _ in config.levels]
        self.active = [number for number, level in enumerate(config.levels) if level.capacity]
        """Levels that hold any frames, finest first."""
        self._every = config.every
        # the first level from here on down that holds any frames
        self._open = [next((k for k in self.active if k >= level), DROPPED) for level in range(len(self.levels) + 1)]

    def entry_level(self, frame_number: int) -> int:
        """Level that a new frame comes into, or -1."""
        return self._open[scheduled_level(frame_number, self._every)]

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
        self._insert(level, newcomer, events, step=newcomer.number, demoted=False)
        return None

    def _insert(self, level: int, frame: PlacedFrame, events: MemoryEvents, *, step: int, demoted: bool) -> None:
        """Append a frame; if the level is full, first push one out of it: down the pyramid, or away."""
        state = self.levels[level]
        if self._is_full(level):
            position, decided_by = state.victim(self.config.policy, frame)
            leaving = state.pop(position)
            below = DROPPED if demoted and not self.config.cascade else self._open[level + 1]
            events.append(MemoryEvent(step, level, position, leaving.number, below, decided_by))
            if below != DROPPED:
                self._insert(below, leaving, events, step=step, demoted=True)
        state.append(frame)

    def _merge(self, level: int, newcomer: PlacedFrame, events: MemoryEvents) -> MergedPair:
        """Make one of the most similar neighbours, the newcomer among them (as in arXiv 2307.16449)."""
        state = self.levels[level]
        state.append(newcomer)
        position, decided_by = state.victim("merge", newcomer)
        pair = state.merge(position)
        events.append(MemoryEvent(newcomer.number, level, position + 1, pair.newer.number, DROPPED, decided_by))
        return pair

    def _is_full(self, level: int) -> bool:
        return len(self.levels[level].frames) >= self.config.levels[level].capacity
