"""Spatial and spatio-temporal perception: AL and OP where things are now, AT and OT along which way they came."""

from __future__ import annotations

from itertools import pairwise

from ..scenes import STANDING, Scene, Thing
from ..simulate import rook_cells
from ..vocabulary import ACTION_NAMES, NUM_ACTIONS, REGION_NAMES, RELATION_NAMES, box_text, duration, relation
from .context import Context, NothingToAsk, at_rest, needed, seen_acts
from .future import other_actions
from .past import other_boxes, other_regions
from .types import Draft

APART_SECONDS = 4.0
DISTANCES = ("closer", "farther", "unchanged")


def where_action(context: Context) -> Draft:
    thing, action = _only_performer(context)
    place = thing.at(context.time).place
    text = f"Where is the object performing the {ACTION_NAMES[action]}?"
    return Draft("where_action", text, REGION_NAMES[place], _regions_now(context, thing), _now(context, thing))


def box_action(context: Context) -> Draft:
    thing, action = _only_performer(context)
    place = thing.at(context.time).place
    text = f"Where is the object performing the {ACTION_NAMES[action]} located in the picture?"
    wrong = other_boxes(context, thing, place)
    return Draft("box_action", text, box_text(thing.box(place)), wrong, _now(context, thing))


def _only_performer(context: Context) -> tuple[Thing, int]:
    """A thing in full view with an action that nothing else performs now."""
    now = [thing.at(context.time).action for thing in context.scene.things]
    return context.pick((thing, act.action) for thing, act in context.acting() if now.count(act.action) == 1)


def _regions_now(context: Context, thing: Thing) -> tuple[str, ...]:
    """Wrong regions: where other things stand, then any."""
    others = [other.at(context.time).place for other in context.visible() if other is not thing]
    return other_regions(context, thing.at(context.time).place, tuple(context.some(others, 2)))


def _now(context: Context, *things: Thing) -> tuple[tuple[float, float], ...]:
    start = max(thing.at(context.time).start for thing in things)
    return ((max(start, context.time - 1), context.time),)


def what_action(context: Context) -> Draft:
    thing, act = context.pick(context.acting())
    text = f"What action is the object at the {REGION_NAMES[act.place]} performing?"
    wrong = other_actions(context, act.action)
    return Draft("what_action", text, ACTION_NAMES[act.action], wrong, _now(context, thing))


def where_object(context: Context) -> Draft:
    thing = context.pick(context.visible())
    answer = REGION_NAMES[thing.at(context.time).place]
    text = f"Where is {thing.name(context.time)} on the screen?"
    return Draft("where_object", text, answer, _regions_now(context, thing), _now(context, thing))


def relative_position(context: Context) -> Draft:
    pair = context.some(context.visible(), 2)
    if len(pair) < 2:
        raise NothingToAsk
    thing, reference = pair
    answer = relation(thing.at(context.time).place, reference.at(context.time).place)
    wrong = tuple(context.some((name for name in RELATION_NAMES if name != answer), 3))
    text = f"Where is {thing.name(context.time)} with respect to {reference.name(context.time)}?"
    return Draft("relative_position", text, answer, wrong, _now(context, thing, reference))


def action_trajectory(context: Context) -> Draft:
    """Two actions with one move between them. Wrong options change the first action, the first place, or both: what
    is to be seen now does not give the answer away."""
    rows = [(thing, seen_acts(thing, context.time)[-2:]) for thing in context.scene.things]
    moved = [row for row in rows if len(row[1]) == 2 and row[1][0].place in rook_cells(row[1][1].place)]
    thing, (first, second) = context.pick(moved)
    other_action = context.some(set(range(NUM_ACTIONS)) - {first.action, second.action}, 1)[0]
    other_place = context.some(set(rook_cells(second.place)) - {first.place}, 1)[0]
    end = f"{ACTION_NAMES[second.action]} {REGION_NAMES[second.place]}"
    options = [
        f"{ACTION_NAMES[action]} {REGION_NAMES[place]} -> {end}"
        for action in (first.action, other_action)
        for place in (first.place, other_place)
    ]
    text = f"What are the last two actions of {thing.name(context.time)} and where did it perform them?"
    evidence = ((first.start, first.end), (second.start, min(second.end, context.time)))
    return Draft("action_trajectory", text, options[0], tuple(options[1:]), evidence)


def places_between(scene: Scene, thing: Thing, begin: float, end: float) -> list[int] | None:
    """Cells a thing stood at from `begin` to `end`, in order; None unless it stayed in view and stopped at each."""
    parts = [part for part in thing.segments if part.end > begin and part.start <= end]
    if any(part.kind not in (*STANDING, "move") or scene.passes_wall(part) for part in parts):
        return None
    if any(before.kind == after.kind == "move" for before, after in pairwise(parts)):
        return None
    return [parts[0].place, *(part.target for part in parts if part.kind == "move")]


def object_trajectory(context: Context) -> Draft:
    """All options end where the thing is now."""
    gap, thing = context.gap(), context.pick(context.visible())
    if not at_rest(context.scene, thing, context.time - gap):
        raise NothingToAsk
    path = needed(places_between(context.scene, thing, context.time - gap, context.time))
    if not 2 <= len(path) <= 3:
        raise NothingToAsk
    ways = [[cell, path[-1]] for cell in rook_cells(path[-1])]
    if len(path) == 3:
        ways = [[cell, *way] for way in ways for cell in rook_cells(way[0])]
    words = [" -> ".join(REGION_NAMES[cell] for cell in way) for way in (path, *ways)]
    wrong = tuple(context.some((way for way in words if way != words[0]), 3))
    text = f"What was the trajectory of {thing.name(context.time)} in the last {duration(gap)}?"
    return Draft("object_trajectory", text, words[0], wrong, ((context.time - gap, context.time),))


def distance_change(scene: Scene, thing: Thing, time: float) -> str | None:
    """Whether a thing and the next one are closer than some seconds ago; None unless all is clear."""
    other = scene.things[(thing.index + 1) % len(scene.things)]
    then = time - APART_SECONDS
    if other is thing or not all(scene.standing(one, moment) for one in (thing, other) for moment in (then, time)):
        return None
    before, now = (_distance(thing.position(moment), other.position(moment)) for moment in (then, time))
    if abs(now - before) < 0.02:
        return "unchanged"
    return None if abs(now - before) < 0.1 else "closer" if now < before else "farther"


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5


def closer_or_farther(context: Context) -> Draft:
    thing, time, answer = context.one_in(3, distance_change, "unchanged")
    other = context.scene.things[(thing.index + 1) % len(context.scene.things)]
    names = context.some((thing.name(time), other.name(time)), 2)
    text = f"Compared with {duration(APART_SECONDS)} ago, are {names[0]} and {names[1]} closer or farther apart?"
    wrong = tuple(word for word in DISTANCES if word != answer)
    return Draft("closer_or_farther", text, answer, wrong, ((time - APART_SECONDS, time),), time)
