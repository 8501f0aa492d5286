"""Answers found again by looking at samples of the tracks, without the generator's own reasoning."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from videochat_online.lab.shapeworld.questions.types import WorldQuestion
from videochat_online.lab.shapeworld.scenes import Scene, Thing
from videochat_online.lab.shapeworld.vocabulary import (
    ACTION_NAMES,
    GOAL_NAMES,
    REGION_NAMES,
    box_text,
    name_of,
    region_at,
)

STEP = 0.25  # seconds between the samples an answer is found in


class Record:
    """What an observer writes down about a scene up to a moment: every STEP seconds, each thing's action and place."""

    def __init__(self, scene: Scene, until: float) -> None:
        self.scene = scene
        self.times = np.arange(0, until + STEP / 2, STEP)
        self.things = scene.things

    def called(self, question: str) -> list[Thing]:
        """The things named in a text, in the order of their names; names of any time count."""
        found = []
        for thing in self.things:
            for _, colour in thing.colours:
                place = question.find(f"the {name_of(colour, thing.shape)}")
                found += [(place, thing)] if place >= 0 else []
        return [thing for _, thing in sorted(found, key=lambda row: row[0])]

    def action(self, thing: Thing, time: float) -> int:
        return thing.at(time).action

    def region(self, thing: Thing, time: float) -> str:
        return REGION_NAMES[region_at(*thing.position(time))]

    def seen(self, thing: Thing, time: float) -> bool:
        """Nothing of a thing is in sight in the frame when it waits outside or behind the wall."""
        x, y = thing.position(time)
        outside = not (-thing.radius < x < 1 + thing.radius and -thing.radius < y < 1 + thing.radius)
        covered = self.scene.wall >= 0 and thing.at(time).kind == "hide" and self.scene.behind_wall(x, y)
        return not outside and not covered

    def sequence(self, thing: Thing) -> list[tuple[int, float, float]]:
        """(action, first sample, last sample) of the actions seen for a second, in order."""
        runs: list[tuple[int, float, float]] = []
        previous = -1
        for time in self.times.tolist():
            action = self.action(thing, time)
            if action >= 0 and action == previous:
                runs[-1] = (action, runs[-1][1], time)
            elif action >= 0:
                runs.append((action, time, time))
            previous = action
        return [run for run in runs if self.times[-1] - run[1] >= 1]

    def gaps(self, thing: Thing) -> list[tuple[float, float]]:
        """Spans out of sight: (first sample unseen, first sample at which it starts to come back)."""
        hidden = [time for time in self.times.tolist() if thing.at(time).kind in ("away", "hide")]
        spans: list[tuple[float, float]] = []
        for time in hidden:
            assert not self.seen(thing, time)
            if spans and time - spans[-1][1] <= STEP:
                spans[-1] = (spans[-1][0], time)
            else:
                spans.append((time, time))
        return [(start, end + STEP) for start, end in spans]


def ago(text: str) -> float:
    match = re.search(r"\(at ([\d.]+)s\)", text)
    assert match is not None
    return float(match[1])


def word(text: str, words: tuple[str, ...]) -> str:
    """The one of `words` that the text holds; the longest where one is part of another."""
    return max((name for name in words if re.search(rf"\b{re.escape(name)}\b", text)), key=len)


Oracle = Callable[[Record, WorldQuestion], str]


def yes(truth: bool) -> str:
    return "Yes" if truth else "No"


def next_action(record: Record, q: WorldQuestion) -> str:
    (_, (first, *_), (second, *_)) = (None, *record.sequence(record.called(q.question)[0])[-2:])
    return ACTION_NAMES[(2 * second - first) % 5]


def next_step(record: Record, q: WorldQuestion) -> str:
    step = 1 + GOAL_NAMES.index(word(q.question, GOAL_NAMES))
    return ACTION_NAMES[(record.action(record.called(q.question)[0], q.time) + step) % 5]


def goal(record: Record, q: WorldQuestion) -> str:
    (first, *_), (second, *_) = record.sequence(record.called(q.question)[0])[-2:]
    return GOAL_NAMES[(second - first) % 5 - 1]


def movement(record: Record, q: WorldQuestion) -> str:
    thing = record.called(q.question)[0]
    (x0, y0), (x1, y1) = thing.position(q.time), thing.position(q.time + 1)
    if (x0, y0) == (x1, y1):
        return "stationary"
    horizontal = abs(x1 - x0) > abs(y1 - y0)
    return ("left", "right")[x1 > x0] if horizontal else ("up", "down")[y1 > y0]


