"""Draws a scene: uint8 frames at any times and any size. Vectorised over frames; the same call gives the same pixels.

T frames, S side of the frame and P side of the window around a thing, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scenes import UNSEEN, WALL_HALF, Look, Scene, Thing
from .vocabulary import ACTION_NAMES, CELL_CENTRES, COLOUR_NAMES, COLOURS, SHAPE_NAMES

Floats = NDArray[np.floating]  # float32 throughout, for speed

SPIN_SPEED = 2.2  # radians a second: a frame every half second shows six different angles
RAMP_SECONDS = 0.25  # an action begins and ends at 0.6 of its strength
GROWTH, STRETCH, FADED, HALO = 1.6, (1.75, 0.62), 0.4, 1.75
REACH = 0.2  # half the window around a thing, as a fraction of the frame: nothing of it lies outside
CHUNK_PIXELS = 2**19
SPIN, GLOW, GROW, STRETCH_ACT, FADE = range(len(ACTION_NAMES))


def render_frames(scene: Scene, times: Sequence[float] | NDArray, size: int = 64) -> NDArray[np.uint8]:
    """Frames (T, size, size, 3) RGB of the scene at `times` in seconds, in any order."""
    if size < 16:
        raise ValueError(f"a frame needs at least 16 pixels a side, got {size}")
    moments = np.asarray(times, dtype=np.float64).reshape(-1)
    if len(moments) and (moments.min() < 0 or moments.max() > scene.seconds):
        got = f"{moments.min():g} to {moments.max():g} s"
        raise ValueError(f"times must lie in the scene's 0 to {scene.seconds:g} s, got {got}")
    frames = np.empty((len(moments), size, size, 3), np.uint8)
    step = max(1, CHUNK_PIXELS // size**2)
    for first in range(0, len(moments), step):
        frames[first : first + step] = _render_chunk(scene, moments[first : first + step], size)
    return frames


def _render_chunk(scene: Scene, times: NDArray, size: int) -> NDArray[np.uint8]:
    """1. Background. 2. Things that go behind the wall. 3. The wall. 4. All other things. 5. Noise."""
    margin = int(2 * REACH * size) + 4
    canvas = np.repeat(_background(scene.look, size, margin)[None], len(times), axis=0)
    states = [States.of(scene, thing, times) for thing in scene.things]
    for state in states:
        _draw(canvas, state, size, margin, np.flatnonzero(state.visible & state.behind))
    if scene.wall >= 0:
        _draw_wall(canvas, scene, size, margin)
    for state in states:
        _draw(canvas, state, size, margin, np.flatnonzero(state.visible & ~state.behind))
    frames = canvas[:, margin : margin + size, margin : margin + size]
    return _add_noise(frames, scene.look, times)


@dataclass(frozen=True)
class States:
    """One thing at T times: all arrays are (T,)."""

    shape: int
    radius: float
    x: NDArray
    y: NDArray
    colour: NDArray
    visible: NDArray
    behind: NDArray
    """Drawn before the wall."""
    action: NDArray
    """Index into ACTION_NAMES, -1 for none."""
    strength: NDArray
    """0 to 1: how far the action is in view."""
    angle: NDArray

    @classmethod
    def of(cls, scene: Scene, thing: Thing, times: NDArray) -> States:
        track = _Knots.of(scene, thing)
        part = np.maximum(0, np.searchsorted(track.starts, times, side="right") - 1)
        action = track.actions[part]
        since, left = times - track.starts[part], track.ends[part] - times
        strength = np.clip(0.6 + 0.4 * np.minimum(since, left) / RAMP_SECONDS, 0, 1) * (action >= 0)
        colour = np.full(len(times), thing.colours[0][1])
        for start, value in thing.colours[1:]:
            colour[times >= start] = value
        x, y = np.interp(times, track.times, track.x), np.interp(times, track.times, track.y)
        angle = SPIN_SPEED * since * (action == SPIN)
        visible, behind = track.visible[part], track.behind[part]
        return cls(thing.shape, thing.radius, x, y, colour, visible, behind, action, strength, angle)


@dataclass(frozen=True)
class _Knots:
    """A thing's track as arrays: (segments,) and, for times, x and y, (knots,)."""

    starts: NDArray
    ends: NDArray
    actions: NDArray
    visible: NDArray
    behind: NDArray
    times: NDArray
    x: NDArray
    y: NDArray

    @classmethod
    def of(cls, scene: Scene, thing: Thing) -> _Knots:
        parts = thing.segments
        knots = np.array([knot for part in parts for knot in part.knots], np.float64)
        return cls(
            np.array([part.start for part in parts]),
            np.array([part.end for part in parts]),
            np.array([part.action for part in parts]),
            np.array([part.kind not in UNSEEN for part in parts]),
            np.array([scene.passes_wall(part) for part in parts]),
            *knots.T,
        )


