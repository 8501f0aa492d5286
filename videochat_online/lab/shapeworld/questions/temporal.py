"""Temporal perception: AS in which order, SL when and how long, OES when a thing was on the screen."""

from __future__ import annotations

from ..scenes import Scene, Thing
from ..vocabulary import ACTION_NAMES, NUM_ACTIONS, action_after, clock, duration
from .context import Context, NothingToAsk, current_act, needed, seen_acts
from .past import last_acts
from .types import Draft, Interval


def _sequence(*actions: int) -> str:
    return " -> ".join(ACTION_NAMES[action] for action in actions)


def _recent(context: Context, num: int, *, idle: bool = False) -> tuple[Thing, list]:
    """A thing with its last `num` actions."""
    things = (thing for thing in context.scene.things if not idle or thing.at(context.time).kind != "act")
    rows = ((thing, seen_acts(thing, context.time)[-num:]) for thing in things)
    return context.pick(row for row in rows if len(row[1]) == num)


LEAST_APART = 2.0
SEQUENCE = "What is the sequence of actions {} has performed recently?"
STARTED = "When did {} last start the {}?"
RETURNED = "When did {} last come into sight?"
AWAY = "When was {} last out of sight?"
HOW_LONG = "How long has {} been performing the {}?"


def last_two(context: Context) -> Draft:
    """All options end in the same action: what is to be seen now does not give the answer away."""
    thing, (first, second) = _recent(context, 2)
    others = set(range(NUM_ACTIONS)) - {first.action, second.action}
    wrong = tuple(_sequence(other, second.action) for other in others)
    evidence = ((first.start, first.end), (second.start, min(second.end, context.time)))
    text = SEQUENCE.format(thing.name(context.time))
    return Draft("last_two", text, _sequence(first.action, second.action), wrong, evidence)


def order_of_two(context: Context) -> Draft:
    """Of a thing that is not acting now: its two actions in both orders, and one of them with a third."""
    thing, (first, second) = _recent(context, 2, idle=True)
    shared = (first, second)[int(context.rng.integers(2))].action
    third = context.some(set(range(NUM_ACTIONS)) - {first.action, second.action}, 1)[0]
    wrong = (_sequence(second.action, first.action), _sequence(shared, third), _sequence(third, shared))
    evidence = ((first.start, first.end), (second.start, second.end))
    text = SEQUENCE.format(thing.name(context.time))
    return Draft("order_of_two", text, _sequence(first.action, second.action), wrong, evidence)


def last_three(context: Context) -> Draft:
    """The four routines that end in the same action."""
    thing, acts = _recent(context, 3)
    actions = [act.action for act in acts]
    ways = []
    for start in set(range(NUM_ACTIONS)) - {actions[2]}:
        goal = next(goal for goal in range(4) if action_after(action_after(start, goal), goal) == actions[2])
        ways.append(_sequence(start, action_after(start, goal), actions[2]))
    answer = _sequence(*actions)
    evidence = tuple((act.start, min(act.end, context.time)) for act in acts)
    text = SEQUENCE.format(thing.name(context.time)).replace("sequence of", "sequence of three")
    return Draft("last_three", text, answer, tuple(way for way in ways if way != answer), evidence)


def _apart(scene: Scene) -> float:
    """Seconds by which times among the options differ at least: more where everything is slower."""
    return 0.5 + 1.5 * scene.pace


def when_started(context: Context) -> Draft:
    """When an action was last begun."""

    def ask(scene: Scene, thing: Thing) -> tuple[float, int] | None:
        acts = last_acts(thing, context.time)
        act = context.pick(acts) if acts else None
        return (act.start, act.action) if act else None

    thing = context.pick(context.scene.things)
    answer = needed(ask(context.scene, thing))
    wrong = context.spread(answer, ask, 3, lambda value: value[0], _apart(context.scene))
    start, action = answer
    text = STARTED.format(thing.name(context.time), ACTION_NAMES[action])
    options = tuple(f"at {clock(time)}" for time, _ in wrong)
    return Draft("when_started", text, f"at {clock(start)}", options, ((max(0.0, start - 0.5), start + 1),))


def elapsed(scene: Scene, thing: Thing, time: float) -> int | None:
    """Whole seconds for which a thing in full view has been performing its action."""
    act = current_act(thing, time)
    if act is None or time - act.start != int(time - act.start) or not scene.standing(thing, time):
        return None
    return int(time - act.start)


def how_long(context: Context) -> Draft:
    """How long the present action has lasted: one of four lengths, where the scene shows all four at some moment."""
    step = max(1, round(context.scene.pace))
    lengths = [step * times for times in range(1, 5)]
    found = context.occasions(elapsed)
    if any(length not in found for length in lengths):
        raise NothingToAsk
    answer, *others = context.some(lengths, 4)
    thing, time = context.some(found[answer], 1)[0]
    act = thing.at(time)
    text = HOW_LONG.format(thing.name(time), ACTION_NAMES[act.action])
    wrong = tuple(map(duration, others))
    return Draft("how_long", text, duration(answer), wrong, ((max(0.0, act.start - 0.5), time),), time)


def last_absence(thing: Thing, time: float) -> Interval | None:
    """The latest time span in which a thing was gone after it had been there, if it is over for a second at least."""
    spans = [(part.start, part.end) for part in thing.absences if 0 < part.start <= time]
    return spans[-1] if spans and spans[-1][1] <= time - 1 else None


def span(start: float, end: float) -> str:
    """ "from 3.0s to 6.5s" """
    return f"from {clock(start)} to {clock(end)}"


def when_away(context: Context) -> Draft:
    def ask(scene: Scene, thing: Thing) -> Interval | None:
        return last_absence(thing, context.time)

    thing = context.pick(context.scene.things)
    answer = needed(ask(context.scene, thing))
    wrong = context.spread(answer, ask, 3, sum, 2 * LEAST_APART)
    options = tuple(span(*away) for away in (answer, *wrong))
    text = AWAY.format(thing.name(context.time))
    return Draft("when_away", text, options[0], options[1:], ((answer[0] - 1, answer[1] + 1),))


def last_return(thing: Thing, time: float) -> float | None:
    """When a thing last came onto the screen, a second ago at least."""
    times = [part.end for part in thing.absences if part.end <= time]
    return times[-1] if times and times[-1] <= time - 1 else None


def when_back(context: Context) -> Draft:
    def ask(scene: Scene, thing: Thing) -> float | None:
        return last_return(thing, context.time)

    thing = context.pick(context.scene.things)
    answer = needed(ask(context.scene, thing))
    wrong = context.spread(answer, ask, 3, float, _apart(context.scene))
    text = RETURNED.format(thing.name(context.time))
    options = tuple(f"at {clock(time)}" for time in wrong)
    return Draft("when_back", text, f"at {clock(answer)}", options, ((max(0.0, answer - 0.5), answer + 1),))
