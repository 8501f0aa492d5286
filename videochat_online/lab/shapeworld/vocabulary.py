"""The words of ShapeWorld: colours, shapes, actions, goals, regions, and how times and boxes are written.

Small and regular on purpose: one word per thing, absolute times exactly as in the prompt's frame lines ("12.0s").
Positions are fractions of the frame, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Sequence

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (228, 48, 44),
    "green": (44, 186, 72),
    "blue": (54, 92, 242),
    "yellow": (246, 214, 48),
    "purple": (178, 66, 218),
    "cyan": (66, 218, 226),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
SHAPE_NAMES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "ring")
ACTION_NAMES: tuple[str, ...] = ("spin", "glow", "grow", "stretch", "fade")
"""What an object does in place; each one shows in a single frame."""
NUM_ACTIONS = len(ACTION_NAMES)
GOAL_NAMES: tuple[str, ...] = ("make tea", "wash car", "plant tree", "fix bike")
"""Goal g is the routine in which each action is followed by the one g + 1 places further in ACTION_NAMES, round and
round. With five actions every ordered pair of different actions belongs to exactly one goal."""
REGION_NAMES: tuple[str, ...] = (
    "left-top", "top", "right-top", "left-middle", "center", "right-middle", "left-bottom", "bottom", "right-bottom",
)  # fmt: skip
"""OVBench's words for the cells of a 3x3 grid, row by row; a cell's number is its place in this tuple."""
DIRECTION_NAMES: tuple[str, ...] = ("left", "right", "up", "down")
STATIONARY = "stationary"

CELL_CENTRES: tuple[float, float, float] = (0.2, 0.5, 0.8)
"""Where objects stand in a row or column: clear of the cell borders at 1/3 and 2/3."""


def action_after(action: int, goal: int) -> int:
    """The action that follows `action` in the routine of `goal`."""
    return (action + goal + 1) % NUM_ACTIONS


def goal_of(action: int, following: int) -> int:
    """The one goal in which `following` comes right after `action`."""
    if action == following:
        raise ValueError(f"no routine repeats an action, got {ACTION_NAMES[action]} twice")
    return (following - action) % NUM_ACTIONS - 1


def region_at(x: float, y: float) -> int:
    """Cell of the 3x3 grid that holds the point; points outside the frame count for the nearest cell."""
    column, row = (min(2, max(0, int(value * 3))) for value in (x, y))
    return 3 * row + column


def cell_centre(cell: int) -> tuple[float, float]:
    """(x, y) at which an object without offset stands in a cell."""
    return CELL_CENTRES[cell % 3], CELL_CENTRES[cell // 3]


def relation(cell: int, reference: int) -> str:
    """Where `cell` lies as seen from `reference`: "left", "right-top", ...; the two must differ."""
    if cell == reference:
        raise ValueError(f"a cell has no direction to itself, got {REGION_NAMES[cell]} twice")
    horizontal = ("left", "", "right")[(cell % 3 > reference % 3) - (cell % 3 < reference % 3) + 1]
    vertical = ("top", "", "bottom")[(cell // 3 > reference // 3) - (cell // 3 < reference // 3) + 1]
    return "-".join(word for word in (horizontal, vertical) if word)


RELATION_NAMES: tuple[str, ...] = tuple(relation(cell, 4) for cell in range(9) if cell != 4)


def name_of(colour: int, shape: int) -> str:
    """ "red circle" """
    return f"{COLOUR_NAMES[colour]} {SHAPE_NAMES[shape]}"


def clock(seconds: float) -> str:
    """A moment of the stream, written as in the frame lines of the prompt: "12.0s"."""
    return f"{seconds:.1f}s"


def duration(seconds: float) -> str:
    """A length of time in words: "1 second", "8 seconds", "2.5 seconds"."""
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def box_text(box: Sequence[float]) -> str:
    """x1, y1, x2, y2 with one decimal, kept inside the frame: "[0.1, 0.4, 0.3, 0.6]"."""
    return "[" + ", ".join(f"{min(1.0, max(0.0, value)):.1f}" for value in box) + "]"
