"""Training samples about a part of a video, one skill each: VideoChat2-IT rows.

Among the frames of a few seconds the right one is found by chance often enough to learn from. And a skill alone is
learnt within some hundred steps that thousands of steps of a broad mixture do not teach; mixed in from then on, and
asked for in longer parts too, it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .questions.context import GAPS, Decks, current_act
from .questions.engine import ask_perception, ask_questions, default_times
from .questions.future import MOVEMENT, direction_of
from .questions.hallucination import HOW_MANY, STILL_COUNT, compared, yes_or_no
from .questions.past import last_acts
from .questions.perception import DIRECTION, DOING, MOVING, NOTHING, OUT_OF_SIGHT, doing, when_question
from .questions.temporal import AWAY, HOW_LONG, RETURNED, STARTED, elapsed, last_absence, last_return, span
from .questions.types import WorldQuestion
from .samples import ANSWER, CHOICES, PICTURE_CLAIMS, Sample, choice_row, first_second, frame_moments, seen_at
from .scenes import Scene
from .vocabulary import ACTION_NAMES, STATIONARY, clock, duration

COUNT_AT = "How many objects were on the screen at {}?"
Answered = list[tuple[str, str]]
"""Questions without options, and their answers."""
MOST_QUESTIONS = 12
"""Of one kind about a clip."""
IN_ORDER = 0.6
"""Share of the clips whose later questions can be answered from the answers before them."""
SKIP_STATIONARY = 0.6
"""Share of the things at rest that nobody asks about."""
ASK_DOING = 0.4
"""Share of a thing's seconds that are asked about."""
ACT_SUB_TASKS = ("AA", "GSP", "AS", "PR", "SV", "AT", "AR")
"""What the last actions of a thing answer."""
PATH_SUB_TASKS = ("AT", "OT", "TR", "AR")
CLAIM_SUB_TASKS = (*PICTURE_CLAIMS, "THV-OP")


