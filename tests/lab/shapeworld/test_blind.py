"""Nobody answers without looking: the baselines that see text only stay at chance."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from videochat_online.lab.shapeworld import WorldQuestion, ask_questions, sample_stream
from videochat_online.lab.shapeworld.blind import BlindReader, blind_scores, chance_of, option_features


def ask(split: str, num: int) -> list[WorldQuestion]:
    scenes = (sample_stream(seed, split, 1 + seed % 4, 30) for seed in range(num))
    return [question for scene in scenes for question in ask_questions(scene, num=16)]


@pytest.fixture(scope="module")
def train() -> list[WorldQuestion]:
    return ask("train", 315)  # about 5000 questions


@pytest.fixture(scope="module")
def test() -> list[WorldQuestion]:
    return ask("test", 160)


def test_the_reader_stays_at_chance(train, test):
    """Within three standard deviations of a guesser over all 2,500 questions (2.8 points), four in each sub-task."""
    scores = blind_scores(train, test)
    everything = scores.pop("all")
    assert everything.num > 2400 and len(train) > 4900
    assert abs(everything.reader - everything.chance) < 3 * everything.noise
    assert len(scores) == 16
    for name, score in scores.items():
        assert abs(score.reader - score.chance) < 4 * score.noise, name


def test_letters_are_even(train, test):
    """The commonest letter wins nothing: each letter is right as often as it is offered, within four deviations."""
    offered: dict[tuple[int, str], float] = defaultdict(float)
    right: Counter[tuple[int, str]] = Counter()
    for question in [*train, *test]:
        num = len(question.options)
        right[num, question.letter] += 1
        for letter in "ABCD"[:num]:
            offered[num, letter] += 1 / num
    for key, expected in offered.items():
        assert abs(right[key] - expected) < 4 * expected**0.5, key


def test_yes_and_no_are_even_for_every_template(train, test):
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in [*train, *test]:
        if set(question.options) == {"Yes", "No"}:
            answers[question.template][question.answer] += 1
    assert set(answers) == {"action_at_region", "still_count", "still_step", "was_there", "followed"}
    for template, counts in answers.items():
        assert abs(counts["Yes"] - counts["No"]) < 4 * counts.total() ** 0.5, template


def test_chance_is_like_that_of_the_real_benchmark(test):
    """OVBench: 29.5 percent over its sub-tasks."""
    by_task = defaultdict(list)
    for question in test:
        by_task[question.sub_task].append(question)
    assert sum(map(chance_of, by_task.values())) / 16 == pytest.approx(0.295, abs=0.02)


@pytest.mark.parametrize("leak", ["option", "number", "letter", "question"])
def test_the_reader_finds_a_leak(leak):
    """The reader is no straw man: it learns each kind of shortcut from a few hundred questions."""
    made = [leaky_question(leak, number) for number in range(600)]
    reader = BlindReader().fit(made[:400])
    found = sum(reader.predict(question) == question.answer_index for question in made[400:]) / 200
    assert found > 0.6


def leaky_question(leak: str, number: int) -> WorldQuestion:
    """One of four options; in four of five cases the same word, the least number, the first, or in the question."""
    rng = np.random.default_rng([number, *leak.encode()])
    options = tuple(rng.permutation(["spin", "glow", "grow", "fade"]).tolist())
    place, text, plain = int(rng.integers(4)), "What is it?", rng.random() < 0.2
    if leak == "number":
        times = rng.permutation(20)[:4]
        options = tuple(f"at {time}.0s" for time in times)
        place = place if plain else int(times.argmin())
    elif leak == "option":
        place = place if plain else options.index("glow")
    elif leak == "letter":
        place = place if plain else 0
    else:
        text = text if plain else f"Does it {options[place]} now?"
    return WorldQuestion(f"q{number}", "AA", f"leak-{leak}", 10.0, text, options, place, ((9.0, 10.0),))


def test_features_are_about_the_option_and_its_company():
    question = leaky_question("number", 0)
    features = option_features(question)
    assert len(features) == 4
    ranks = [next(feature[-1] for feature in found if "rank=" in feature) for found in features]
    assert sorted(ranks) == ["0", "1", "2", "3"]
    assert any("with=" in feature for feature in features[0])
