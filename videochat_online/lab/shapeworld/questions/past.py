"""Past memory: AR which action was performed, PR how the procedure went, TR where a thing was."""

from __future__ import annotations

from ..scenes import Scene, Segment, Thing
from ..vocabulary import ACTION_NAMES, GOAL_NAMES, REGION_NAMES, box_text, clock, duration
from .context import Context, NothingToAsk, at_rest, current_act, needed, seen_acts
from .future import other_actions
from .hallucination import yes_or_no
from .types import Draft

OVER_SECONDS = 2.5
"""An action must have ended this long ago to count as past."""


def past_action(context: Context) -> Draft:
    gap = context.gap()
    moment = context.time - gap
    thing, act = context.pick(
        (thing, act)
        for thing in context.scene.things
        if at_rest(context.scene, thing, moment)
        and (act := current_act(thing, moment + 0.5)) is not None
        and act.end <= context.time - OVER_SECONDS
    )
    text = f"What action was {thing.name(context.time)} performing {duration(gap)} ago (at {clock(moment)})?"
    evidence = ((max(act.start, moment - 0.5), min(act.end, moment + 0.5)),)
    return Draft("past_action", text, ACTION_NAMES[act.action], other_actions(context, act.action), evidence)


def last_acts(thing: Thing, time: float) -> list[Segment]:
    """The latest performance of each action seen so far."""
    return list({act.action: act for act in seen_acts(thing, time)}.values())


def past_place(context: Context) -> Draft:
    thing, act = context.pick(
        (thing, act)
        for thing in context.scene.things
        for act in last_acts(thing, context.time)
        if act.end <= context.time - OVER_SECONDS
    )
    text = f"Where was {thing.name(context.time)} when it last performed the {ACTION_NAMES[act.action]}?"
    wrong = other_regions(context, act.place)
    return Draft("past_place", text, REGION_NAMES[act.place], wrong, ((act.start, act.end),))


def other_regions(context: Context, cell: int, first: tuple[int, ...] = ()) -> tuple[str, ...]:
    """Three wrong regions: those of `first`, then any."""
    cells = [*first, *context.some(range(9), 9)]
    return tuple(REGION_NAMES[other] for other in dict.fromkeys(cells) if other != cell)[:3]


def first_action(context: Context) -> Draft:
    choice = context.pick(
        thing for thing in context.scene.things if thing.acts and thing.acts[0].end <= context.time - OVER_SECONDS
    )
    act = choice.acts[0]
    text = f"What was the first action {choice.name(context.time)} performed?"
    wrong = other_actions(context, act.action)
    return Draft("first_action", text, ACTION_NAMES[act.action], wrong, ((act.start, act.end),))


def not_performed(context: Context) -> Draft:
    gap, thing = context.gap(), context.pick(context.scene.things)
    begin, now = context.time - gap, context.time
    shared = [(act.action, min(act.end, now) - max(act.start, begin)) for act in thing.acts]
    performed = {action for action, seconds in shared if seconds > 0}
    if not 3 <= len(performed) <= 4 or any(0 < seconds < 1 for _, seconds in shared):
        raise NothingToAsk
    answer = context.some(set(range(len(ACTION_NAMES))) - performed, 1)[0]
    wrong = tuple(ACTION_NAMES[action] for action in context.some(performed, 3))
    text = f"Which action did {thing.name(now)} not perform in the last {duration(gap)}?"
    return Draft("not_performed", text, ACTION_NAMES[answer], wrong, ((begin, now),))


def _done(context: Context, *, idle: bool) -> tuple[Thing, Segment, Segment]:
    """A thing with its last two actions; with `idle`, one that is not acting now."""
    things = (thing for thing in context.scene.things if len(seen_acts(thing, context.time)) > 1)
    thing = context.pick(thing for thing in things if not idle or thing.at(context.time).kind != "act")
    first, second = seen_acts(thing, context.time)[-2:]
    return thing, first, second


def past_goal(context: Context) -> Draft:
    thing, first, second = _done(context, idle=True)
    wrong = tuple(name for name in GOAL_NAMES if name != GOAL_NAMES[thing.goal])
    text = f"What goal was {thing.name(context.time)} working on?"
    return Draft("past_goal", text, GOAL_NAMES[thing.goal], wrong, _spans(context, first, second))


def followed(context: Context) -> Draft:
    thing, first, second = _done(context, idle=False)
    truth = context.truth("followed")
    claimed = thing.goal if truth else context.some(set(range(len(GOAL_NAMES))) - {thing.goal}, 1)[0]
    answer, wrong = yes_or_no(truth)
    text = f"Did {thing.name(context.time)} follow the procedure of '{GOAL_NAMES[claimed]}'?"
    return Draft("followed", text, answer, wrong, _spans(context, first, second))


def _spans(context: Context, *acts: Segment) -> tuple[tuple[float, float], ...]:
    return tuple((act.start, min(act.end, context.time)) for act in acts)


def _moved_since(context: Context) -> tuple[Thing, int, float, str]:
    """A thing that stood somewhere else some seconds ago: thing, cell, moment, "8 seconds ago (at 12.0s)"."""
    gap = context.gap()
    moment = context.time - gap
    thing = context.pick(
        thing
        for thing in context.scene.things
        if at_rest(context.scene, thing, moment) and _has_left(thing, thing.at(moment).place, context.time)
    )
    return thing, thing.at(moment).place, moment, f"{duration(gap)} ago (at {clock(moment)})"


def _has_left(thing: Thing, cell: int, time: float) -> bool:
    segment = thing.at(time)
    return segment.place != cell or segment.kind in ("away", "hide")


def past_region(context: Context) -> Draft:
    thing, cell, moment, ago = _moved_since(context)
    text = f"Where was {thing.name(context.time)} {ago}?"
    evidence = ((max(0.0, moment - 0.5), moment + 0.5),)
    return Draft("past_region", text, REGION_NAMES[cell], other_regions(context, cell), evidence)


def past_box(context: Context) -> Draft:
    thing, cell, moment, ago = _moved_since(context)
    text = f"Where was {thing.name(context.time)} located in the picture {ago}?"
    evidence = ((max(0.0, moment - 0.5), moment + 0.5),)
    return Draft("past_box", text, box_text(thing.box(cell)), other_boxes(context, thing, cell), evidence)


def other_boxes(context: Context, thing: Thing, cell: int) -> tuple[str, ...]:
    """The thing's box at three other cells: at least 0.2 away."""
    return tuple(box_text(thing.box(other)) for other in context.some(set(range(9)) - {cell}, 3))


def first_seen(thing: Thing) -> tuple[float, int]:
    """When and at which cell a thing appeared."""
    first = thing.segments[0]
    return (0.0, first.place) if first.kind != "away" else (first.end, thing.segments[1].target)


def first_appearance(context: Context) -> Draft:
    """Of a thing that was not there from the start: two times crossed with two places."""

    def ask(scene: Scene, thing: Thing) -> tuple[float, int] | None:
        begin, cell = first_seen(thing)
        return (begin, cell) if 0 < begin <= context.time - OVER_SECONDS else None

    thing = context.pick(context.scene.things)
    begin, cell = answer = needed(ask(context.scene, thing))
    other = context.spread(answer, ask, 1, lambda value: value[0], 2)
    cells = cell, context.some(set(range(9)) - {cell}, 1)[0]
    options = [f"at {clock(time)}, {REGION_NAMES[place]}" for time in (begin, other[0][0]) for place in cells]
    text = f"When and where did {thing.name(context.time)} first appear?"
    return Draft("first_appearance", text, options[0], tuple(options[1:]), ((begin, begin + 2),))