def _draw(canvas: Floats, state: States, size: int, margin: int, which: NDArray) -> None:
    """Blend the thing into the frames `which` of the padded canvas (T, S + 2 margin, S + 2 margin, 3)."""
    if not len(which):
        return
    pick = _Picked.of(state, which)
    half = int(np.ceil(REACH * size))
    left, top = (np.floor(value * size).astype(int) - half for value in (pick.x, pick.y))
    steps = np.arange(2 * half + 1)
    columns, rows = left[:, None] + steps, top[:, None] + steps  # (T, P)
    u = ((columns + 0.5) / size - pick.x[:, None]).astype(np.float32)[:, None, :]  # (T, 1, P)
    v = ((rows + 0.5) / size - pick.y[:, None]).astype(np.float32)[:, :, None]  # (T, P, 1)
    index = which[:, None, None], rows[:, :, None] + margin, columns[:, None, :] + margin
    canvas[index] = _paint(canvas[index], pick, u, v, size)


@dataclass(frozen=True)
class _Picked:
    """The states of the frames a thing is drawn in."""

    shape: int
    x: NDArray
    y: NDArray
    colour: Floats  # (T, 3)
    width: NDArray
    height: NDArray
    cover: NDArray
    halo: NDArray
    orbit: NDArray
    angle: NDArray

    @classmethod
    def of(cls, state: States, which: NDArray) -> _Picked:
        action, strength = state.action[which], state.strength[which]
        amount = [strength * (action == kind) for kind in range(len(ACTION_NAMES))]
        grown = state.radius * (1 + (GROWTH - 1) * amount[GROW])
        palette = np.array([COLOURS[name] for name in COLOUR_NAMES], np.float32)
        return cls(
            state.shape, state.x[which], state.y[which], palette[state.colour[which]],
            grown * (1 + (STRETCH[0] - 1) * amount[STRETCH_ACT]),
            grown * (1 + (STRETCH[1] - 1) * amount[STRETCH_ACT]),
            1 - (1 - FADED) * amount[FADE], amount[GLOW], amount[SPIN], state.angle[which],
        )  # fmt: skip


def _paint(under: Floats, pick: _Picked, u: Floats, v: Floats, size: int) -> Floats:
    """The window (T, P, P, 3) with halo, shape, dark rim and the dot that circles a spinning thing."""

    def column(values: NDArray) -> Floats:
        return values.astype(np.float32)[:, None, None]

    rotate = bool(pick.angle.any())
    a, b = u, v
    if rotate:
        cosine, sine = np.cos(column(pick.angle)), np.sin(column(pick.angle))
        a, b = u * cosine + v * sine, v * cosine - u * sine
    width, height = column(pick.width), column(pick.height)
    distance = shape_distance(pick.shape, a / width, b / height) * np.minimum(width, height) * size  # pixels
    inside = np.clip(0.5 - distance, 0, 1) * column(pick.cover)
    rim = 0.62 + 0.38 * np.clip(-distance / max(1.0, size / 72) + 0.3, 0, 1)
    if pick.halo.any():
        glow = np.clip(1.35 - np.hypot(u, v) / (width * HALO / 1.35), 0, 0.75) * column(pick.halo)
        under = under + glow[..., None] * (np.array([255, 250, 205], np.float32) - under)
    painted = under + inside[..., None] * (pick.colour[:, None, None] * rim[..., None] - under)
    if pick.orbit.any():
        dot_x, dot_y = 1.35 * width * np.cos(column(2 * pick.angle)), 1.35 * width * np.sin(column(2 * pick.angle))
        dot = np.clip(0.5 - (np.hypot(u - dot_x, v - dot_y) - 0.32 * width) * size, 0, 1) * column(pick.orbit)
        painted = painted + dot[..., None] * (255 - painted)
    return painted


