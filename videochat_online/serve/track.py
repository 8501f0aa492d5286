"""What a session remembers for a person: small JPEGs of the frames in memory, what left which level, the dialogue.

Follows the memory by its events alone, so looking at it copies no feature map. Bounded: pictures are kept of the frames
held, of those that left lately, and of those that were held when one of the last questions was asked.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..media.source import Frame
from ..model.placement import DROPPED, MemoryEvents
from ..streaming.telling import srt_of

PICTURE_SIDE = 192
JPEG_QUALITY = 80
KEPT_EVENTS = 12
KEPT_TURNS = 40
KEPT_PAST = 64
"""Calls back of which it is still known what was held then."""


@dataclass(frozen=True)
class HeldPicture:
    """One frame the memory holds."""

    number: int
    timestamp: float
    """Seconds."""
    level: int


@dataclass(frozen=True)
class Departure:
    """A frame that left its level."""

    number: int
    timestamp: float
    at: float
    """Seconds: the frame for which it had to leave."""
    from_level: int
    to_level: int
    """-1: out of the memory."""
    similarity: float | None


@dataclass
class DialogueTurn:
    """One question, its answer, and what was in memory when it was asked."""

    number: int
    """Counted from 0."""
    question: str
    timestamp: float
    """Seconds, of the newest frame then."""
    held: list[HeldPicture]
    answer: str = ""
    is_done: bool = False
    """Whether nothing more will come: the answer is complete, or was broken off."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of these, computed for an earlier question."""
    visual_tokens: int = 0
    """Of these, of frames."""
    answer_tokens: int = 0
    is_cut: bool = False
    """Whether the answer ended only because it might not be longer."""
    age: float | None = None
    """Seconds since the newest picture came, when it was asked."""


class MemoryTrack:
    """Thread-safe: what it holds is replaced, never changed, so to look at it waits for nothing."""

    def __init__(self) -> None:
        self.held: dict[int, HeldPicture] = {}
        """Number -> frame held now, oldest first."""
        self.departures: list[Departure] = []
        """What left lately, oldest first."""
        self.turns: list[DialogueTurn] = []
        """The last questions, oldest first."""
        self.pictures: dict[int, bytes] = {}
        """Number -> JPEG of a frame that is still known."""
        self.moments: dict[int, list[HeldPicture]] = {}
        """Number of an event -> what was held when it was decided."""
        self._past: deque[tuple[float, dict[int, HeldPicture]]] = deque(maxlen=KEPT_PAST)
        self._lock = threading.Lock()

    def add(self, frames: Sequence[Frame], events: MemoryEvents) -> None:
        """Follow one call of the session's `see_many`."""
        with self._lock:
            # 1. what came and what left
            held, departures = dict(self.held), list(self.departures)
            pairs = zip(frames, events.arrivals, strict=False)  # none arrived after a reset
            arrived = {number: frame for frame, (number, _) in pairs}
            for number, level in events.arrivals:
                if level != DROPPED:
                    held[number] = HeldPicture(number, arrived[number].timestamp, level)
            for event in events:
                left = held.pop(event.frame) if event.to_level == DROPPED else held[event.frame]
                if event.to_level != DROPPED:
                    held[event.frame] = replace(left, level=event.to_level)
                at = arrived[event.step].timestamp
                departures.append(
                    Departure(left.number, left.timestamp, at, event.from_level, event.to_level, event.similarity)
                )
            # 2. pictures of what is still to be seen
            self.held, self.departures = held, departures[-KEPT_EVENTS:]
            if frames:
                self._past.append((frames[-1].timestamp, held))
            known = {*held, *(event.number for event in self.departures)}
            known.update(frame.number for turn in self.turns for frame in turn.held)
            known.update(frame.number for held in self.moments.values() for frame in held)
            new = {number: jpeg(frame.image) for number, frame in arrived.items() if number in known}
            self.pictures = {number: data for number, data in self.pictures.items() if number in known} | new

    @property
    def num_bytes(self) -> int:
        """Of the pictures."""
        return sum(map(len, self.pictures.values()))

    def ask(
        self, question: str, timestamp: float, held: list[HeldPicture], *, age: float | None = None
    ) -> DialogueTurn:
        """Remember what was held when a question came."""
        with self._lock:
            number = self.turns[-1].number + 1 if self.turns else 0
            turn = DialogueTurn(number, question, timestamp, held, age=age)
            self.turns = [*self.turns, turn][-KEPT_TURNS:]
        return turn

    def keep_moment(self, number: int, seconds: float) -> None:
        """Remember what was held when event `number` was decided, at the frame of that second."""
        with self._lock:
            if number not in self.moments:
                held = next((held for at, held in reversed(self._past) if at <= seconds), self.held)
                self.moments = dict([*self.moments.items(), (number, list(held.values()))][-KEPT_TURNS:])


def jpeg(image: object, *, side: int = PICTURE_SIDE) -> bytes:
    """A uint8 (H, W, 3) picture as JPEG, no side longer than `side`."""
    picture = Image.fromarray(image)  # type: ignore[arg-type]
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def mosaic(picture: bytes, columns: int, rows: int) -> bytes:
    """A picture as PNG of `columns` x `rows` pixels, each the mean of what it stands for."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").resize((columns, rows), Image.Resampling.BOX).save(out, "PNG")
    return out.getvalue()


def dialogue_srt(turns: Sequence[DialogueTurn]) -> str:
    """Subtitles: a question with its answer, from its second on."""
    return srt_of([(turn.timestamp, f"{turn.question}\n{turn.answer}") for turn in turns])
