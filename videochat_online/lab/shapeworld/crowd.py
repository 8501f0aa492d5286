"""Crowds: scenes in which nearly every cell holds a thing that acts or rests. No stream looks so; a vision encoder
learns from them what the things look like, several times more of them a picture."""

from __future__ import annotations

import numpy as np

from .scenes import Kind, Look, Scene, Segment, Thing, standing_point
from .simulate import LEVELS
from .vocabulary import COLOUR_NAMES, NUM_ACTIONS, SHAPE_NAMES

CROWD_SECONDS = 5.0
FILLED = 0.8
"""Chance that a cell holds a thing."""
SHIFT = 0.08
"""How far a thing may stand from its cell's centre along each axis: they touch, but none hides another."""


def sample_crowd(rng: np.random.Generator, level: int) -> Scene:
    """A scene of CROWD_SECONDS with one thing in most cells, each with its own action, as noisy as `level` is."""
    rules = LEVELS[level]
    cells = [cell for cell in range(9) if rng.random() < FILLED] or [4]
    tint = tuple(int(value) for value in rng.integers(34, 72, size=3))
    look = Look(int(rng.integers(2**31)), (tint[0], tint[1], tint[2]), rules.texture, rules.noise)
    things = tuple(_standing(index, cell, rng) for index, cell in enumerate(cells))
    return Scene("crowd", "train", 0, level, CROWD_SECONDS, 1.0, things, -1, look)


def _standing(index: int, cell: int, rng: np.random.Generator) -> Thing:
    """A thing that does one thing throughout; in one case of six it rests."""
    dx, dy = (float(value) for value in rng.uniform(-SHIFT, SHIFT, size=2))
    action = int(rng.integers(-1, NUM_ACTIONS))
    kind: Kind = "rest" if action < 0 else "act"
    x, y = standing_point(cell, (dx, dy))
    knots = ((0.0, x, y), (CROWD_SECONDS + 1, x, y))
    segment = Segment(kind, 0.0, CROWD_SECONDS + 1, cell, cell, knots, action)
    colours = ((0.0, int(rng.integers(len(COLOUR_NAMES)))),)
    radius = float(rng.uniform(0.09, 0.11))
    return Thing(index, int(rng.integers(len(SHAPE_NAMES))), radius, 0, (dx, dy), colours, (segment,))
