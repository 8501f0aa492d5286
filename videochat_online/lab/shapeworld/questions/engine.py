"""Asks questions about a scene: chooses moments and templates, shuffles options, keeps answers even."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..scenes import Scene
from . import future, hallucination, past, perception, space, temporal
from .context import Bank, Context, Decks, NothingToAsk
from .types import Draft, WorldQuestion

Template = Callable[[Context], Draft]
Templates = tuple[tuple[float, Template], ...]

TEMPLATES: dict[str, Templates] = {
    "AA": ((1.0, future.next_action),),
    "GSP": ((0.6, future.next_step), (0.4, future.goal)),
    "MP": ((1.0, future.movement),),
    "AP": ((0.4, hallucination.action_at_region), (0.6, hallucination.still_count)),
    "SV": ((1.0, hallucination.still_step),),
    "THV-OP": ((0.4, hallucination.was_there), (0.6, hallucination.how_many)),
    "AR": ((0.6, past.past_action), (0.4, past.past_place)),
    "PR": ((0.25, past.first_action), (0.25, past.not_performed), (0.2, past.past_goal), (0.3, past.followed)),
    "TR": ((0.5, past.past_region), (0.25, past.past_box), (0.25, past.first_appearance)),
    "AL": ((0.4, space.where_action), (0.2, space.box_action), (0.4, space.what_action)),
    "SP-OP": ((0.5, space.where_object), (0.5, space.relative_position)),
    "AT": ((1.0, space.action_trajectory),),
    "OT": ((0.65, space.object_trajectory), (0.35, space.closer_or_farther)),
    "AS": ((0.5, temporal.last_two), (0.25, temporal.order_of_two), (0.25, temporal.last_three)),
    "SL": ((0.65, temporal.when_started), (0.35, temporal.how_long)),
    "OES": ((0.5, temporal.when_away), (0.5, temporal.when_back)),
}
"""Per sub-task its templates and how often each is tried first."""

FIRST_SECONDS = 4.0
"""No question is asked earlier."""
ATTEMPTS = 60
"""Moments a template is tried at before another one gets its turn."""
FEW_ATTEMPTS: dict[Template, int] = {
    hallucination.still_count: 2,
    hallucination.how_many: 4,
    past.first_appearance: 2,
    temporal.when_started: 4,
    temporal.when_away: 1,
    temporal.when_back: 1,
}
"""Templates whose answers depend on the scene and the moment: trying until something fits would favour rare answers,
and a reader could tell."""
LATE: frozenset[Template] = frozenset({past.first_appearance, temporal.when_away, temporal.when_back})
"""Asked in the second half of the moments, when there is more to say."""


def ask_questions(
    scene: Scene,
    sub_tasks: Iterable[str] | None = None,
    num: int = 16,
    rng: np.random.Generator | None = None,
    times: Sequence[float] | None = None,
    *,
    decks: Decks | None = None,
) -> list[WorldQuestion]:
    """Up to `num` questions in order of time, the sub-tasks taking turns; fewer where the scene has no more to ask.

    `sub_tasks`: keys of SUB_TASKS, all by default. `rng`: by default seeded by the scene. `times`: the moments to
    choose from, multiples of half a second; by default all from FIRST_SECONDS on. `decks`: shared over many calls,
    they make answers and letters come out even over all of them.
    """
    return _ask(scene, TEMPLATES, _known(sub_tasks, TEMPLATES), num, rng, times, decks)


def ask_perception(
    scene: Scene,
    kinds: Iterable[str] | None = None,
    num: int = 8,
    rng: np.random.Generator | None = None,
    times: Sequence[float] | None = None,
    *,
    decks: Decks | None = None,
) -> list[WorldQuestion]:
    """Simple training questions of the kinds in PERCEPTION_KINDS, otherwise as `ask_questions`."""
    table = {kind: ((1.0, template),) for kind, template in perception.TEMPLATES.items()}
    return _ask(scene, table, _known(kinds, table), num, rng, times, decks)


PERCEPTION_KINDS: tuple[str, ...] = tuple(perception.TEMPLATES)


def default_times(scene: Scene) -> list[float]:
    """Every half second at which questions may be asked, up to the last one of which there is a picture."""
    return [half / 2 for half in range(int(2 * FIRST_SECONDS), math.ceil(2 * scene.seconds))]


def _known(names: Iterable[str] | None, table: Mapping[str, Templates]) -> list[str]:
    chosen = list(table if names is None else names)
    unknown = [name for name in chosen if name not in table]
    if unknown or not chosen:
        raise ValueError(f"unknown kind of question {unknown}, expected some of {', '.join(table)}")
    return chosen


def _ask(
    scene: Scene,
    table: Mapping[str, Templates],
    names: list[str],
    num: int,
    rng: np.random.Generator | None,
    times: Sequence[float] | None,
    decks: Decks | None,
) -> list[WorldQuestion]:
    """1. Sub-tasks take turns in random order. 2. Each tries its templates. 3. One that finds nothing new drops out."""
    rng = rng or np.random.default_rng([scene.seed, *scene.key.encode()])
    moments = default_times(scene) if times is None else [float(time) for time in times]
    asker = _Asker(scene, rng, moments, decks or Decks(rng))
    found: list[WorldQuestion] = []
    turn: list[str] = []
    names = list(names)
    while len(found) < num and names:
        turn = turn or [names[i] for i in rng.permutation(len(names))]
        name = turn.pop()
        question = asker.ask(name, table[name])
        if question is None:
            names.remove(name)
            turn = [other for other in turn if other != name]
        else:
            found.append(question)
    return sorted(found, key=lambda question: (question.time, question.id))


class _Asker:
    """Asks about one scene and never asks the same twice."""

    def __init__(self, scene: Scene, rng: np.random.Generator, moments: list[float], decks: Decks) -> None:
        _check_times(scene, moments)
        self.scene, self.rng, self.moments, self.decks = scene, rng, moments, decks
        self.bank = Bank(scene, rng)
        self.late = sorted(moments)[len(moments) // 2 :]
        self.notes: dict = {}
        self.asked: set[tuple[float, str]] = set()

    def ask(self, name: str, templates: Templates) -> WorldQuestion | None:
        """One question of a sub-task; the templates in random order, the likelier ones sooner."""
        weights = np.array([weight for weight, _ in templates])
        order = np.argsort(-np.log(self.rng.random(len(weights))) / weights)
        for place in order:
            template = templates[place][1]
            for _ in range(FEW_ATTEMPTS.get(template, ATTEMPTS)):
                moments = self.late if template in LATE else self.moments
                moment = moments[int(self.rng.integers(len(moments)))]
                context = Context(self.scene, moment, self.rng, self.decks, self.bank, self.moments, self.notes)
                try:
                    draft = template(context)
                except NothingToAsk:
                    continue
                time = moment if draft.time is None else draft.time
                if (time, draft.question) not in self.asked:
                    return self._finish(name, time, draft)
        return None

    def _finish(self, name: str, time: float, draft: Draft) -> WorldQuestion:
        """Place the right option, evenly over the letters, and settle the decks that the template looked at."""
        num_options = 1 + len(draft.wrong)
        place = self.decks.take(("letter", name, num_options), range(num_options))
        if draft.answer in hallucination.YES_NO:
            self.decks.take((draft.template, "truth"), (True, False))
        options = [draft.wrong[i] for i in self.rng.permutation(len(draft.wrong))]
        options.insert(place, draft.answer)
        evidence = tuple((max(0.0, start), min(end, time)) for start, end in draft.evidence)
        self.asked.add((time, draft.question))
        label = f"{self.scene.key}/{name}-{len(self.asked)}"
        return WorldQuestion(label, name, draft.template, time, draft.question, tuple(options), place, evidence)


def _check_times(scene: Scene, moments: list[float]) -> None:
    if not moments:
        end = f"the scene's end at {scene.seconds:g} s"
        raise ValueError(f"no moment to ask at between {FIRST_SECONDS:g} s and {end}")
    wrong = [time for time in moments if not 0 < time <= scene.seconds or 2 * time != int(2 * time)]
    if wrong:
        raise ValueError(f"times must be half seconds within 0 to {scene.seconds:g} s, got {wrong[:5]}")
