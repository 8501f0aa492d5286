"""A scene: things with exact tracks over time, and the events that follow from them. No pixels and no questions.

Times are seconds, positions are fractions of the frame (x right, y down). Everything a question asks about is read
from here; `simulate.py` makes scenes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from .vocabulary import ACTION_NAMES, COLOUR_NAMES, REGION_NAMES, action_after, cell_centre, name_of

Kind = Literal["rest", "act", "move", "enter", "leave", "away", "hide", "meet"]
STANDING: tuple[Kind, ...] = ("rest", "act")
UNSEEN: tuple[Kind, ...] = ("away", "hide")

WALL_HALF = 0.15
"""Half the side of the wall, as a fraction of the frame; larger than any thing that goes behind it."""
NEAR = 0.13
"""Closer than this along both axes, one thing may cover another that passes."""


@dataclass(frozen=True)
class Segment:
    """What one thing does from `start` to `end`: `place` and `target` are cells, equal unless it moves."""

    kind: Kind
    start: float
    end: float
    place: int
    target: int
    knots: tuple[tuple[float, float, float], ...]
    """(time, x, y): the position is linear in between."""
    action: int = -1
    """For "act": index into ACTION_NAMES."""
    partner: int = -1
    """For "meet": index of the thing it goes to."""

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"a segment must end after it starts, got {self.kind} from {self.start} to {self.end}")

    @property
    def duration(self) -> float:
        return self.end - self.start

    @property
    def direction(self) -> tuple[int, int]:
        """Signs of the movement along x and y; (0, 0) for a thing that stands."""
        (_, x0, y0), (_, x1, y1) = self.knots[0], self.knots[-1]
        return (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)

    def position(self, time: float) -> tuple[float, float]:
        """(x, y) at a time inside the segment."""
        knots = self.knots
        for (t0, x0, y0), (t1, x1, y1) in pairwise(knots):
            if time <= t1:
                part = (time - t0) / (t1 - t0)
                return x0 + part * (x1 - x0), y0 + part * (y1 - y0)
        return knots[-1][1:]


def standing_point(cell: int, offset: tuple[float, float]) -> tuple[float, float]:
    """(x, y) of a thing with that offset at that cell."""
    x, y = cell_centre(cell)
    return x + offset[0], y + offset[1]


@dataclass(frozen=True)
class Thing:
    """One coloured shape, with its whole track. Segments follow each other without gaps from time 0."""

    index: int
    shape: int
    radius: float
    """Half the size of the shape when it rests, as a fraction of the frame."""
    goal: int
    """Index into GOAL_NAMES: the routine its actions follow."""
    offset: tuple[float, float]
    """How far it stands from the centre of any cell."""
    colours: tuple[tuple[float, int], ...]
    """(from when, colour): the first from 0.0."""
    segments: tuple[Segment, ...]

    @cached_property
    def starts(self) -> tuple[float, ...]:
        return tuple(segment.start for segment in self.segments)

    @cached_property
    def acts(self) -> tuple[Segment, ...]:
        """The steps of its routine, in order."""
        return tuple(segment for segment in self.segments if segment.kind == "act")

    @cached_property
    def absences(self) -> tuple[Segment, ...]:
        """When nothing of it is on the screen."""
        return tuple(segment for segment in self.segments if segment.kind in UNSEEN)

    def at(self, time: float) -> Segment:
        """What it is doing; at a boundary, what it starts."""
        return self.segments[max(0, bisect_right(self.starts, time) - 1)]

    def position(self, time: float) -> tuple[float, float]:
        return self.at(time).position(time)

    def stand(self, cell: int) -> tuple[float, float]:
        """Where in the frame it stands when its place is `cell`."""
        return standing_point(cell, self.offset)

    def box(self, cell: int) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the resting shape at a cell."""
        x, y = self.stand(cell)
        return x - self.radius, y - self.radius, x + self.radius, y + self.radius

    def colour(self, time: float) -> int:
        return next(colour for start, colour in reversed(self.colours) if start <= max(0.0, time))

    def name(self, time: float) -> str:
        """ "the red circle", as it was last seen; no other thing of the scene is ever called so."""
        segment = self.at(time)
        return f"the {name_of(self.colour(segment.start if segment.kind in UNSEEN else time), self.shape)}"

    def was_seen(self, time: float) -> bool:
        """Whether it has been on the screen before `time`."""
        return self.segments[0].kind not in UNSEEN or self.segments[0].end + 1 <= time

    def next_action(self, action: int) -> int:
        return action_after(action, self.goal)


