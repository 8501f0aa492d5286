"""Temporal hallucination verification: AP is it still so, SV is this still the step, OP was it there."""

from __future__ import annotations

from ..scenes import Scene, Thing
from ..vocabulary import ACTION_NAMES, COLOUR_NAMES, NUM_ACTIONS, REGION_NAMES, SHAPE_NAMES, clock, duration, name_of
from .context import Context, NothingToAsk, needed, seen_acts
from .types import Draft

YES_NO = ("Yes", "No")
STILL_COUNT = "Are there still {} objects in the current frame now?"
HOW_MANY = "How many objects were on the screen {} ago (at {})? Does the number increase or decrease?"
STRANGE_SHARE = 0.1
"""Attempts that deny a thing by a name nothing has; all that a scene of one thing allows."""


def yes_or_no(truth: bool) -> tuple[str, tuple[str]]:
    """The right option and the wrong one."""
    return (YES_NO[0], (YES_NO[1],)) if truth else (YES_NO[1], (YES_NO[0],))


def action_at_region(context: Context) -> Draft:
    """False claims are, half of the time, what another thing is doing."""
    acting = context.acting()
    _, act = context.pick(acting)
    truth = context.truth("action_at_region")
    claimed = act.action
    if not truth:
        elsewhere = [other.action for _, other in acting if other.action != act.action and context.rng.random() < 0.5]
        claimed = elsewhere[0] if elsewhere else context.some(set(range(NUM_ACTIONS)) - {act.action}, 1)[0]
    answer, wrong = yes_or_no(truth)
    where = REGION_NAMES[act.place]
    text = f"Is the object at the {where} in the current frame performing the {ACTION_NAMES[claimed]}?"
    return Draft("action_at_region", text, answer, wrong, ((max(act.start, context.time - 1), context.time),))


def still_count(context: Context) -> Draft:
    """A false number is the true one of another scene, so that numbers tell nothing."""
    number, other = context.scene.count(context.time), context.bank.scene().count(context.time)
    if number is None or other is None or number == other:
        raise NothingToAsk
    truth = context.truth("still_count")
    answer, wrong = yes_or_no(truth)
    text = STILL_COUNT.format(number if truth else other)
    return Draft("still_count", text, answer, wrong, ((context.time - 0.5, context.time),))


def still_step(context: Context) -> Draft:
    """False claims are the step before or the step after."""
    thing, act = context.pick(context.acting(again=True))
    truth = context.truth("still_step")
    around = (seen_acts(thing, context.time)[-2].action, thing.next_action(act.action))
    claimed = act.action if truth else around[int(context.rng.integers(2))]
    answer, wrong = yes_or_no(truth)
    text = f"Is {thing.name(context.time)} in the current frame still performing the step {ACTION_NAMES[claimed]}?"
    return Draft("still_step", text, answer, wrong, ((max(act.start, context.time - 1), context.time),))


def was_there(context: Context) -> Draft:
    """Asks about a thing that was there or one that was away; now and then about one that never existed."""
    gap = context.gap()
    scene, moment = context.scene, context.time - gap
    there = [thing for thing in scene.things if scene.presence(thing, moment)]
    gone = [thing for thing in scene.things if scene.presence(thing, moment) is False and thing.was_seen(context.time)]
    strange = context.rng.random() < STRANGE_SHARE
    if not there or not (strange or gone):
        raise NothingToAsk
    truth = context.truth("was_there")
    asked = there if truth else [] if strange else gone
    name = context.some(asked, 1)[0].name(context.time) if asked else strange_name(context)
    answer, wrong = yes_or_no(truth)
    text = f"Was {name} on the screen {duration(gap)} ago (at {clock(moment)})?"
    return Draft("was_there", text, answer, wrong, ((max(0.0, moment - 0.5), moment + 0.5),))


def strange_name(context: Context) -> str:
    """A name that nothing in the scene ever has."""
    taken = {(colour, thing.shape) for thing in context.scene.things for _, colour in thing.colours}
    every = [(colour, shape) for colour in range(len(COLOUR_NAMES)) for shape in range(len(SHAPE_NAMES))]
    return f"the {name_of(*context.some((name for name in every if name not in taken), 1)[0])}"


def compared(then: int, now: int) -> str:
    """ "2, increases" """
    return f"{then}, {'the same' if then == now else 'increases' if now > then else 'decreases'}"


def how_many(context: Context) -> Draft:
    gap = context.gap()
    moment = context.time - gap

    def ask(scene: Scene, thing: Thing) -> str | None:
        then, now = scene.count(moment), scene.count(context.time)
        if then is None or now is None:
            return None
        return compared(then, now)

    answer = needed(ask(context.scene, context.scene.things[0]))
    wrong = context.borrow(answer, ask, 3)
    text = HOW_MANY.format(duration(gap), clock(moment))
    evidence = ((max(0.0, moment - 0.5), moment + 0.5), (context.time - 0.5, context.time))
    return Draft("how_many", text, answer, tuple(wrong), evidence)
