"""Simple questions for the first part of a curriculum: about one frame, one event, one thing's past, or the routines
alone, which no picture shows. Answers are one or a few words.
"""

from __future__ import annotations

from collections.abc import Callable

from ..scenes import Event, Scene, Thing
from ..vocabulary import (
    ACTION_NAMES,
    COLOUR_NAMES,
    DIRECTION_NAMES,
    GOAL_NAMES,
    NUM_ACTIONS,
    REGION_NAMES,
    SHAPE_NAMES,
    action_after,
    box_text,
    clock,
    goal_of,
    name_of,
)
from .context import Context, NothingToAsk, needed, seen_acts
from .future import NEXT_STEP, direction_of, other_actions
from .hallucination import strange_name, yes_or_no
from .past import other_boxes, other_regions
from .types import Draft

NOTHING, MOVING, OUT_OF_SIGHT = "nothing", "moving", "out of sight"
DOING = "What was {} doing at {}?"
DIRECTION = "In which direction does {} move?"
MOST_LISTED = 4
"""Actions that `history` names."""


def _now(context: Context) -> tuple[tuple[float, float], ...]:
    return ((context.time, context.time),)


def bare_name(thing: Thing, time: float) -> str:
    """ "red circle" """
    return thing.name(time).removeprefix("the ")


def presence(context: Context) -> Draft:
    there = [thing for thing in context.scene.things if context.scene.presence(thing, context.time)]
    if not there or context.scene.count(context.time) is None:
        raise NothingToAsk
    truth = context.truth("presence")
    asked = context.some(there, 1)[0]
    name = bare_name(asked, context.time) if truth else _false_name(context, asked)
    return Draft("presence", f"Is there a {name} in the picture?", *yes_or_no(truth), _now(context))


def _false_name(context: Context, thing: Thing) -> str:
    """A strange name; half of the time one that shares the colour or the shape with a thing that is there."""
    half = context.rng.random()
    colour, shape = thing.colour(context.time), thing.shape
    alike = [(c, shape) for c in range(len(COLOUR_NAMES))]
    names = [(colour, s) for s in range(len(SHAPE_NAMES))] if half < 0.25 else alike
    taken = {(c, other.shape) for other in context.scene.things for _, c in other.colours}
    free = [name_of(*name) for name in names if name not in taken]
    return context.some(free, 1)[0] if free and half < 0.5 else strange_name(context).removeprefix("the ")


def count(context: Context) -> Draft:
    number = needed(context.scene.count(context.time))
    wrong = tuple(str(other) for other in context.some(set(range(5)) - {number}, 3))
    return Draft("count", "How many objects are in the picture?", str(number), wrong, _now(context))


def _single(context: Context, key: Callable[[Thing], int]) -> Thing:
    """A thing in full view whose colour or shape no other thing of the scene shares now."""
    values = [key(thing) for thing in context.scene.things]
    return context.pick(thing for thing in context.visible() if values.count(key(thing)) == 1)


def colour(context: Context) -> Draft:
    thing = _single(context, lambda thing: thing.shape)
    answer = COLOUR_NAMES[thing.colour(context.time)]
    wrong = tuple(context.some((name for name in COLOUR_NAMES if name != answer), 3))
    return Draft("colour", f"What colour is the {SHAPE_NAMES[thing.shape]}?", answer, wrong, _now(context))


def shape(context: Context) -> Draft:
    thing = _single(context, lambda thing: thing.colour(context.time))
    answer = SHAPE_NAMES[thing.shape]
    wrong = tuple(context.some((name for name in SHAPE_NAMES if name != answer), 3))
    text = f"What shape is the {COLOUR_NAMES[thing.colour(context.time)]} object?"
    return Draft("shape", text, answer, wrong, _now(context))


def where(context: Context) -> Draft:
    thing = context.pick(context.visible())
    cell = thing.at(context.time).place
    text = f"Where is {thing.name(context.time)}?"
    return Draft("where", text, REGION_NAMES[cell], other_regions(context, cell), _now(context))


def box(context: Context) -> Draft:
    thing = context.pick(context.visible())
    cell = thing.at(context.time).place
    text = f"What is the bounding box of {thing.name(context.time)}?"
    return Draft("box", text, box_text(thing.box(cell)), other_boxes(context, thing, cell), _now(context))