def moments(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> Answered:
    """What was to be seen at a second, and the other way round: when something was to be seen that was so only once.

    The first kind comes first: half of the time up to MOST_QUESTIONS of them, from whose answers the second kind can be
    answered, else two.
    """
    seconds = frame_moments(start, end)
    forth: Answered = []
    back: Answered = []
    looks = [seen_at(scene, time) for time in seconds]
    for time, look in zip(seconds, looks, strict=True):
        if look is not None:
            forth.append((f"At {clock(time)}?", look))
            if None not in looks and looks.count(look) == 1 and look != NOTHING:
                back.append((f"When was this to be seen: {look}?", f"at {clock(time)}"))
    for thing in scene.things:
        name, states = thing.name(end), [doing(scene, thing, time) for time in seconds]
        for time, state in zip(seconds, states, strict=True):
            if state is not None and rng.random() < ASK_DOING:
                forth.append((DOING.format(name, clock(time)), state))
            if state is not None and None not in states and states.count(state) == 1:
                back.append((f"When was {name} {_in_words(state)}?", f"at {clock(time)}"))
    return _some(forth, rng, most=MOST_QUESTIONS if rng.random() < 0.5 else 2) + _some(back, rng)


def _in_words(state: str) -> str:
    """ "spin top" -> "performing the spin at the top" """
    if state in (MOVING, OUT_OF_SIGHT):
        return state
    action, region = state.split(" ")
    return f"at the {region}" if action == NOTHING else f"performing the {action} at the {region}"


def whens(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> Answered:
    """When something within a clip happened, a second before its end at the latest, and how long it lasts."""
    found: Answered = []
    events = [(when_question(scene, event), event.time) for event in scene.events if start <= event.time <= end]
    texts = [text for text, _ in events]
    for text, time in events:
        if texts.count(text) == 1 and start + 0.5 <= time <= end - 1:
            found.append((text, f"at {clock(time)}"))
    for thing in scene.things:
        name, back, away = thing.name(end), last_return(thing, end), last_absence(thing, end)
        for act in last_acts(thing, end):
            if act.start > start:
                found.append((STARTED.format(name, ACTION_NAMES[act.action]), f"at {clock(act.start)}"))
        if back is not None and back > start:
            found.append((RETURNED.format(name), f"at {clock(back)}"))
        if away is not None and away[0] > start:
            found.append((AWAY.format(name), span(*away)))
        now, length = current_act(thing, end), elapsed(scene, thing, end)
        if now is not None and length is not None and now.start > start:
            found.append((HOW_LONG.format(name, ACTION_NAMES[now.action]), duration(length)))
    if not found:
        return []
    before = moments(scene, start, end, rng, decks) if rng.random() < 0.5 else []
    return before + _some(found, rng)


def moves(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> Answered:
    """Where things are going at the end of a clip; of those that stand still, less than half."""
    found: Answered = []
    for thing in scene.things:
        name, direction = thing.name(end), direction_of(scene, thing, end)
        if direction is None or (direction == STATIONARY and rng.random() < SKIP_STATIONARY):
            continue
        found.append((MOVEMENT.format(name), direction))
        found += [(DIRECTION.format(name), direction)] if direction != STATIONARY else []
    return _some(found, rng)


def counts(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> Answered:
    """How many things there were at each second and, from the answers or not, what has become of their number."""
    now = scene.count(end)
    counted = [(time, scene.count(time)) for time in frame_moments(start, end)]
    found: Answered = []
    compare: Answered = []
    for time, number in counted:
        if number is not None:
            found.append((COUNT_AT.format(clock(time)), str(number)))
            if now is not None and end - time == int(end - time) >= GAPS[0] and rng.random() < 0.5:
                compare.append((HOW_MANY.format(duration(end - time), clock(time)), compared(number, now)))
    if now is not None:
        claimed = now if rng.random() < 0.5 else max(0, now + int(rng.choice([-1, 1])))
        compare.append((STILL_COUNT.format(claimed), yes_or_no(claimed == now)[0]))
    asked = _some(found, rng, most=8) + compare
    return asked if rng.random() < IN_ORDER else _some(asked, rng)


def act_questions(
    scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks
) -> list[WorldQuestion]:
    """What things did within a clip and what follows from it; mostly the actions first, then what follows."""
    asked = ask_questions(scene, ACT_SUB_TASKS, 2 * len(ACT_SUB_TASKS), rng, [end], decks=decks)
    asked += ask_perception(scene, ("history", "action"), 3, rng, [end], decks=decks)
    asked = _some([question for question in asked if _within(question, start)], rng)
    if rng.random() < IN_ORDER:
        asked.sort(key=lambda question: {"history": 0, "action": 0, "AS": 1}.get(question.sub_task, 2))
    return asked


def paths(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> list[WorldQuestion]:
    """Where things were within a clip and which way they went; half of the time after what they did at some moments."""
    asked = ask_questions(scene, PATH_SUB_TASKS, 8, rng, [end], decks=decks)
    before = ask_perception(scene, ("doing_at",), 3, rng, [end], decks=decks) if rng.random() < 0.5 else []
    return [question for part in (before, asked) for question in _some(part, rng) if _within(question, start)]


def claims(scene: Scene, start: float, end: float, rng: np.random.Generator, decks: Decks) -> list[WorldQuestion]:
    """What is still so at the end of a clip and what was there in it; half of the time after how many there are."""
    asked = ask_questions(scene, CLAIM_SUB_TASKS, 7, rng, [end], decks=decks)
    asked = _some([question for question in asked if _within(question, start)], rng)
    return (ask_perception(scene, ("count",), 1, rng, [end], decks=decks) if rng.random() < 0.5 else []) + asked


def _within(question: WorldQuestion, start: float) -> bool:
    """Whether a clip from `start` on shows all that the answer needs."""
    return all(begin >= start for begin, _ in question.evidence)


def _some(values: list, rng: np.random.Generator, most: int = MOST_QUESTIONS) -> list:
    return [values[place] for place in rng.permutation(len(values))[:most]]


@dataclass(frozen=True)
class Clip:
    """One set: what it asks, of how many parts of each video, and their fewest and most whole seconds."""

    ask: Callable[[Scene, float, float, np.random.Generator, Decks], Answered | list[WorldQuestion]]
    number: int
    shortest: int
    longest: int


CLIPS: dict[str, Clip] = {
    "clip_acts": Clip(act_questions, 4, 5, 12),
    "clip_moves": Clip(moves, 6, 2, 5),
    "clip_moments": Clip(moments, 5, 2, 6),
    "clip_whens": Clip(whens, 4, 3, 10),
    "clip_counts": Clip(counts, 4, 3, 12),
    "clip_paths": Clip(paths, 4, 5, 14),
    "clip_claims": Clip(claims, 4, 3, 14),
    "stream_acts": Clip(act_questions, 2, 12, 29),
    "stream_whens": Clip(whens, 1, 12, 29),
    "stream_claims": Clip(claims, 1, 12, 29),
}
"""All are asked alike, though not every one needs the beginning or the decks."""


def clips(scene: Scene, video: str, kind: str, rng: np.random.Generator, decks: Decks) -> list[Sample]:
    """VideoChat2-IT rows of one of CLIPS; fewer where a clip has nothing to ask."""
    clip = CLIPS[kind]
    rows = []
    for _ in range(clip.number):
        end = float(rng.choice(default_times(scene)))
        start = max(0.0, float(int(end) - int(rng.integers(clip.shortest, clip.longest + 1)))) + first_second(rng)
        asked: Sequence[tuple[str, str] | WorldQuestion] = clip.ask(scene, start, end, rng, decks)
        if asked:
            rows.append({"video": video, "start": start, "end": end, "QA": [_row(one, rng) for one in asked]})
    return rows


def _row(asked: WorldQuestion | tuple[str, str], rng: np.random.Generator) -> Sample:
    if isinstance(asked, tuple):
        return {"i": ANSWER, "q": asked[0], "a": asked[1]}
    return choice_row(asked, choose=bool(rng.random() < CHOICES))
