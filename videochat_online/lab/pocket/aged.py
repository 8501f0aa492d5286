"""Questions about long streams whose evidence is of every age: as many about the last seconds as about an hour ago.

Asked as they come, three of four questions about the past are about the newest sixteen frames, and no memory is tested.
Here many are asked and few are kept, so that ages lie evenly on a logarithmic scale. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.questions import age_of
from ...files import write_json
from ..shapeworld.annotations import streaming_item
from ..shapeworld.build import WorldConfig
from ..shapeworld.questions.context import Decks
from ..shapeworld.questions.engine import ask_questions, default_times
from ..shapeworld.questions.types import SUB_TASKS, WorldQuestion

SEEDS = (0, 1, 2)
"""Of the three worlds, which share no scene with each other or with any that a model learns from."""
FPS = {30.0: 1.0, 120.0: 0.5, 600.0: 0.25}
"""Seconds of a stream -> frames a second that are watched of it."""
YOUNGEST = 2.0
"""Seconds: what is younger is visible now."""
POOL = 400
"""Questions asked of a stream, of which the kept ones are chosen."""
WITHIN = 1.5
"""A kept question's age differs from the one that was wanted by this factor at most."""


@dataclass(frozen=True)
class Streams:
    """Held-out streams of one length in one world, and the rate they are watched at."""

    seconds: float
    fps: float
    seed: int
    num: int
    split: str = "test"
    levels: tuple[int, ...] = (1, 2, 3)

    @property
    def name(self) -> str:
        return (
            f"{self.seconds:g}s-{self.seed}" if self.split == "test" else f"{self.split}-{self.seconds:g}s-{self.seed}"
        )

    @property
    def config(self) -> WorldConfig:
        return WorldConfig(self.num, self.seed, self.split, (self.seconds,), self.levels, questions=0)

    @property
    def times(self) -> np.ndarray:
        """Seconds of the frames."""
        return np.arange(0, self.seconds, 1 / self.fps)


def spread_out(
    asked: Sequence[WorldQuestion], num: int, longest: float, rng: np.random.Generator
) -> list[WorldQuestion]:
    """At most `num` of the questions about the past, their ages log-uniform from YOUNGEST to `longest` seconds.

    Each wanted age takes one of the questions near it, kinds of questions taking turns; none near: none is taken.
    """
    wanted = np.exp(rng.permutation((np.arange(num) + rng.random(num)) / num) * math.log(longest / YOUNGEST)) * YOUNGEST
    ages = {one.id: max(age_of(one.evidence, one.time), 1e-9) for one in asked if not one.visible_now}
    left = [one for one in asked if one.id in ages]
    times_taken: dict[str, int] = {}
    kept: list[WorldQuestion] = []
    for age in wanted:
        near = [one for one in left if 1 / WITHIN < ages[one.id] / age < WITHIN]
        if not near:
            continue
        fewest = min(times_taken.get(one.template, 0) for one in near)
        rare = [one for one in near if times_taken.get(one.template, 0) == fewest]
        one = rare[int(rng.integers(len(rare)))]
        left.remove(one)
        kept.append(one)
        times_taken[one.template] = fewest + 1
    return kept


def write_questions(path: Path, streams: Streams, *, past: int, now: int) -> list[dict[str, Any]]:
    """OVBench annotations of all streams: of each `past` questions of every age and `now` about what is to be seen."""
    config, items = streams.config, []
    decks = Decks(config.rng("decks"))
    for number, (scene, video) in enumerate(config.scenes()):
        rng = config.rng("aged", number)
        times = [time for time in default_times(scene) if time >= min(10.0, scene.seconds / 3)]
        asked = ask_questions(scene, SUB_TASKS, POOL, rng, times, decks=decks)
        visible = [one for one in asked if one.visible_now]
        kept = [visible[place] for place in rng.permutation(len(visible))[:now]]
        kept += spread_out(asked, past, streams.seconds, rng)
        items.append(streaming_item(scene, video, sorted(kept, key=lambda one: (one.time, one.id)), config.fps))
    write_json(path, items)
    return items