def action_at_region(record: Record, q: WorldQuestion) -> str:
    region, action = word(q.question, REGION_NAMES), word(q.question, ACTION_NAMES)
    there = [thing for thing in record.things if record.region(thing, q.time) == region and record.seen(thing, q.time)]
    return yes(any(record.action(thing, q.time) == ACTION_NAMES.index(action) for thing in there))


def still_count(record: Record, q: WorldQuestion) -> str:
    number = int(re.findall(r"\d+", q.question)[0])
    return yes(sum(record.seen(thing, q.time) for thing in record.things) == number)


def still_step(record: Record, q: WorldQuestion) -> str:
    action = ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return yes(record.action(record.called(q.question)[0], q.time) == action)


def was_there(record: Record, q: WorldQuestion) -> str:
    named = record.called(q.question)
    return yes(bool(named) and record.seen(named[0], ago(q.question)))


def how_many(record: Record, q: WorldQuestion) -> str:
    then, now = (sum(record.seen(t, moment) for t in record.things) for moment in (ago(q.question), q.time))
    return f"{then}, {'increases' if now > then else 'decreases' if now < then else 'the same'}"


def count_at(record: Record, q: WorldQuestion) -> str:
    moment = float(re.findall(r"at ([\d.]+)s", q.question)[0])
    return str(sum(record.seen(thing, moment) for thing in record.things))


def past_action(record: Record, q: WorldQuestion) -> str:
    return ACTION_NAMES[record.action(record.called(q.question)[0], ago(q.question))]


def past_place(record: Record, q: WorldQuestion) -> str:
    thing, action = record.called(q.question)[0], ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return record.region(thing, [run for run in record.sequence(thing) if run[0] == action][-1][2])


def first_action(record: Record, q: WorldQuestion) -> str:
    return ACTION_NAMES[record.sequence(record.called(q.question)[0])[0][0]]


def not_performed(record: Record, q: WorldQuestion) -> str:
    thing, window = record.called(q.question)[0], float(re.findall(r"last ([\d.]+) second", q.question)[0])
    done = {record.action(thing, time) for time in record.times.tolist() if time > q.time - window}
    (missing,) = [option for option in q.options if ACTION_NAMES.index(option) not in done]
    return missing


def followed(record: Record, q: WorldQuestion) -> str:
    return yes(goal(record, q) == word(q.question, GOAL_NAMES))


def past_region(record: Record, q: WorldQuestion) -> str:
    return record.region(record.called(q.question)[0], ago(q.question))


def past_box(record: Record, q: WorldQuestion) -> str:
    thing = record.called(q.question)[0]
    x, y = thing.position(ago(q.question))
    return box_text((x - thing.radius, y - thing.radius, x + thing.radius, y + thing.radius))


def first_appearance(record: Record, q: WorldQuestion) -> str:
    thing = record.called(q.question)[0]
    begin = record.gaps(thing)[0][1]
    return f"at {begin:.1f}s, {record.region(thing, begin + 1)}"


def where_action(record: Record, q: WorldQuestion) -> str:
    action = ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    (thing,) = [thing for thing in record.things if record.action(thing, q.time) == action]
    return record.region(thing, q.time)


def what_action(record: Record, q: WorldQuestion) -> str:
    region = word(q.question, REGION_NAMES)
    (there,) = [t for t in record.things if record.region(t, q.time) == region and record.action(t, q.time) >= 0]
    return ACTION_NAMES[record.action(there, q.time)]


def where_object(record: Record, q: WorldQuestion) -> str:
    return record.region(record.called(q.question)[0], q.time)


def action(record: Record, q: WorldQuestion) -> str:
    found = record.action(record.called(q.question)[0], q.time)
    return ACTION_NAMES[found] if found >= 0 else "nothing"


def box(record: Record, q: WorldQuestion) -> str:
    thing = record.called(q.question)[0]
    x, y = thing.position(q.time)
    sides = (x - thing.radius, y - thing.radius, x + thing.radius, y + thing.radius)
    return box_text(sides)


def relative_position(record: Record, q: WorldQuestion) -> str:
    (x, y), (rx, ry) = (thing.position(q.time) for thing in record.called(q.question))
    horizontal = "left" if x < rx - 0.15 else "right" if x > rx + 0.15 else ""
    vertical = "top" if y < ry - 0.15 else "bottom" if y > ry + 0.15 else ""
    return "-".join(part for part in (horizontal, vertical) if part)


