"""Questions: every answer is found again by looking at samples of the tracks, without the generator's own reasoning."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from videochat_online.lab.shapeworld import SUB_TASKS, Decks, ask_perception, ask_questions, sample_stream
from videochat_online.lab.shapeworld.questions.engine import PERCEPTION_KINDS, TEMPLATES, default_times
from videochat_online.lab.shapeworld.questions.types import Draft, WorldQuestion
from videochat_online.lab.shapeworld.scenes import Scene
from videochat_online.lab.shapeworld.vocabulary import (
    COLOUR_NAMES,
    DIRECTION_NAMES,
    REGION_NAMES,
    SHAPE_NAMES,
    name_of,
)

from .oracles import ORACLES, PERCEPTION_ORACLES, Record, movement, where_object, word, yes


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, WorldQuestion]]:
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


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
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
        for question in ask_perception(scene, num=36):
            counts[question.template] += 1
            record = Record(scene, question.time)
            there = [thing for thing in scene.things if record.seen(thing, question.time)]
            names = [name_of(thing.colour(question.time), thing.shape) for thing in there]
            if question.template == "presence":
                asked_name = question.question.removeprefix("Is there a ").removesuffix(" in the picture?")
                assert question.answer == yes(asked_name in names)
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
                assert [scene.sentence(event) for event in scene.events].index(
                    scene.sentence(last)
                ) == scene.events.index(last)
            else:
                assert question.answer == PERCEPTION_ORACLES[question.template](record, question), question
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
