"""What a question template works with: the scene, the moment, chance, and other scenes to borrow answers from.

Borrowing keeps questions fair: a wrong option that is the true answer of an independent scene to the same question
cannot be told from the right one by reading. See `Context.borrow` and `Context.spread`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from ..scenes import Scene, Segment, Thing
from ..simulate import MAX_SEED, sample_stream

T = TypeVar("T")
V = TypeVar("V", bound=Hashable)

BANK_SCENES = 24
MOST_MOMENTS = 80
SPREAD_STEP = 4
GAPS: tuple[int, ...] = (3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 45, 60, 90, 120, 180, 300)
"""Seconds ago that questions ask about."""
ACT_SEEN = 1.0
"""An action counts as seen once it has lasted this long."""


class NothingToAsk(Exception):
    """What a template raises that has nothing to ask at its moment; the asker tries another moment or template."""


def needed(value: T | None) -> T:
    """The value; NothingToAsk where there is none."""
    if value is None:
        raise NothingToAsk
    return value


class Decks:
    """Draws that come out even: each value of a deck once before any comes again."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._cards: dict[Hashable, list] = {}

    def peek(self, name: Hashable, values: Sequence[T]) -> T:
        """The next value of the deck, which stays there until `take`."""
        cards = self._cards.get(name)
        if not cards:
            cards = self._cards[name] = [values[i] for i in self._rng.permutation(len(values))]
        return cards[-1]

    def take(self, name: Hashable, values: Sequence[T]) -> T:
        value = self.peek(name, values)
        self._cards[name].pop()
        return value


@dataclass
class Context:
    """One attempt to ask something about a scene at a time. Methods raise NothingToAsk where they find nothing."""

    scene: Scene
    time: float
    rng: np.random.Generator
    decks: Decks
    bank: Bank
    moments: Sequence[float]
    """All that may be asked at."""
    notes: dict
    """Kept from one attempt to the next."""

    def pick(self, values: Iterable[T]) -> T:
        """One of the values, all equally likely."""
        values = list(values)
        if not values:
            raise NothingToAsk
        return values[int(self.rng.integers(len(values)))]

    def some(self, values: Iterable[T], num: int) -> list[T]:
        """`num` different values in random order (fewer when there are fewer)."""
        values = list(values)
        return [values[i] for i in self.rng.permutation(len(values))[:num]]

    def truth(self, template: str) -> bool:
        """Whether the answer shall be yes: as often as no. A template asks only where both were possible."""
        return self.decks.peek((template, "truth"), (True, False))

    def gap(self) -> int:
        """How many seconds ago to ask about."""
        return self.pick(gap for gap in GAPS if gap <= self.time - 0.5)

    def borrow(self, answer: V, ask: Callable[[Scene, Thing], V | None], num: int) -> list[V]:
        """`num` answers that random things of other scenes give to the same question.

        Drawn once, not until they differ: a set with equals is given up whole, the right answer with it. So right
        and wrong options are independent draws under a symmetric condition, and none stands out.
        """
        options = [answer]
        while len(options) <= num:
            other = needed(self.bank.answer(ask))
            if other in options:
                raise NothingToAsk
            options.append(other)
        return options[1:]

    def spread(
        self, answer: V, ask: Callable[[Scene, Thing], V | None], num: int, key: Callable[[V], float], apart: float
    ) -> list[V]:
        """Like `borrow` for values on a line: `num` evenly spread ones, whose `key`s all lie `apart`.

        The answer is ranked among independent answers from other scenes, and the options are every n-th rank from
        there, around the end to the beginning: each of them is equally likely to be the right one.
        """
        ranked = [answer]
        while len(ranked) < SPREAD_STEP * (num + 1):
            ranked.append(needed(self.bank.answer(ask)))
        order = sorted(range(len(ranked)), key=lambda place: (key(ranked[place]), self.rng.random()))
        first = order.index(0)
        options = [ranked[order[(first + SPREAD_STEP * step) % len(order)]] for step in range(num + 1)]
        keys = sorted(map(key, options))
        if any(after - before < apart for before, after in pairwise(keys)):
            raise NothingToAsk
        return options[1:]

    def occasions(self, classify: Callable[[Scene, Thing, float], V | None]) -> dict[V, list[tuple[Thing, float]]]:
        """Per value the things and moments of this scene that show it; looked up once a scene."""
        if classify not in self.notes:
            found: dict[Hashable, list[tuple[Thing, float]]] = {}
            for time in self.some(self.moments, MOST_MOMENTS):
                for thing in self.scene.things:
                    value = classify(self.scene, thing, time)
                    if value is not None:
                        found.setdefault(value, []).append((thing, time))
            self.notes[classify] = found
        return self.notes[classify]

    def one_in(self, num: int, classify: Callable[[Scene, Thing, float], V | None], usual: V) -> tuple[Thing, float, V]:
        """A thing and moment; the `usual` value in one of `num` cases although it is the most frequent.

        Nothing where the scene shows only the usual value, or never: what a scene has must not decide the answer.
        """
        found = self.occasions(classify)
        rare = [(*occasion, value) for value, rows in found.items() if value != usual for occasion in rows]
        if usual not in found or not rare:
            raise NothingToAsk
        if self.rng.random() * num >= 1:
            return self.pick(rare)
        thing, time = self.some(found[usual], 1)[0]
        return thing, time, usual

    def visible(self) -> list[Thing]:
        """Things in full view now."""
        return [thing for thing in self.scene.things if self.scene.standing(thing, self.time)]

    def acting(self, *, again: bool = False) -> list[tuple[Thing, Segment]]:
        """Things in full view that have been acting long enough to be recognised; `again`: not for the first time."""
        acts = [(thing, act) for thing in self.visible() if (act := current_act(thing, self.time)) is not None]
        return [(thing, act) for thing, act in acts if not again or len(seen_acts(thing, self.time)) > 1]


def current_act(thing: Thing, time: float) -> Segment | None:
    """The action a thing is performing and has been seen to perform."""
    segment = thing.at(time)
    return segment if segment.kind == "act" and time - segment.start >= ACT_SEEN else None


def seen_acts(thing: Thing, time: float) -> list[Segment]:
    """Actions seen so far, oldest first; one that has only just begun does not count."""
    return [act for act in thing.acts if time - act.start >= ACT_SEEN]


def at_rest(scene: Scene, thing: Thing, time: float) -> bool:
    """In full view at its cell for half a second around `time`."""
    return all(scene.standing(thing, max(0.0, moment)) for moment in (time - 0.5, time, time + 0.5))


class Bank:
    """Other scenes of the same kind, sampled when first needed and used for nothing else.

    New ones for each call of `ask_questions`: from a fixed bank one could learn which answers are borrowed.
    """

    def __init__(self, like: Scene, rng: np.random.Generator) -> None:
        self._like, self._rng = like, rng
        self._scenes: dict[int, Scene] = {}

    def scene(self) -> Scene:
        """One of BANK_SCENES scenes, all equally likely."""
        place = int(self._rng.integers(BANK_SCENES))
        if place not in self._scenes:
            seed, like = int(self._rng.integers(MAX_SEED)), self._like
            self._scenes[place] = sample_stream(seed, "bank", like.level, like.seconds, pace=like.pace)
        return self._scenes[place]

    def answer(self, ask: Callable[[Scene, Thing], V | None], tries: int = 40) -> V | None:
        """What a random thing answers, skipping things that have no answer."""
        for _ in range(tries):
            scene = self.scene()
            value = ask(scene, scene.things[int(self._rng.integers(len(scene.things)))])
            if value is not None:
                return value
        return None