@dataclass(frozen=True)
class Event:
    """Something that happens at a moment."""

    time: float
    kind: str
    thing: int
    detail: str = ""

    @property
    def text(self) -> str:
        """What happens, without who: "moves to the left-top"."""
        return f"{self.kind} {self.detail}".rstrip()


@dataclass(frozen=True)
class Look:
    """What the picture looks like apart from the things."""

    seed: int
    """Of texture and noise."""
    tint: tuple[int, int, int]
    texture: float
    """Amplitude of the background's pattern, in grey values."""
    noise: float
    """Standard deviation of the noise of each frame, in grey values."""


@dataclass(frozen=True)
class Scene:
    """One stream of `seconds` seconds. `key` is unique over all splits, levels and seeds."""

    key: str
    split: str
    seed: int
    level: int
    seconds: float
    pace: float
    """How many times longer actions, rests and absences last than in a 30 second scene."""
    things: tuple[Thing, ...]
    wall: int
    """Cell covered by the wall, -1 without one."""
    look: Look

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Everything that happens before the end, in order of time."""
        found = [event for thing in self.things for event in _events_of(thing, self)]
        return tuple(sorted((e for e in found if 0 < e.time < self.seconds), key=lambda e: (e.time, e.thing)))

    def sentence(self, event: Event) -> str:
        """ "the red circle moves to the left-top"; who changes its colour is called as before."""
        return f"{self.things[event.thing].name(event.time - 0.01)} {event.text}"

    def presence(self, thing: Thing, time: float) -> bool | None:
        """Whether the thing is on the screen; None while it comes, goes, or is partly behind the wall."""
        segment = thing.at(time)
        if segment.kind in UNSEEN:
            return False
        if segment.kind in ("enter", "leave") or self.passes_wall(segment):
            return None
        return True

    def passes_wall(self, segment: Segment) -> bool:
        """Whether the segment goes behind the wall or comes out from it."""
        return segment.kind == "move" and self.wall in (segment.place, segment.target)

    def behind_wall(self, x: float, y: float) -> bool:
        """Whether the wall covers a point."""
        if self.wall < 0:
            return False
        wall_x, wall_y = cell_centre(self.wall)
        return max(abs(x - wall_x), abs(y - wall_y)) < WALL_HALF

    def standing(self, thing: Thing, time: float) -> bool:
        """Whether the thing is in full view at its cell: the moments at which place and action are certain."""
        if thing.at(time).kind not in STANDING:
            return False
        x, y = thing.position(time)
        others = (other.position(time) for other in self.things if other is not thing)
        return all(max(abs(x - ox), abs(y - oy)) > NEAR for ox, oy in others)

    def count(self, time: float) -> int | None:
        """Things on the screen; None when that is not certain for one of them."""
        seen = [self.presence(thing, time) for thing in self.things]
        return None if None in seen else sum(map(bool, seen))


def _events_of(thing: Thing, scene: Scene) -> list[Event]:
    found = []
    first_seen = False
    for segment in thing.segments:
        here = REGION_NAMES[segment.target]
        if segment.kind == "enter":
            verb = "comes back at the" if first_seen else "appears at the"
            found.append(Event(segment.start, verb, thing.index, here))
        elif segment.kind == "act":
            found.append(Event(segment.start, "performs the", thing.index, ACTION_NAMES[segment.action]))
        elif segment.kind == "hide":
            found.append(Event(segment.start, "hides behind the", thing.index, "wall"))
        elif segment.kind == "move":
            found.append(Event(segment.start, "moves to the", thing.index, here))
        elif segment.kind == "leave":
            found.append(Event(segment.end, "leaves", thing.index))
        elif segment.kind == "meet":
            partner = scene.things[segment.partner].name(segment.start)
            found.append(Event(segment.start, "meets", thing.index, partner))
        first_seen = first_seen or segment.kind not in UNSEEN
    for time, colour in thing.colours[1:]:
        found.append(Event(time, "turns", thing.index, COLOUR_NAMES[colour]))
    return found