def what_at(context: Context) -> Draft:
    thing = context.pick(context.visible())
    answer = bare_name(thing, context.time)
    every = [name_of(c, s) for c in range(len(COLOUR_NAMES)) for s in range(len(SHAPE_NAMES))]
    wrong = tuple(context.some((name for name in every if name != answer), 3))
    text = f"What object is at the {REGION_NAMES[thing.at(context.time).place]}?"
    return Draft("what_at", text, answer, wrong, _now(context))


def action(context: Context) -> Draft:
    thing = context.pick(context.visible())
    segment = thing.at(context.time)
    answer = ACTION_NAMES[segment.action] if segment.kind == "act" else NOTHING
    wrong = tuple(context.some((name for name in (*ACTION_NAMES, NOTHING) if name != answer), 3))
    return Draft("action", f"What is {thing.name(context.time)} performing?", answer, wrong, _now(context))


def direction(context: Context) -> Draft:
    thing = context.pick(context.scene.things)
    answer = direction_of(context.scene, thing, context.time)
    if answer not in DIRECTION_NAMES:
        raise NothingToAsk
    text = DIRECTION.format(thing.name(context.time))
    wrong = tuple(name for name in DIRECTION_NAMES if name != answer)
    return Draft("direction", text, answer, wrong, ((context.time - 1, context.time),))


def _last_event(context: Context) -> Event:
    """The last thing that happened, where nothing else happened within the second around it."""
    past = [event for event in context.scene.events if event.time <= context.time]
    if not past or past[-1].time > context.time - 0.5 or (len(past) > 1 and past[-2].time > past[-1].time - 1):
        raise NothingToAsk
    return past[-1]


def what_changed(context: Context) -> Draft:
    event = _last_event(context)

    def ask(scene: Scene, thing: Thing) -> str | None:
        happened = [other.text for other in scene.events if other.time <= context.time and other.thing == thing.index]
        return happened[-1] if happened and "meets" not in happened[-1] else None

    others = context.borrow(event.text, ask, 3)
    if "meets" in event.text:
        raise NothingToAsk
    name = context.scene.things[event.thing].name(event.time - 0.01)
    wrong = tuple(f"{name} {text}" for text in others)
    return Draft("what_changed", "What happened last?", f"{name} {event.text}", wrong, ((event.time, context.time),))


def when_happened(context: Context) -> Draft:
    event = _last_event(context)
    sentence = context.scene.sentence(event)
    if any(context.scene.sentence(other) == sentence for other in context.scene.events if other.time < event.time):
        raise NothingToAsk

    def ask(scene: Scene, thing: Thing) -> float | None:
        times = [other.time for other in scene.events if other.time <= context.time - 0.5]
        return times[-1] if times else None

    others = context.spread(event.time, ask, 3, float, 1)
    wrong = tuple(f"at {clock(time)}" for time in others)
    evidence = ((event.time, event.time + 0.5),)
    return Draft("when_happened", when_question(context.scene, event), f"at {clock(event.time)}", wrong, evidence)


def when_question(scene: Scene, event: Event) -> str:
    """ "The red circle performs the spin. When did this happen?" """
    text = f"{scene.sentence(event)}. When did this happen?"
    return text[0].upper() + text[1:]


def is_at(context: Context) -> Draft:
    thing = context.pick(context.visible())
    truth, cell = context.truth("is_at"), thing.at(context.time).place
    claimed = cell if truth else context.some(set(range(len(REGION_NAMES))) - {cell}, 1)[0]
    text = f"Is {thing.name(context.time)} at the {REGION_NAMES[claimed]}?"
    return Draft("is_at", text, *yes_or_no(truth), _now(context))


def is_performing(context: Context) -> Draft:
    thing, act = context.pick(context.acting())
    truth = context.truth("is_performing")
    claimed = act.action if truth else context.some(set(range(NUM_ACTIONS)) - {act.action}, 1)[0]
    text = f"Is {thing.name(context.time)} performing the {ACTION_NAMES[claimed]}?"
    return Draft("is_performing", text, *yes_or_no(truth), _now(context))


