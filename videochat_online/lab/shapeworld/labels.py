"""Dense labels and captions of single frames, to warm up a vision encoder: what is where, exactly.

G is the side of the label grid; id 0 means background in every map of ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scenes import Scene, Thing
from .vocabulary import ACTION_NAMES, REGION_NAMES, region_at


@dataclass(frozen=True)
class DenseLabels:
    """Maps of one frame, (G, G) each; offsets (G, G, 2)."""

    shape: NDArray[np.int64]
    """0 background, else 1 + index into SHAPE_NAMES."""
    colour: NDArray[np.int64]
    """0 background, else 1 + index into COLOUR_NAMES."""
    action: NDArray[np.int64]
    """0 no action, else 1 + index into ACTION_NAMES."""
    offsets: NDArray[np.float32]
    """From the cell's centre to the thing's centre, (x, y) as fractions of the frame; 0 for background."""


def visible_things(scene: Scene, time: float) -> list[Thing]:
    """Things whose centre is in the frame and not behind the wall, in the order they are drawn."""
    found = []
    for thing in scene.things:
        x, y = thing.position(time)
        if scene.presence(thing, time) is not False and 0 <= x <= 1 and 0 <= y <= 1:
            hidden = scene.passes_wall(thing.at(time)) and scene.behind_wall(x, y)
            found += [] if hidden else [thing]
    return found


def dense_labels(scene: Scene, time: float, grid: int) -> DenseLabels:
    """A cell belongs to the foremost thing whose radius covers the cell's centre, or whose centre lies in the cell."""
    shape, colour, action = (np.zeros((grid, grid), np.int64) for _ in range(3))
    offsets = np.zeros((grid, grid, 2), np.float32)
    centres = (np.arange(grid) + 0.5) / grid
    for thing in visible_things(scene, time):
        x, y = thing.position(time)
        dx, dy = x - centres[None, :], y - centres[:, None]  # (1, G), (G, 1)
        covered = (dx**2 + dy**2 <= thing.radius**2) | (np.maximum(abs(dx), abs(dy)) <= 0.5 / grid)
        shape[covered] = 1 + thing.shape
        colour[covered] = 1 + thing.colour(time)
        action[covered] = 1 + thing.at(time).action
        offsets[covered] = np.stack(np.broadcast_arrays(dx, dy), axis=-1)[covered]
    return DenseLabels(shape, colour, action, offsets)


def caption(scene: Scene, time: float) -> str:
    """ "The red circle at the top performs the spin. The blue ring is at the center." Row by row, or "Nothing." """
    things = sorted(visible_things(scene, time), key=lambda thing: region_at(*thing.position(time)))
    sentences = [_sentence(thing, time) for thing in things]
    return " ".join(sentences) or "Nothing."


def _sentence(thing: Thing, time: float) -> str:
    name, segment = thing.name(time).capitalize(), thing.at(time)
    region = REGION_NAMES[region_at(*thing.position(time))]
    if segment.kind == "act":
        return f"{name} at the {region} performs the {ACTION_NAMES[segment.action]}."
    return f"{name} is at the {region}."