def action_trajectory(record: Record, q: WorldQuestion) -> str:
    thing = record.called(q.question)[0]
    return " -> ".join(f"{ACTION_NAMES[a]} {record.region(thing, end)}" for a, _, end in record.sequence(thing)[-2:])


def object_trajectory(record: Record, q: WorldQuestion) -> str:
    thing, window = record.called(q.question)[0], float(re.findall(r"last ([\d.]+) second", q.question)[0])
    path: list[str] = []
    for time in record.times.tolist():
        if time >= q.time - window and thing.at(time).kind != "move":
            region = record.region(thing, time)
            path += [] if path and path[-1] == region else [region]
    return " -> ".join(path)


def closer_or_farther(record: Record, q: WorldQuestion) -> str:
    one, other = record.called(q.question)
    before, now = (np.hypot(*np.subtract(one.position(t), other.position(t))) for t in (q.time - 4, q.time))
    return "unchanged" if abs(now - before) < 0.02 else "closer" if now < before else "farther"


def last_two(record: Record, q: WorldQuestion) -> str:
    return " -> ".join(ACTION_NAMES[run[0]] for run in record.sequence(record.called(q.question)[0])[-2:])


def last_three(record: Record, q: WorldQuestion) -> str:
    return " -> ".join(ACTION_NAMES[run[0]] for run in record.sequence(record.called(q.question)[0])[-3:])


def when_started(record: Record, q: WorldQuestion) -> str:
    thing, action = record.called(q.question)[0], ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return f"at {[run for run in record.sequence(thing) if run[0] == action][-1][1]:.1f}s"


def how_long(record: Record, q: WorldQuestion) -> str:
    seconds = q.time - record.sequence(record.called(q.question)[0])[-1][1]
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def when_away(record: Record, q: WorldQuestion) -> str:
    spans = [span for span in record.gaps(record.called(q.question)[0]) if 0 < span[0] <= q.time]
    assert spans[-1][1] <= q.time - 1
    return f"from {spans[-1][0]:.1f}s to {spans[-1][1]:.1f}s"


def when_back(record: Record, q: WorldQuestion) -> str:
    spans = [span for span in record.gaps(record.called(q.question)[0]) if span[1] <= q.time]
    assert spans[-1][1] <= q.time - 1
    return f"at {spans[-1][1]:.1f}s"


def is_at(record: Record, q: WorldQuestion) -> str:
    return yes(record.region(record.called(q.question)[0], q.time) == word(q.question, REGION_NAMES))


def doing_at(record: Record, q: WorldQuestion) -> str:
    thing, moment = record.called(q.question)[0], float(re.findall(r"at ([\d.]+)s", q.question)[0])
    if thing.at(moment).kind in ("away", "hide"):
        return "out of sight"
    if thing.at(moment).kind == "move":
        return "moving"
    action = record.action(thing, moment)
    return f"{ACTION_NAMES[action] if action >= 0 else 'nothing'} {record.region(thing, moment)}"


def history(record: Record, q: WorldQuestion) -> str:
    actions = [action for action, *_ in record.sequence(record.called(q.question)[0])]
    return ", ".join(ACTION_NAMES[action] for action in actions[: -len(q.answer.split()) - 1 : -1])


def after(q: WorldQuestion) -> tuple[int, ...]:
    """Numbers of the actions a text names, in its order."""
    return tuple(ACTION_NAMES.index(name) for name in re.findall("|".join(ACTION_NAMES), q.question))


def follows(record: Record, q: WorldQuestion) -> str:
    return ACTION_NAMES[(after(q)[0] + GOAL_NAMES.index(word(q.question, GOAL_NAMES)) + 1) % 5]


def procedure(record: Record, q: WorldQuestion) -> str:
    first, second = after(q)
    return GOAL_NAMES[(second - first) % 5 - 1]


def continues(record: Record, q: WorldQuestion) -> str:
    first, second = after(q)
    return ACTION_NAMES[(2 * second - first) % 5]


PERCEPTION_ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle for oracle in (action, box, is_at, doing_at, history, follows, procedure, continues)
} | {"is_performing": still_step, "step": next_step}


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        next_action, next_step, goal, movement, action_at_region, still_count, still_step, was_there, how_many,
        past_action, past_place, first_action, not_performed, followed, past_region, past_box, first_appearance,
        where_action, what_action, where_object, relative_position, action_trajectory, object_trajectory,
        closer_or_farther, last_two, last_three, when_started, how_long, when_away, when_back,
    )
} | {"past_goal": goal, "order_of_two": last_two}  # fmt: skip
