"""Which frames a memory level keeps: decisions on summaries and integers only, no feature map is touched.

A frame's summary is the spatial mean of its map. Pooling by an exact factor keeps that mean, so a summary never
changes on a frame's way down, and each decision follows from the summaries alone. Similarities of neighbours are
kept beside them: a frame that arrives or leaves costs one product of two vectors, whatever the level's capacity.
Source: arXiv 2501.00584, section 4.1; the other policies are baselines for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

DROPPED = -1
INCOMING = -1


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


@dataclass(slots=True, eq=False)
class HeldFrame:
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
    def arriving(cls, number: int, timestamp: float, summary: np.ndarray, slot: int) -> HeldFrame:
        norm = float(np.sqrt(summary @ summary))
        return cls(number, timestamp, summary / norm if norm else summary, norm, slot=slot)


def similarity(one: HeldFrame, other: HeldFrame) -> float:
    """Cosine of two summaries, summed in float64 and rounded to float32: equal frames give exactly 1.

    (Rounding noise must not choose between ties; a tie goes to the first pair.)
    """
    return float(np.float32(one.direction @ other.direction))


@dataclass(slots=True)
class LevelState:
    """The frames of one level in order of arrival, and the similarity of each to the next."""

    frames: list[HeldFrame] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)

    def append(self, frame: HeldFrame) -> None:
        if self.frames:
            self.similarities.append(similarity(self.frames[-1], frame))
        self.frames.append(frame)

    def pop(self, position: int) -> HeldFrame:
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

    def victim(self, policy: str, newcomer: HeldFrame) -> tuple[int, float | None]:
        """Position of the frame that must leave a full level for `newcomer`, and the similarity that decided."""
        if policy in ("fifo", "recent"):
            return 0, None
        if policy == "uniform":
            return self._least_missed(newcomer), None
        position = self.most_similar()
        return (0, None) if position is None else (position, self.similarities[position])

    def _least_missed(self, newcomer: HeldFrame) -> int:
        """The frame whose absence leaves the smallest gap in time; the first frame of the stream is kept."""
        times = [frame.timestamp for frame in self.frames] + [newcomer.timestamp]
        gaps = [times[k + 1] - times[k - 1] for k in range(1, len(times) - 1)]
        return 1 + gaps.index(min(gaps)) if gaps else 0