def shape_distance(shape: int, u: Floats, v: Floats) -> Floats:
    """Signed distance to the border of a shape of radius 1 around (0, 0), negative inside."""
    name = SHAPE_NAMES[shape]
    if name == "circle":
        return np.hypot(u, v) - 0.95
    if name == "ring":
        return np.abs(np.hypot(u, v) - 0.74) - 0.26
    u, v = np.broadcast_arrays(np.abs(u) if name != "triangle" else u, v)
    if name == "square":
        return np.maximum(u, np.abs(v)) - 0.84
    if name == "cross":
        w = np.abs(v)
        return np.minimum(np.maximum(u - 0.36, w - 1.0), np.maximum(u - 1.0, w - 0.36))
    return np.maximum(np.abs(u) * 0.894 - v * 0.447 - 0.447, v - 0.8)  # triangle, tip up


def _draw_wall(canvas: Floats, scene: Scene, size: int, margin: int) -> None:
    x, y = CELL_CENTRES[scene.wall % 3], CELL_CENTRES[scene.wall // 3]
    first_x, first_y = (margin + round((value - WALL_HALF) * size) for value in (x, y))
    side = round(2 * WALL_HALF * size)
    rows = np.arange(side)
    planks = 118 + 16 * ((rows * 4 // side) % 2) - 40 * (rows * 4 % side < 4)
    wall = planks[:, None, None] * np.array([1.0, 0.86, 0.7], np.float32)
    canvas[:, first_y : first_y + side, first_x : first_x + side] = wall


@lru_cache(maxsize=64)
def _background(look: Look, size: int, margin: int) -> Floats:
    """(S + 2 margin, S + 2 margin, 3): a dark tint with soft blotches; the same blotches at every size."""
    rng = np.random.default_rng(look.seed)
    blotches = rng.uniform(-1, 1, size=(9, 9)).astype(np.float32)
    soft = np.asarray(Image.fromarray(blotches).resize((size, size), Image.Resampling.BICUBIC))
    slope = np.linspace(-0.6, 0.6, size, dtype=np.float32) * rng.uniform(-1, 1)
    pattern = np.pad(look.texture * (soft + slope[:, None]), margin)
    return np.clip(pattern[..., None] + np.array(look.tint, np.float32), 8, 120)


@lru_cache(maxsize=16)
def _noise(size: int) -> Floats:
    """(2S, 2S, 3) normal noise of which each frame takes a part."""
    return np.random.default_rng(size).standard_normal((2 * size, 2 * size, 3), dtype=np.float32)


def _add_noise(frames: Floats, look: Look, times: NDArray) -> NDArray[np.uint8]:
    """Noise depends on the scene and the frame's own time alone, not on the frames asked for with it."""
    size = frames.shape[1]
    plane = _noise(size)
    result = np.empty(frames.shape, np.uint8)
    moments = np.round(times * 1000).astype(int)
    shifts = [(moment + look.seed) * 2654435761 % 2**32 for moment in moments.tolist()]  # a hash, evenly spread
    for frame, shift, out in zip(frames, shifts, result, strict=True):
        x, y = shift % size, shift // 65536 % size
        np.clip(frame + look.noise * plane[y : y + size, x : x + size], 0, 255, out=frame)
        out[...] = frame
    return result
