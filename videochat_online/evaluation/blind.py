"""Players that never look: what a benchmark's annotations give away. A score is what lies above the best of them.

Each is computed from the very questions that are scored, its constant chosen on them, so it is the best such player.
Its words go through the benchmark's own judge. Knows questions, no benchmark and no model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from textwrap import shorten

from .predictions import Prediction
from .questions import Question, Reply, Verdict, VideoTask

CHANCE, COMMONEST, BEST = "chance", "commonest_answer", "best_blind"
Judge = Callable[[Question, Reply], Verdict]


@dataclass(frozen=True)
class Player:
    """`right`: probability of a right answer, by question id. `says`: its rule, for people."""

    name: str
    says: str
    right: Mapping[str, float]


def players_of(judge: Judge, tasks: Sequence[VideoTask]) -> list[Player]:
    """The players that mean something on these questions. Where one has nothing to say, it guesses."""
    questions = sorted((q for task in tasks for q in task.questions), key=attrgetter("id"))
    by_task = commonest((q.task, q.answer) for q in questions if q.poll is None)
    by_kind = commonest((q.kind, q.answer) for q in questions if q.poll is None)
    texts = commonest((q.task, text) for q in questions if (text := _right_text(q)))
    yes = {q.id: label for q in questions if (label := _label_of("yes", q))}
    polled = [q for q in questions if q.poll is not None]

    def playing(name: str, says: str, reply: Callable[[Question], str | None]) -> Player:
        said = ((q, reply(q)) for q in questions)
        right = {q.id: q.chance if text is None else float(judge(q, Reply(text)).correct) for q, text in said}
        return Player(name, says, right)

    found = [
        Player(CHANCE, "guesses among the options", {q.id: q.chance for q in questions}),
        playing(COMMONEST, _listed(by_task), lambda q: by_task.get(q.task)),
        playing("one_answer", _listed(by_kind), lambda q: by_kind.get(q.kind)),
    ]
    if texts:
        found.append(playing("commonest_text", _listed(texts), lambda q: _label_of(texts.get(q.task), q)))
    if yes:
        found.append(playing("always_yes", "Yes wherever it may be said, else guesses", lambda q: yes.get(q.id)))
    if polled:
        seconds, in_time = _best_delay(judge, polled)
        right = {q.id: float(q.id in in_time) if q.poll else q.chance for q in questions}
        found.append(Player("constant_time", f"{seconds} s after the question, else guesses", right))
    return found


def with_best(players: Sequence[Player], rows: Sequence[Prediction] | Sequence[Question]) -> list[Player]:
    """The players, and one that plays as the best of them in each sub-task."""
    ids: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        ids[row.task].append(row.id)
    right: dict[str, float] = {}
    chosen: dict[str, str] = {}
    for task, members in sorted(ids.items() if players else ()):
        best = max(players, key=lambda player: sum(player.right[one] for one in members))
        chosen[task] = best.name
        right |= {one: best.right[one] for one in members}
    return [*players, Player(BEST, _listed(chosen), right)] if players else []


def commonest(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group -> its most frequent value (the first in alphabetical order of equals)."""
    groups: dict[str, list[str]] = defaultdict(list)
    for group, value in pairs:
        groups[group].append(value)
    return {group: Counter(sorted(values)).most_common(1)[0][0] for group, values in groups.items()}


def _listed(says: Mapping[str, str]) -> str:
    return "; ".join(f"{group}: {shorten(value, 40, placeholder='...')}" for group, value in sorted(says.items()))


def _right_text(question: Question) -> str | None:
    """The words of the right option, where the question shows its options."""
    if question.kind != "choice" or not question.options:
        return None
    return _plain(question.options[ord(question.answer) - ord("A")])


def _label_of(text: str | None, question: Question) -> str | None:
    """How the question's option of these words is chosen; None where it has none."""
    options = question.options or (question.labels if question.kind == "yes_no" else ())
    place = next((i for i, option in enumerate(options) if _plain(option) == text), None)
    if place is None:
        return None
    return chr(ord("A") + place) if question.kind == "choice" else question.labels[place]


def _plain(text: str) -> str:
    return text.strip().rstrip(".").casefold()


def _best_delay(judge: Judge, polled: Sequence[Question]) -> tuple[int, set[str]]:
    """The delay, in whole seconds after the question, that is right most often, and for which questions."""
    last = int(max(q.last_time - q.timestamp for q in polled))

    def right_after(seconds: int) -> set[str]:
        said = ((q, Reply(q.answer, answered_at=q.timestamp + seconds)) for q in polled)
        return {q.id for q, reply in said if judge(q, reply).correct}

    return max(((delay, right_after(delay)) for delay in range(1, last + 1)), key=lambda one: len(one[1]))
