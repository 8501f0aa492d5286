"""Questions: every answer is found again by looking at samples of the tracks, without the generator's own reasoning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from videochat_online.shapeworld import SUB_TASKS, Decks, ask_perception, ask_questions, sample_stream
from videochat_online.shapeworld.questions import PERCEPTION_KINDS, TEMPLATES, Question, default_times
from videochat_online.shapeworld.questions.types import Draft
from videochat_online.shapeworld.scenes import Scene, Thing
from videochat_online.shapeworld.vocabulary import (
    ACTION_NAMES,
    COLOUR_NAMES,
    DIRECTION_NAMES,
    GOAL_NAMES,
    REGION_NAMES,
    SHAPE_NAMES,
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


Oracle = Callable[[Record, Question], str]


def _yes(truth: bool) -> str:
    return "Yes" if truth else "No"


def next_action(record: Record, q: Question) -> str:
    (_, (first, *_), (second, *_)) = (None, *record.sequence(record.called(q.question)[0])[-2:])
    return ACTION_NAMES[(2 * second - first) % 5]


def next_step(record: Record, q: Question) -> str:
    step = 1 + GOAL_NAMES.index(word(q.question, GOAL_NAMES))
    return ACTION_NAMES[(record.action(record.called(q.question)[0], q.time) + step) % 5]


def goal(record: Record, q: Question) -> str:
    (first, *_), (second, *_) = record.sequence(record.called(q.question)[0])[-2:]
    return GOAL_NAMES[(second - first) % 5 - 1]


def movement(record: Record, q: Question) -> str:
    thing = record.called(q.question)[0]
    (x0, y0), (x1, y1) = thing.position(q.time), thing.position(q.time + 1)
    if (x0, y0) == (x1, y1):
        return "stationary"
    horizontal = abs(x1 - x0) > abs(y1 - y0)
    return ("left", "right")[x1 > x0] if horizontal else ("up", "down")[y1 > y0]


def action_at_region(record: Record, q: Question) -> str:
    region, action = word(q.question, REGION_NAMES), word(q.question, ACTION_NAMES)
    there = [thing for thing in record.things if record.region(thing, q.time) == region and record.seen(thing, q.time)]
    return _yes(any(record.action(thing, q.time) == ACTION_NAMES.index(action) for thing in there))


def still_count(record: Record, q: Question) -> str:
    number = int(re.findall(r"\d+", q.question)[0])
    return _yes(sum(record.seen(thing, q.time) for thing in record.things) == number)


def still_step(record: Record, q: Question) -> str:
    action = ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return _yes(record.action(record.called(q.question)[0], q.time) == action)


def was_there(record: Record, q: Question) -> str:
    named = record.called(q.question)
    return _yes(bool(named) and record.seen(named[0], ago(q.question)))


def how_many(record: Record, q: Question) -> str:
    then, now = (sum(record.seen(t, moment) for t in record.things) for moment in (ago(q.question), q.time))
    return f"{then}, {'increases' if now > then else 'decreases' if now < then else 'the same'}"


def past_action(record: Record, q: Question) -> str:
    return ACTION_NAMES[record.action(record.called(q.question)[0], ago(q.question))]


def past_place(record: Record, q: Question) -> str:
    thing, action = record.called(q.question)[0], ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return record.region(thing, [run for run in record.sequence(thing) if run[0] == action][-1][2])


def first_action(record: Record, q: Question) -> str:
    return ACTION_NAMES[record.sequence(record.called(q.question)[0])[0][0]]


def not_performed(record: Record, q: Question) -> str:
    thing, window = record.called(q.question)[0], float(re.findall(r"last ([\d.]+) second", q.question)[0])
    done = {record.action(thing, time) for time in record.times.tolist() if time > q.time - window}
    (missing,) = [option for option in q.options if ACTION_NAMES.index(option) not in done]
    return missing


def followed(record: Record, q: Question) -> str:
    return _yes(goal(record, q) == word(q.question, GOAL_NAMES))


def past_region(record: Record, q: Question) -> str:
    return record.region(record.called(q.question)[0], ago(q.question))


def past_box(record: Record, q: Question) -> str:
    thing = record.called(q.question)[0]
    x, y = thing.position(ago(q.question))
    return box_text((x - thing.radius, y - thing.radius, x + thing.radius, y + thing.radius))


def first_appearance(record: Record, q: Question) -> str:
    thing = record.called(q.question)[0]
    begin = record.gaps(thing)[0][1]
    return f"at {begin:.1f}s, {record.region(thing, begin + 1)}"


def where_action(record: Record, q: Question) -> str:
    action = ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    (thing,) = [thing for thing in record.things if record.action(thing, q.time) == action]
    return record.region(thing, q.time)


def what_action(record: Record, q: Question) -> str:
    region = word(q.question, REGION_NAMES)
    (there,) = [t for t in record.things if record.region(t, q.time) == region and record.action(t, q.time) >= 0]
    return ACTION_NAMES[record.action(there, q.time)]


def where_object(record: Record, q: Question) -> str:
    return record.region(record.called(q.question)[0], q.time)


def relative_position(record: Record, q: Question) -> str:
    (x, y), (rx, ry) = (thing.position(q.time) for thing in record.called(q.question))
    horizontal = "left" if x < rx - 0.15 else "right" if x > rx + 0.15 else ""
    vertical = "top" if y < ry - 0.15 else "bottom" if y > ry + 0.15 else ""
    return "-".join(part for part in (horizontal, vertical) if part)


def action_trajectory(record: Record, q: Question) -> str:
    thing = record.called(q.question)[0]
    return " -> ".join(f"{ACTION_NAMES[a]} {record.region(thing, end)}" for a, _, end in record.sequence(thing)[-2:])


def object_trajectory(record: Record, q: Question) -> str:
    thing, window = record.called(q.question)[0], float(re.findall(r"last ([\d.]+) second", q.question)[0])
    path: list[str] = []
    for time in record.times.tolist():
        if time >= q.time - window and thing.at(time).kind != "move":
            region = record.region(thing, time)
            path += [] if path and path[-1] == region else [region]
    return " -> ".join(path)


def closer_or_farther(record: Record, q: Question) -> str:
    one, other = record.called(q.question)
    before, now = (np.hypot(*np.subtract(one.position(t), other.position(t))) for t in (q.time - 4, q.time))
    return "unchanged" if abs(now - before) < 0.02 else "closer" if now < before else "farther"


def last_two(record: Record, q: Question) -> str:
    return " -> ".join(ACTION_NAMES[run[0]] for run in record.sequence(record.called(q.question)[0])[-2:])


def last_three(record: Record, q: Question) -> str:
    return " -> ".join(ACTION_NAMES[run[0]] for run in record.sequence(record.called(q.question)[0])[-3:])


def when_started(record: Record, q: Question) -> str:
    thing, action = record.called(q.question)[0], ACTION_NAMES.index(word(q.question, ACTION_NAMES))
    return f"at {[run for run in record.sequence(thing) if run[0] == action][-1][1]:.1f}s"


def how_long(record: Record, q: Question) -> str:
    seconds = q.time - record.sequence(record.called(q.question)[0])[-1][1]
    return "1 second" if seconds == 1 else f"{seconds:g} seconds"


def when_away(record: Record, q: Question) -> str:
    spans = [span for span in record.gaps(record.called(q.question)[0]) if span[0] > 0 and span[1] <= q.time - 1]
    return f"from {spans[-1][0]:.1f}s to {spans[-1][1]:.1f}s"


def when_back(record: Record, q: Question) -> str:
    spans = [span for span in record.gaps(record.called(q.question)[0]) if span[1] <= q.time - 1]
    return f"at {spans[-1][1]:.1f}s"


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        next_action, next_step, goal, movement, action_at_region, still_count, still_step, was_there, how_many,
        past_action, past_place, first_action, not_performed, followed, past_region, past_box, first_appearance,
        where_action, what_action, where_object, relative_position, action_trajectory, object_trajectory,
        closer_or_farther, last_two, last_three, when_started, how_long, when_away, when_back,
    )
} | {"past_goal": goal, "order_of_two": last_two}  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    """Questions of all levels about streams of 30 s and 2 minutes."""
    rows = []
    for seed in range(100):
        scene = sample_stream(seed, "dev", 1 + seed % 4, 120 if seed % 5 == 0 else 30)
        rows += [(scene, question) for question in ask_questions(scene, num=32)]
    return rows


def test_every_answer_is_found_again_in_the_tracks(asked):
    checked = Counter()
    for scene, question in asked:
        oracle = ORACLES.get(question.template)
        if oracle is not None:
            assert oracle(Record(scene, question.time), question) == question.answer, question
            checked[question.template] += 1
    every = {template.__name__ for templates in TEMPLATES.values() for _, template in templates}
    assert every - set(checked) <= {"box_action"}  # whose place is checked by where_action, and its box by past_box
    assert min(checked.values()) >= 8


def test_options_differ_and_hold_the_answer_once(asked):
    for _, question in asked:
        assert len(set(question.options)) == len(question.options) in (2, 3, 4)
        assert question.options[question.answer_index] == question.answer


def test_questions_see_no_future(asked):
    for scene, question in asked:
        assert question.evidence
        assert all(0 <= start <= end <= question.time <= scene.seconds for start, end in question.evidence)


def test_nothing_after_the_question_changes_the_answer():
    """A scene in which everything stops right after the question; only MP may look a second ahead."""
    present = [name for name in SUB_TASKS if name != "MP"]
    for seed in range(12):
        scene, time = sample_stream(seed, "dev", 4, 60, pace=1), 20.0 + seed
        things = []
        for thing in scene.things:
            seen = [part for part in thing.segments if part.start <= time]
            seen[-1] = replace(seen[-1], end=max(seen[-1].end, 70.0)) if seen[-1].end > time else seen[-1]
            things.append(replace(thing, segments=tuple(seen)))
        stopped = replace(scene, things=tuple(things))
        questions, again = (ask_questions(one, present, 30, times=[time]) for one in (scene, stopped))
        assert len(questions) > 10
        assert questions == again


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("seconds", [30, 120])
def test_all_sub_tasks_are_asked(seconds, level):
    counts = Counter()
    for seed in range(25):
        questions = ask_questions(sample_stream(seed, "test", level, seconds), num=16)
        assert len(questions) == 16
        counts.update({question.sub_task for question in questions})
    assert set(counts) == set(SUB_TASKS)
    assert min(counts.values()) >= 13, counts  # of 25 scenes; most sub-tasks in all of them


def test_past_questions_need_the_past(asked):
    past = {"AA", "AR", "PR", "TR", "AT", "AS", "OES", "THV-OP"}
    shares = Counter(question.sub_task for _, question in asked if not question.visible_now)
    totals = Counter(question.sub_task for _, question in asked)
    assert all(shares[name] > 0.9 * totals[name] for name in past)
    assert all(shares[name] == 0 for name in ("MP", "AP", "SV", "AL", "SP-OP"))


def test_same_arguments_same_questions_and_different_chance_different_ones():
    scene = sample_stream(9, "test", 3, 30)
    assert ask_questions(scene) == ask_questions(scene)
    assert ask_questions(scene, rng=np.random.default_rng(1)) != ask_questions(scene, rng=np.random.default_rng(2))
    ids = [question.id for question in ask_questions(scene, num=40)]
    assert len(set(ids)) == len(ids)


def test_chosen_sub_tasks_and_times():
    scene = sample_stream(9, "test", 2, 60)
    questions = ask_questions(scene, ["AL", "AR"], 6, times=[30.0, 40.5])
    assert {question.sub_task for question in questions} == {"AL", "AR"}
    assert {question.time for question in questions} <= {30.0, 40.5}
    assert [question.time for question in questions] == sorted(question.time for question in questions)


def test_perceptual_questions_are_right():
    counts = Counter()
    for seed in range(60):
        scene = sample_stream(seed, "dev", 1 + seed % 4, 30)
        for question in ask_perception(scene, num=22):
            counts[question.template] += 1
            record = Record(scene, question.time)
            there = [thing for thing in scene.things if record.seen(thing, question.time)]
            names = [name_of(thing.colour(question.time), thing.shape) for thing in there]
            if question.template == "presence":
                asked_name = question.question.removeprefix("Is there a ").removesuffix(" in the picture?")
                assert question.answer == _yes(asked_name in names)
            elif question.template == "count":
                assert question.answer == str(len(there))
            elif question.template == "colour":
                shape = word(question.question, SHAPE_NAMES)
                assert f"{question.answer} {shape}" in names
            elif question.template == "shape":
                assert f"{word(question.question, COLOUR_NAMES)} {question.answer}" in names
            elif question.template == "where":
                assert question.answer == where_object(record, question)
            elif question.template == "what_at":
                at = {record.region(thing, question.time): name for thing, name in zip(there, names, strict=True)}
                assert at[word(question.question, REGION_NAMES)] == question.answer
            elif question.template == "direction":
                assert question.answer == movement(record, question)
                assert question.answer in DIRECTION_NAMES
            elif question.template == "what_changed":
                last = [event for event in scene.events if event.time <= question.time][-1]
                assert question.answer == scene.sentence(last)
            elif question.template == "when_happened":
                last = [event for event in scene.events if event.time <= question.time][-1]
                assert question.answer == f"at {last.time:.1f}s"
    assert set(counts) == set(PERCEPTION_KINDS) and min(counts.values()) > 20


def test_decks_make_answers_even_over_many_scenes():
    decks = Decks(np.random.default_rng(0))
    questions = [
        question
        for seed in range(60)
        for question in ask_questions(sample_stream(seed, "dev", 2, 30), ["SV", "AP", "AA"], 6, decks=decks)
    ]
    for template in ("still_step", "action_at_region", "still_count"):
        answers = Counter(question.answer for question in questions if question.template == template)
        assert abs(answers["Yes"] - answers["No"]) <= 1
    letters = Counter(question.letter for question in questions if question.sub_task == "AA")
    assert max(letters.values()) - min(letters.values()) <= 1


def test_prompts():
    question = ask_questions(sample_stream(1, "dev", 2, 30), ["AL"], 1)[0]
    lines = question.prompt().split("\n")
    assert lines[0] == f"Question at {question.time:.1f}s: {question.question}"
    assert lines[1] == "Options:" and lines[-1] == "Answer:"
    assert lines[2:-1] == [f"({letter}) {text}" for letter, text in zip("ABCD", question.options, strict=True)]
    assert lines["ABCD".index(question.letter) + 2].endswith(question.answer)
    assert question.prompt(options=False, time=False) == question.question


def test_default_times_end_where_the_video_does():
    assert default_times(sample_stream(0, "dev", 1, 30))[-1] == 29.5
    assert default_times(sample_stream(0, "dev", 1, 10.25))[-1] == 10.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sub_tasks": ["OP"]}, r"unknown kind of question \['OP'\]"),
        ({"sub_tasks": []}, "expected some of AA"),
        ({"times": []}, "no moment to ask at"),
        ({"times": [31.0]}, r"within 0 to 30 s, got \[31.0\]"),
        ({"times": [10.3]}, r"half seconds .* got \[10.3\]"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ask_questions(sample_stream(0, "dev", 2, 30), **arguments)


def test_a_draft_with_equal_options_is_refused():
    with pytest.raises(ValueError, match="options of x must differ"):
        Draft("x", "?", "Yes", ("Yes",), ((0, 1),))
