"""What a session's memory holds, as pictures for a person: small JPEGs of the frames, and what left which level.

Follows the memory by its events alone, so looking at it copies no feature map. Bounded: pictures are kept of the frames
held, of those that left lately, and of those that were held when one of the last questions was asked.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..media.source import Frame
from ..model.placement import DROPPED, MemoryEvent, MemoryEvents

PICTURE_SIDE = 192
KEPT_EVENTS = 12
KEPT_MOMENTS = 40


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
class Moment:
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
    answer_tokens: int = 0
    is_cut: bool = False
    """Whether the answer ended only because it might not be longer."""


@dataclass
class MemoryTrack:
    """Thread-safe."""

    moments: deque[Moment] = field(default_factory=lambda: deque(maxlen=KEPT_MOMENTS))

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, HeldPicture] = {}
        self._events: deque[Departure] = deque(maxlen=KEPT_EVENTS)
        self._pictures: dict[int, bytes] = {}
        self._asked = 0

    def add(self, frames: Sequence[Frame], events: MemoryEvents) -> None:
        """Follow one call of the session's `see_many`."""
        pictures = [jpeg(frame.image) for frame in frames]
        times = {number: frame.timestamp for frame, (number, _) in zip(frames, events.arrivals, strict=False)}
        with self._lock:
            for picture, (number, level) in zip(pictures, events.arrivals, strict=False):  # none after a reset
                if level != DROPPED:
                    self._held[number] = HeldPicture(number, times[number], level)
                    self._pictures[number] = picture
            for event in events:
                self._leave(event, times[event.step])
            self._forget_pictures()

    def _leave(self, event: MemoryEvent, at: float) -> None:
        frame = self._held.pop(event.frame)
        if event.to_level != DROPPED:
            self._held[event.frame] = HeldPicture(frame.number, frame.timestamp, event.to_level)
        departure = Departure(
            frame.number, frame.timestamp, at, event.from_level, event.to_level, event.similarity
        )  # fmt: skip
        self._events.append(departure)

    def _forget_pictures(self) -> None:
        wanted = {*self._held, *(event.number for event in self._events)}
        wanted.update(picture.number for moment in self.moments for picture in moment.held)
        self._pictures = {number: data for number, data in self._pictures.items() if number in wanted}

    def ask(self, question: str, timestamp: float, held: list[HeldPicture]) -> Moment:
        """Remember what was held when a question came."""
        with self._lock:
            moment = Moment(self._asked, question, timestamp, held)
            self._asked += 1
            self.moments.append(moment)
        return moment

    def held(self) -> list[HeldPicture]:
        """The frames held now, oldest first."""
        with self._lock:
            return sorted(self._held.values(), key=lambda frame: frame.number)

    def events(self) -> list[Departure]:
        """What left lately, oldest first."""
        with self._lock:
            return list(self._events)

    def picture(self, number: int) -> bytes | None:
        """JPEG of a frame that is still known."""
        with self._lock:
            return self._pictures.get(number)

    @property
    def num_bytes(self) -> int:
        """Bytes of all pictures kept."""
        with self._lock:
            return sum(map(len, self._pictures.values()))


def jpeg(image: object, *, side: int = PICTURE_SIDE, quality: int = 80) -> bytes:
    """A uint8 (H, W, 3) picture as JPEG, no side longer than `side`."""
    picture = Image.fromarray(image)  # type: ignore[arg-type]
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()


def mosaic(picture: bytes, cells: int) -> bytes:
    """A picture as PNG of `cells` x `cells` pixels, each the mean of what it stands for."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").resize((cells, cells), Image.Resampling.BOX).save(out, "PNG")
    return out.getvalue()
