"""Baselines that see no frame: chance, the commonest letter, and a naive Bayes reader of questions and options.

A benchmark is only fair where they all stay at chance. The reader knows each option's words, its place among numbers,
how much it resembles the other options, and its company: every pair of option and question word, option and option.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

from .questions.types import WorldQuestion


@dataclass(frozen=True)
class Score:
    """Accuracy of a baseline over some questions."""

    num: int
    chance: float
    letter: float
    """Always the letter that is commonest in the sub-task, found on the same questions."""
    reader: float

    @property
    def noise(self) -> float:
        """Standard deviation of the accuracy of a guesser."""
        return (self.chance * (1 - self.chance) / max(1, self.num)) ** 0.5


class BlindReader:
    """Naive Bayes over (question, option): is the option right?"""

    def __init__(self, smoothing: float = 2.0) -> None:
        self.smoothing = smoothing
        self._right: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()

    def fit(self, questions: Iterable[WorldQuestion]) -> BlindReader:
        for question in questions:
            for place, features in enumerate(option_features(question)):
                counts = self._right if place == question.answer_index else self._wrong
                counts.update(features)
        return self

    def predict(self, question: WorldQuestion) -> int:
        """Index of the likeliest option."""
        num_wrong = len(question.options) - 1
        scores = [self._score(features, num_wrong) for features in option_features(question)]
        return scores.index(max(scores))

    def _score(self, features: Iterable[str], num_wrong: int) -> float:
        """Sum over the kinds of features of their mean evidence: words that come together count once."""
        smooth = self.smoothing
        kinds: dict[str, list[float]] = defaultdict(list)
        for feature in features:
            evidence = log((self._right[feature] + smooth) / (self._wrong[feature] + smooth * num_wrong))
            kinds[feature.split("=")[0]].append(evidence)
        return sum(sum(found) / len(found) for found in kinds.values())


def option_features(question: WorldQuestion) -> list[set[str]]:
    """What can be known about each option from the text alone."""
    options, template = question.options, question.template
    numbers = [_first_number(option) for option in options]
    words = [set(option.replace("->", " ").replace(",", " ").split()) for option in options]
    features = []
    for place, option in enumerate(options):
        shared = sum(len(words[place] & other) for index, other in enumerate(words) if index != place)
        found = {f"o={option}", f"shared={shared}", f"place={place}"}
        found |= {f"w={word}" for word in words[place]}
        found |= {f"q={word}>{option}" for word in question.question.split()}
        found |= {f"with={other}>{option}" for other in options if other != option}
        if None not in numbers:
            found.add(f"rank={sorted(numbers, key=lambda n: n or 0).index(numbers[place])}")
        features.append({f"{template}|{len(options)}|{feature}" for feature in found})
    return features


def _first_number(option: str) -> float | None:
    for word in option.replace("[", " ").replace(",", " ").replace("s", " ").split():
        try:
            return float(word)
        except ValueError:
            continue
    return None


def chance_of(questions: Sequence[WorldQuestion]) -> float:
    return sum(1 / len(question.options) for question in questions) / len(questions)


def letter_accuracy(questions: Sequence[WorldQuestion]) -> float:
    """Always the commonest letter of the sub-task."""
    letters: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        letters[question.sub_task][question.letter] += 1
    return sum(max(counts.values()) for counts in letters.values()) / len(questions)


def blind_scores(
    train: Sequence[WorldQuestion], test: Sequence[WorldQuestion], *, by: str = "sub_task"
) -> dict[str, Score]:
    """Scores on `test` per sub-task (or `by="template"`), and over everything under "all"."""
    reader = BlindReader().fit(train)
    groups: dict[str, list[WorldQuestion]] = defaultdict(list)
    for question in test:
        groups[getattr(question, by)].append(question)
    groups["all"] = list(test)
    return {
        name: Score(
            len(group), chance_of(group), letter_accuracy(group),
            sum(reader.predict(question) == question.answer_index for question in group) / len(group),
        )
        for name, group in groups.items()
    }  # fmt: skip
