"""Future prediction: AA what a thing does next, GSP the next step or the goal, MP where it goes."""

from __future__ import annotations

from ..scenes import STANDING, Scene, Thing
from ..vocabulary import ACTION_NAMES, DIRECTION_NAMES, GOAL_NAMES, STATIONARY
from .context import Context, seen_acts
from .types import Draft

AHEAD_SECONDS = 1.0
NEXT_STEP = "The goal of {} is '{}'. What is the next step?"
MOVEMENT = "What direction may {} move towards in the next second?"


def other_actions(context: Context, action: int, num: int = 3) -> tuple[str, ...]:
    """Wrong options: any actions but the right one, the present one among them, so that none can be ruled out."""
    return tuple(context.some((name for name in ACTION_NAMES if name != ACTION_NAMES[action]), num))


def next_action(context: Context) -> Draft:
    """Needs the present action and the one before it: together they tell the routine."""
    thing, act = context.pick(context.acting(again=True))
    before = seen_acts(thing, context.time)[-2]
    answer = thing.next_action(act.action)
    return Draft(
        "next_action",
        f"What action is {thing.name(context.time)} likely to do next?",
        ACTION_NAMES[answer],
        other_actions(context, answer),
        ((before.start, before.end), (act.start, context.time)),
    )


def next_step(context: Context) -> Draft:
    """The goal is given: the present step is enough."""
    thing, act = context.pick(context.acting())
    answer = thing.next_action(act.action)
    return Draft(
        "next_step",
        NEXT_STEP.format(thing.name(context.time), GOAL_NAMES[thing.goal]),
        ACTION_NAMES[answer],
        other_actions(context, answer),
        ((max(act.start, context.time - 1), context.time),),
    )


def goal(context: Context) -> Draft:
    thing, act = context.pick(context.acting(again=True))
    before = seen_acts(thing, context.time)[-2]
    return Draft(
        "goal",
        f"Based on its actions, what is the goal of {thing.name(context.time)}?",
        GOAL_NAMES[thing.goal],
        tuple(name for name in GOAL_NAMES if name != GOAL_NAMES[thing.goal]),
        ((before.start, before.end), (act.start, context.time)),
    )


def direction_of(scene: Scene, thing: Thing, time: float) -> str | None:
    """Where a thing has been going for a second and will go for another; "stationary"; None when that changes."""
    segment = thing.at(time)
    if time - segment.start < AHEAD_SECONDS or segment.end - time < AHEAD_SECONDS or scene.passes_wall(segment):
        return None
    if segment.kind in STANDING:
        return STATIONARY
    if segment.kind != "move":
        return None
    x, y = segment.direction
    return DIRECTION_NAMES[(x > 0) if x else 2 + (y > 0)]


def movement(context: Context) -> Draft:
    thing, time, answer = context.one_in(5, direction_of, STATIONARY)
    return Draft(
        "movement",
        MOVEMENT.format(thing.name(time)),
        answer,
        tuple(context.some((name for name in (*DIRECTION_NAMES, STATIONARY) if name != answer), 3)),
        ((time - AHEAD_SECONDS, time),),
        time,
    )
