"""Rows with standing instructions about scenes: six kinds, each with the exact moments at which it is to be told.

A moment has its onset (from when on one could tell) and the second from which it is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from .scenes import Scene, Segment, Thing
from .vocabulary import ACTION_NAMES, NUM_ACTIONS, REGION_NAMES

Moments = list[tuple[float, float]]
Asked = tuple[str, str, str, Moments, Callable[[float], bool | None]]
"""What is to be told, the question that decides, the answer that means now, the moments, and whether it holds."""
STEP = 0.25
ACT_SECONDS, TOUCH_SECONDS = 1.0, 0.5
EMPTY_SHARE = 0.25
"""Instructions whose moment does not come."""


def appears(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    name = thing.name(0).removeprefix("the ")
    moments = [(s.start, s.end) for s in thing.segments if s.kind == "enter"]
    here = partial(scene.presence, thing)
    yield f"Tell me when the {name} appears.", f"Is there a {name} in the picture?", "Yes", moments, here


def leaves(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    name = thing.name(0).removeprefix("the ")
    moments = [(s.start, s.end) for s in thing.segments if s.kind == "leave"]

    def gone(time: float) -> bool:
        return scene.presence(thing, time) is False

    yield f"Tell me when the {name} leaves.", f"Is there a {name} in the picture?", "No", moments, gone


def acts(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    for action in rng.permutation(NUM_ACTIONS).tolist():
        what = f"{thing.name(0)} performs the {ACTION_NAMES[action]}"
        moments = [(s.start, s.start + ACT_SECONDS) for s in thing.acts if s.action == action]
        question = f"Is {thing.name(0)} performing the {ACTION_NAMES[action]}?"
        yield f"Tell me when {what}.", question, "Yes", moments, partial(_does, thing, action)


def stands_at(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    for cell in rng.permutation(len(REGION_NAMES)).tolist():
        moments = [(s.start, s.end) for s in thing.segments if s.kind in ("move", "enter") and s.target == cell]
        if scene.presence(thing, 0.0) and thing.at(0.0).place == thing.at(0.0).target == cell:
            moments.insert(0, (0.0, 0.0))  # it is there when the instruction is given
        there = f"{thing.name(0)} at the {REGION_NAMES[cell]}"
        stands = partial(_stands, scene, thing, cell)
        yield f"Tell me when {there.replace(' at ', ' is at ')}.", f"Is {there}?", "Yes", moments, stands


def are_n(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    for number in rng.permutation(len(scene.things) + 1).tolist():
        before, onset = scene.count(0.0), 0.0
        moments = [(0.0, 0.0)] if before == number else []
        for time in np.arange(0, scene.seconds, STEP).tolist():
            now = scene.count(time)
            if now == number != before and before is not None and time:
                moments.append((onset, time))
            if now is not None:
                before, onset = now, time
        text = f"there are {number} objects" if number != 1 else "there is 1 object"
        question = f"Are there still {number} objects in the current frame now?"
        yield f"Tell me when {text} in the picture.", question, "Yes", moments, partial(_counts, scene, number)


def touches(scene: Scene, thing: Thing, rng: np.random.Generator) -> Iterator[Asked]:
    for other in scene.things:
        meets = [s for s in thing.segments if s.kind == "meet" and s.partner == other.index]
        if other is not thing and (meets or scene.level == 4):
            moments = [(s.start, s.start + TOUCH_SECONDS) for s in meets]
            names = thing.name(0), other.name(0)
            text, question = f"Tell me when {names[0]} touches {names[1]}.", f"Does {names[0]} meet {names[1]}?"
            yield text, question, "Yes", moments, partial(_meets, meets)


def _does(thing: Thing, action: int, time: float) -> bool:
    return thing.at(time).action == action


def _stands(scene: Scene, thing: Thing, cell: int, time: float) -> bool:
    return thing.at(time).place == thing.at(time).target == cell and bool(scene.presence(thing, time))


def _counts(scene: Scene, number: int, time: float) -> bool:
    return scene.count(time) == number


def _meets(meets: Sequence[Segment], time: float) -> bool:
    return any(segment.start <= time < segment.end for segment in meets)


KINDS = {
    "appears": appears,
    "leaves": leaves,
    "acts": acts,
    "is_at": stands_at,
    "are_n": are_n,
    "touches": touches,
}


def spans(scene: Scene, holds: Callable[[float], bool | None]) -> Moments:
    """Seconds in which something holds, to a STEP."""
    found: Moments = []
    for time in np.arange(0, scene.seconds, STEP).tolist():
        if holds(time):
            start = found.pop()[0] if found and found[-1][1] == time else time
            found.append((start, time + STEP))
    return found


def standing_rows(scene: Scene, video: str, rng: np.random.Generator, *, every: bool = False) -> list[dict[str, Any]]:
    """At most one row of each kind: mostly of something that happens, sometimes of what does not. With `every`, all.

    Things that change their colour or hide are left out: when they appear is a matter of words.
    """
    things = [t for t in scene.things if len(t.colours) == 1 and all(s.kind != "hide" for s in t.segments)]
    rows = []
    for name, kind in KINDS.items() if things else ():
        asked = [one for place in rng.permutation(len(things)) for one in kind(scene, things[place], rng)]
        asked = list({one[0]: one for one in asked}.values())
        asked = [
            (*one[:3], [(a, min(b, scene.seconds)) for a, b in one[3] if a < scene.seconds], one[4]) for one in asked
        ]
        wants_none = bool(rng.random() < EMPTY_SHARE)
        found = [one for one in asked if (not one[3]) == wants_none] or asked
        for text, question, expect, moments, holds in asked if every else found[:1]:
            events = [{"start": start, "time": time, "say": "Yes"} for start, time in moments]
            standing = {"text": text, "question": question, "expect": expect, "from": 0.0, "events": events}
            standing["holds"] = spans(scene, holds)
            rows.append({"video": video, "kind": name, "things": len(scene.things), "standing": standing})
    return rows
