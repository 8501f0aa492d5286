"""Samples scenes: seeded, exact, and symmetric, so that no answer is likelier than another before one has looked.

Things stand in the cells of a 3x3 grid and glide along rows and columns to any of the four other cells there (the
target is drawn first and only then checked, which keeps all cells equally likely). Their actions follow a routine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .scenes import UNSEEN, Kind, Look, Scene, Segment, Thing, standing_point
from .vocabulary import COLOUR_NAMES, GOAL_NAMES, NUM_ACTIONS, SHAPE_NAMES, action_after

SPLITS: tuple[str, ...] = ("train", "dev", "test", "bank")
"""Seed spaces that never meet. "bank" is what distractors are drawn from."""
MAX_SEED = 2**40
MIN_PACE = 0.25
"""Below it the shortest act or rest would come to nothing."""

STEP_SECONDS = 2.0
"""To glide from a cell to its neighbour."""
GO_SECONDS = 1.0
"""To come in from outside the frame, or to leave it."""
OUTSIDE = 0.17
"""How far outside the frame a thing is gone for certain."""
MEET_SHIFT = 0.1
CYCLE: tuple[str, ...] = ("act", "act", "act", "act", "move", "move", "absent", "rest")
"""What a thing does, shuffled again each time round."""


@dataclass(frozen=True)
class Level:
    """Difficulty: what may happen and how noisy it looks."""

    things: tuple[int, int]
    """Fewest and most."""
    wall: float = 0.0
    """Chance of a wall to hide behind."""
    recolour: float = 0.0
    """Chance that a thing changes its colour."""
    meet: bool = False
    share: float = 0.0
    """Chance that two things may have the same shape or the same colour (never both)."""
    texture: float = 8.0
    noise: float = 3.0


LEVELS: dict[int, Level] = {
    1: Level((1, 1)),
    2: Level((2, 2), texture=12, noise=5),
    3: Level((2, 3), wall=0.3, recolour=0.1, share=0.4, texture=16, noise=7),
    4: Level((3, 4), wall=0.5, recolour=0.2, meet=True, share=0.6, texture=22, noise=10),
    5: Level((5, 5), share=0.4, texture=16, noise=7),  # level 3's look, more than one token a frame tells
}


def default_pace(seconds: float) -> float:
    """Long streams are slower, so that they hold about as much to remember; up to four times."""
    return float(min(4.0, max(1.0, seconds / 30)))


def sample_stream(
    seed: int, split: str = "train", level: int = 2, seconds: float = 30.0, *, pace: float | None = None
) -> Scene:
    """The scene of a seed: always the same one. Scenes of different splits or seeds differ.

    `level` 1 to 5 (see LEVELS), `seconds` 5 to 3600, `pace` from 0.25: 1.0 is an event every few seconds (default: by
    length).
    """
    _check(seed, split, level, seconds)
    pace = default_pace(seconds) if pace is None else checked_pace(pace)
    entropy = [SPLITS.index(split), seed, level, round(seconds * 1000), round(pace * 1000)]
    rng = np.random.Generator(np.random.PCG64(entropy))
    rules = LEVELS[level]
    wall = int(rng.integers(9)) if rng.random() < rules.wall else -1
    things = _Simulation(rng, rules, float(seconds), pace, wall).run()
    tint = tuple(int(value) for value in rng.integers(34, 72, size=3))
    look = Look(int(rng.integers(2**31)), (tint[0], tint[1], tint[2]), rules.texture, rules.noise)
    key = f"{split}-{seed:08d}-l{level}-{seconds:g}s-p{pace:.4g}"
    return Scene(key, split, seed, level, float(seconds), pace, things, wall, look)


def _check(seed: int, split: str, level: int, seconds: float) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}, expected one of {', '.join(map(str, LEVELS))}")
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"a seed must be from 0 to 2**40 - 1, got {seed}")
    if not 5 <= seconds <= 3600:
        raise ValueError(f"a stream lasts 5 to 3600 seconds, got {seconds}")


def checked_pace(pace: float) -> float:
    """The pace; ValueError where nothing can happen at it."""
    if not MIN_PACE <= pace < float("inf"):
        raise ValueError(f"pace must be a number >= {MIN_PACE}, got {pace}")
    return pace


def rook_cells(cell: int) -> list[int]:
    """The four other cells of the same row or column."""
    row, column = divmod(cell, 3)
    return [3 * row + c for c in range(3) if c != column] + [3 * r + column for r in range(3) if r != row]


def are_neighbours(cell: int, other: int) -> bool:
    """Whether two cells share a side; a thing that is away (-1) has no neighbours."""
    (row, column), (other_row, other_column) = divmod(cell, 3), divmod(other, 3)
    return other >= 0 and abs(row - other_row) + abs(column - other_column) == 1


@dataclass
class _Actor:
    """A thing while its track is being made."""

    shape: int
    colour: int
    goal: int
    radius: float
    offset: tuple[float, float]
    action: int
    cell: int
    now: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    cycle: list[str] = field(default_factory=list)

    def thing(self, index: int, colours: tuple[tuple[float, int], ...]) -> Thing:
        return Thing(index, self.shape, self.radius, self.goal, self.offset, colours, tuple(self.segments))

    def stand(self, cell: int) -> tuple[float, float]:
        return standing_point(cell, self.offset)


class _Simulation:
    """Runs all things of a scene together: two never stand in one cell."""

    def __init__(self, rng: np.random.Generator, rules: Level, seconds: float, pace: float, wall: int) -> None:
        self.rng, self.rules, self.seconds, self.pace, self.wall = rng, rules, seconds, pace, wall
        self.taken: dict[int, int] = {}  # cell -> actor that stands there or is on its way there
        self.actors = self._cast()

    def run(self) -> tuple[Thing, ...]:
        """1. Everyone starts on the screen or away. 2. The thing that is free first decides next. 3. Colours change."""
        for index, actor in enumerate(self.actors):
            self._begin(index, actor)
        while True:
            index = min(range(len(self.actors)), key=lambda i: self.actors[i].now)
            if self.actors[index].now >= self.seconds + 2 * STEP_SECONDS:
                break
            self._decide(index, self.actors[index])
        return tuple(actor.thing(i, colours) for i, (actor, colours) in enumerate(self._colours()))

    def _cast(self) -> list[_Actor]:
        num = int(self.rng.integers(self.rules.things[0], self.rules.things[1] + 1))
        shapes = [int(s) for s in self.rng.permutation(len(SHAPE_NAMES))[:num]]
        colours = [int(c) for c in self.rng.permutation(len(COLOUR_NAMES))[:num]]
        if num > 1 and self.rng.random() < self.rules.share:
            alike = shapes if self.rng.random() < 0.5 else colours
            alike[1] = alike[0]
        cells = [int(cell) for cell in self.rng.permutation(9) if cell != self.wall]
        return [self._actor(shapes[i], colours[i], cells[i]) for i in range(num)]

    def _actor(self, shape: int, colour: int, cell: int) -> _Actor:
        goal = int(self.rng.integers(len(GOAL_NAMES)))
        radius = float(self.rng.uniform(0.09, 0.11))
        dx, dy = (float(value) for value in self.rng.uniform(-0.035, 0.035, size=2))
        return _Actor(shape, colour, goal, radius, (dx, dy), int(self.rng.integers(NUM_ACTIONS)), cell)

    def _begin(self, index: int, actor: _Actor) -> None:
        if self.rng.random() < 0.3:
            self._add(actor, "away", self._length(2, 8), actor.cell, knots=self._outside(actor, actor.cell))
            actor.cell = -1
        else:
            self.taken[actor.cell] = index

    def _length(self, low: float, high: float) -> float:
        """A duration between `low` and `high` seconds at pace 1, in whole half seconds."""
        halves = round(2 * self.pace * low), round(2 * self.pace * high)
        return int(self.rng.integers(halves[0], halves[1] + 1)) / 2

    def _add(
        self,
        actor: _Actor,
        kind: Kind,
        length: float,
        target: int,
        *,
        knots: tuple = (),
        action: int = -1,
        partner: int = -1,
    ) -> None:
        """Append a segment of `length` seconds; `knots` are (part of the time, x, y), by default standing still."""
        start, end = actor.now, actor.now + length
        place = actor.cell if actor.cell >= 0 else target
        if knots:
            timed = tuple((start + part * length, x, y) for part, x, y in knots)
        else:
            timed = (start, *actor.stand(place)), (end, *actor.stand(target))
        actor.segments.append(Segment(kind, start, end, place, target, timed, action, partner))
        actor.now = end

    def _decide(self, index: int, actor: _Actor) -> None:
        if actor.cell < 0:
            return self._enter(index, actor)
        if actor.cell == self.wall:
            return self._move(index, actor)
        if not actor.cycle:
            actor.cycle = [CYCLE[place] for place in self.rng.permutation(len(CYCLE)).tolist()]
        kind = actor.cycle.pop()
        if kind == "act":
            self._add(actor, "act", self._length(2.5, 5), actor.cell, action=actor.action)
            actor.action = action_after(actor.action, actor.goal)
        elif kind == "move":
            self._move(index, actor)
        elif kind == "absent":
            self._leave(index, actor)
        elif not (self.rules.meet and self._meet(index, actor)):
            self._add(actor, "rest", self._length(1.5, 3), actor.cell)

    def _move(self, index: int, actor: _Actor) -> None:
        """Glide to a cell of the row or column; blocked, it stays as it is for a while."""
        target = int(self.rng.choice(rook_cells(actor.cell)))
        if target in self.taken:
            return self._stay_away(actor) if actor.cell == self.wall else self._add(actor, "rest", 1.0, actor.cell)
        self.taken[target] = index
        distance = sum(abs(a - b) for a, b in zip(divmod(actor.cell, 3), divmod(target, 3), strict=True))
        self._add(actor, "move", distance * STEP_SECONDS, target)
        del self.taken[actor.cell]
        actor.cell = target
        if target == self.wall:
            self._add(actor, "hide", self._length(2.5, 5), target)

    def _outside(self, actor: _Actor, cell: int) -> tuple[tuple[float, float, float], ...]:
        """A point outside the frame at one of the sides nearest to the cell, as knots of a thing that waits there."""
        x, y = actor.stand(cell)
        row, column = divmod(cell, 3)
        points = [(-OUTSIDE, y), (1 + OUTSIDE, y), (x, -OUTSIDE), (x, 1 + OUTSIDE)]
        steps = [column, 2 - column, row, 2 - row]  # cells from the left, right, top and bottom side
        nearest = [point for point, distance in zip(points, steps, strict=True) if distance == min(steps)]
        point = nearest[int(self.rng.integers(len(nearest)))]
        return (0, *point), (1, *point)

    def _leave(self, index: int, actor: _Actor) -> None:
        outside = self._outside(actor, actor.cell)
        self._add(actor, "leave", GO_SECONDS, actor.cell, knots=((0, *actor.stand(actor.cell)), outside[1]))
        del self.taken[actor.cell]
        self._add(actor, "away", self._length(3, 6), actor.cell, knots=outside)
        actor.cell = -1

    def _enter(self, index: int, actor: _Actor) -> None:
        target = int(self.rng.integers(9))
        outside = self._outside(actor, target)
        if target == self.wall or target in self.taken:
            return self._stay_away(actor, knots=outside)
        self.taken[target] = index
        self._add(actor, "enter", GO_SECONDS, target, knots=(outside[0], (1, *actor.stand(target))))
        actor.cell = target

    def _stay_away(self, actor: _Actor, *, knots: tuple = ()) -> None:
        """The absence that it is in lasts another second: one absence, not two."""
        last = actor.segments.pop()
        actor.now = last.start
        self._add(actor, last.kind, last.duration + 1.0, last.target, knots=knots)

    def _meet(self, index: int, actor: _Actor) -> bool:
        """Go up to a thing that stands in the next cell and will stay there; False when there is none."""
        length = 3.0
        for other, partner in enumerate(self.actors):
            near = other != index and partner.cell != self.wall and are_neighbours(actor.cell, partner.cell)
            stays = bool(partner.segments) and partner.segments[-1].kind == "act" and partner.now >= actor.now + length
            if near and stays:
                x, y = actor.stand(actor.cell)
                px, py = partner.stand(partner.cell)
                there = (x + MEET_SHIFT * np.sign(round(px - x, 1)), y + MEET_SHIFT * np.sign(round(py - y, 1)))
                knots = ((0, x, y), (1 / 6, *map(float, there)), (5 / 6, *map(float, there)), (1, x, y))
                self._add(actor, "meet", length, actor.cell, knots=knots, partner=other)
                return True
        return False

    def _colours(self) -> list[tuple[_Actor, tuple[tuple[float, int], ...]]]:
        """The colours of each thing over time; nobody ever takes a name that another has or had."""
        names = {(actor.colour, actor.shape) for actor in self.actors}
        result = []
        for actor in self.actors:
            colours: tuple[tuple[float, int], ...] = ((0.0, actor.colour),)
            free = [c for c in range(len(COLOUR_NAMES)) if (c, actor.shape) not in names]
            if self.rng.random() < self.rules.recolour and free:
                colour = int(self.rng.choice(free))
                time = int(self.rng.integers(int(0.6 * self.seconds), int(1.6 * self.seconds))) / 2
                if actor.thing(0, colours).at(time).kind not in UNSEEN:  # a change that nobody sees is none
                    names.add((colour, actor.shape))
                    colours = (*colours, (time, colour))
            result.append((actor, colours))
        return result