def doing(scene: Scene, thing: Thing, time: float) -> str | None:
    """ "spin left-top", "nothing center", "moving" or "out of sight"; None unless it is certain."""
    segment = thing.at(time)
    if scene.presence(thing, time) is False:
        return OUT_OF_SIGHT
    if segment.kind == "move" and scene.presence(thing, time):
        return MOVING
    if not scene.standing(thing, time):
        return None
    return f"{ACTION_NAMES[segment.action] if segment.kind == 'act' else NOTHING} {REGION_NAMES[segment.place]}"


def doing_at(context: Context) -> Draft:
    """Any moment up to now."""
    moment = context.pick(half / 2 for half in range(int(2 * context.time) + 1))
    thing = context.pick(context.scene.things)
    answer = needed(doing(context.scene, thing, moment))
    if not thing.was_seen(context.time):
        raise NothingToAsk
    wrong = context.borrow(answer, lambda scene, other: doing(scene, other, moment), 3)
    text = DOING.format(thing.name(context.time), clock(moment))
    return Draft("doing_at", text, answer, tuple(wrong), ((moment, moment),))


def history(context: Context) -> Draft:
    """Wrong options have another action somewhere; none follows itself."""
    thing = context.pick(thing for thing in context.scene.things if len(seen_acts(thing, context.time)) > 1)
    acts = seen_acts(thing, context.time)[-MOST_LISTED:]
    done = [act.action for act in reversed(acts)]
    ways = [
        [*done[:place], other, *done[place + 1 :]]
        for place in range(len(done))
        for other in set(range(NUM_ACTIONS)) - set(done[max(0, place - 1) : place + 2])
    ]
    text = f"Which actions did {thing.name(context.time)} perform recently, from the last to the first?"
    wrong = tuple(map(_listed, context.some(ways, 3)))
    evidence = tuple((act.start, min(act.end, context.time)) for act in acts)
    return Draft("history", text, _listed(done), wrong, evidence)


def _listed(actions: list[int]) -> str:
    return ", ".join(ACTION_NAMES[action] for action in actions)


def follows(context: Context) -> Draft:
    """The three kinds from here ask for what is known of routines."""
    action, goal = int(context.rng.integers(NUM_ACTIONS)), int(context.rng.integers(len(GOAL_NAMES)))
    text = f"In the procedure of '{GOAL_NAMES[goal]}', what is the next step after the {ACTION_NAMES[action]}?"
    following = action_after(action, goal)
    return Draft("follows", text, ACTION_NAMES[following], other_actions(context, following), _now(context))


def procedure(context: Context) -> Draft:
    first, second = context.some(range(NUM_ACTIONS), 2)
    answer = GOAL_NAMES[goal_of(first, second)]
    text = f"Which is the procedure with the sequence {ACTION_NAMES[first]} -> {ACTION_NAMES[second]}?"
    return Draft("procedure", text, answer, tuple(name for name in GOAL_NAMES if name != answer), _now(context))


def continues(context: Context) -> Draft:
    first, second = context.some(range(NUM_ACTIONS), 2)
    answer = action_after(second, goal_of(first, second))
    text = f"What is the next step after the sequence {ACTION_NAMES[first]} -> {ACTION_NAMES[second]}?"
    return Draft("continues", text, ACTION_NAMES[answer], other_actions(context, answer), _now(context))


def step(context: Context) -> Draft:
    """The next step of what is being performed, for a goal that it may have: one frame does not tell."""
    thing, act = context.pick(context.acting())
    goal = int(context.rng.integers(len(GOAL_NAMES)))
    following = action_after(act.action, goal)
    text = NEXT_STEP.format(thing.name(context.time), GOAL_NAMES[goal])
    evidence = ((max(act.start, context.time - 1), context.time),)
    return Draft("step", text, ACTION_NAMES[following], other_actions(context, following), evidence)


TEMPLATES: dict[str, Callable[[Context], Draft]] = {
    template.__name__: template
    for template in (
        presence, count, colour, shape, where, box, what_at, action, direction, what_changed, when_happened,
        is_at, is_performing, doing_at, history, follows, procedure, continues, step,
    )
}  # fmt: skip
