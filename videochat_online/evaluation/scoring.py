"""From predictions to numbers: accuracies beside what blind players reach, paired differences of two runs, the cost.

Blind players never look: what they reach is what a benchmark's annotations give away, and a score is what lies above
the best of them. Each is computed from the very questions that are scored, its constant chosen on them, so it is the
best such player. Its words go through the benchmark's own judge.

Knows predictions and questions only. No answer found is wrong and counted; no question is ever left out of a
denominator. Intervals take a video as one draw, since questions about one video are not independent. Scores depend on
the answers alone: a run that was killed or shared out gives the same. What was measured with a clock stands apart.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from statistics import fmean
from textwrap import shorten
from typing import Any, Literal

import numpy as np

from .intervals import accuracy_interval, difference_interval, flip_test, holm
from .predictions import Prediction
from .questions import Question, Reply, Verdict, VideoTask

CHANCE, COMMONEST, BEST = "chance", "commonest_answer", "best_blind"
Judge = Callable[[Question, Reply], Verdict]
Headline = Literal["tasks", "categories", "pooled"]
"""How sub-task accuracies become one number: mean of sub-tasks, mean of category means, or all questions pooled."""
BLIND = "blind"
"""The model under test, asked without frames."""
AGES = (4, 16, 64, 256)
"""Seconds: where one bin of the evidence's age ends and the next begins. Ages are spread over a logarithm."""
AGE_NAMES = (f"< {AGES[0]} s", *(f"{low} to {high} s" for low, high in pairwise(AGES)), f">= {AGES[-1]} s")


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


@dataclass(frozen=True)
class Tally:
    """Right answers and questions per video and sub-task: all that accuracies and intervals are made of."""

    tasks: tuple[str, ...]
    categories: tuple[str, ...]
    """Category of each sub-task."""
    correct: np.ndarray
    """(videos, tasks) sums of right answers; of probabilities for the chance baseline."""
    count: np.ndarray
    """(videos, tasks) number of questions."""

    @classmethod
    def of(cls, predictions: Sequence[Prediction], correct: Sequence[float] | None = None) -> Tally:
        """Tally `correct` (one value a prediction), by default the verdicts. ValueError: there are none."""
        if not predictions:
            raise ValueError("no predictions to score")
        category_of = {p.task: p.category for p in predictions}
        tasks = sorted(category_of, key=lambda task: (category_of[task], task))
        videos, row = np.unique([p.video for p in predictions], return_inverse=True)
        column = np.array([tasks.index(p.task) for p in predictions])
        sums, count = np.zeros((2, len(videos), len(tasks)))
        np.add.at(sums, (row, column), [p.correct for p in predictions] if correct is None else correct)
        np.add.at(count, (row, column), 1)
        return cls(tuple(tasks), tuple(category_of[task] for task in tasks), sums, count)

    def accuracies(self) -> np.ndarray:
        """(tasks,) accuracy of each sub-task."""
        return self.correct.sum(0) / self.count.sum(0)

    def weights(self, kind: str | int) -> np.ndarray:
        """(tasks,) what each sub-task counts in a headline, 1 together; or all for the sub-task at that place.

        Raises ValueError for an unknown kind.
        """
        if isinstance(kind, int):
            return np.eye(len(self.tasks))[kind]
        questions, equal = self.count.sum(0), np.ones(len(self.tasks))
        members = np.array([self.categories.count(category) for category in self.categories])
        found = {"tasks": equal, "categories": 1 / members, "pooled": questions}.get(kind)
        if found is None:
            raise ValueError(f"unknown headline {kind!r}, expected tasks, categories or pooled")
        return found / found.sum()


def headline_of(tally: Tally, kind: str | int) -> float:
    """Mean of the sub-tasks, of the categories (means of their sub-tasks), of all questions, or one sub-task."""
    return float(tally.weights(kind) @ tally.accuracies())


def scores_of(
    kind: Headline,
    tasks: Sequence[VideoTask],
    predictions: Mapping[str, Prediction],
    blind: Mapping[str, Prediction],
    players: Sequence[Player] = (),
) -> dict[str, Any]:
    """Everything that follows from the answers. `blind` may be empty. All questions of `tasks` count.

    `low` and `high` are None where there are too few videos for an interval.
    """
    rows = [predictions[question_id] for question_id in sorted(q.id for task in tasks for q in task.questions)]
    model = Tally.of(rows)
    right = {player.name: player.right for player in with_best(players, rows)}
    tallies = {name: Tally.of(rows, [of[row.id] for row in rows]) for name, of in right.items()}
    baselines = {name: tallies[name] for name in (CHANCE, COMMONEST, BEST) if name in tallies}
    if blind:
        baselines[BLIND] = Tally.of([blind[row.id] for row in rows])
    no_answer = [row.extracted is None for row in rows]
    broken = Counter((row.task_id, row.error) for row in rows if row.error is not None)
    beside = {"unanswered": Tally.of(rows, no_answer), **baselines}
    about_tasks = zip(model.tasks, model.categories, model.count.sum(0), strict=True)
    return {
        "headline": _figures(model, kind, baselines),
        "pooled": _figures(model, "pooled", baselines),
        "questions": len(rows),
        "videos": len({row.task_id for row in rows}),
        "unanswered": fmean(no_answer),
        "not_asked": broken.total(),
        "categories": _categories(model),
        "sources": _sources(rows),
        "ages": _ages(rows, {q.id: q.evidence_age for task in tasks for q in task.questions}, right),
        "players": [
            {"name": player.name, "says": player.says, "accuracy": headline_of(tallies[player.name], kind)}
            for player in players
        ],
        "tasks": [
            {"task": task, "category": category, "questions": int(n), **_figures(model, i, beside)}
            for i, (task, category, n) in enumerate(about_tasks)
        ],
        "problems": [{"video": video, "questions": n, "error": error} for (video, error), n in sorted(broken.items())],
    }


def _figures(model: Tally, kind: str | int, others: Mapping[str, Tally]) -> dict[str, float | None]:
    """The model's accuracy with its interval, and that of others."""
    weight = model.weights(kind)
    used = weight > 0  # a sub-task's interval knows its own videos only
    low, high = accuracy_interval(model.correct[:, used], model.count[:, used], weight[used]) or (None, None)
    shares = {name: headline_of(tally, kind) for name, tally in others.items()}
    return {"accuracy": headline_of(model, kind), "low": low, "high": high, **shares}


def by_age(rows: Sequence[Prediction], ages: Mapping[str, float | None]) -> dict[str, list[Prediction]]:
    """The rows whose evidence has an age (seconds, by question id), as one sub-task a bin of AGES, youngest first."""
    found: dict[str, list[Prediction]] = {name: [] for name in AGE_NAMES}
    for row in rows:
        if (age := ages[row.id]) is not None:
            name = AGE_NAMES[bisect(AGES, age)]
            found[name].append(replace(row, task=f"evidence {name}", category="age"))
    return {name: those for name, those in found.items() if those}


def _ages(
    rows: Sequence[Prediction], ages: Mapping[str, float | None], players: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """The accuracy in each bin, and that of others; nothing where no annotation tells an age."""
    found = []
    for name, those in by_age(rows, ages).items():
        others = {player: Tally.of(those, [right[row.id] for row in those]) for player, right in players.items()}
        found.append({"age": name, "questions": len(those), **_figures(Tally.of(those), "pooled", others)})
    return found


def _sources(rows: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    correct: dict[str, list[bool]] = defaultdict(list)
    for row in sorted(rows, key=attrgetter("source")):
        correct[row.source].append(row.correct)
    return {source: {"questions": len(those), "accuracy": fmean(those)} for source, those in correct.items()}


def _categories(tally: Tally) -> dict[str, dict[str, float]]:
    """Each category: mean of its sub-tasks (as boards report it), and pooled."""
    found = {}
    for name in dict.fromkeys(tally.categories):
        members = np.array(tally.categories) == name
        count = tally.count[:, members].sum()
        found[name] = {
            "questions": int(count),
            "accuracy": float(tally.accuracies()[members].mean()),
            "pooled": float(tally.correct[:, members].sum() / count),
        }
    return found


def cost_of(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What was measured with a clock, over the questions that were asked. Seconds; None where nothing was measured.

    What was done for frames while a question was answered is in no frame's time.
    """
    asked = [row for row in predictions if row.error is None]
    frames = sum(row.new_frames for row in asked)
    frame_seconds = sum(row.frame_seconds for row in asked)
    answer_seconds = sum(row.answer_seconds for row in asked)
    return {
        "frames": frames,
        "seconds_per_frame": frame_seconds / frames if frames else None,
        "seconds_per_question": answer_seconds / len(asked) if answer_seconds else None,
        "seconds": frame_seconds + answer_seconds,
    }


@dataclass(frozen=True)
class Difference:
    """Of two runs on the same questions, accuracies in 0..1."""

    name: str
    num_questions: int
    accuracy_a: float
    accuracy_b: float
    low: float | None
    """95 % interval of the difference; None where there are too few videos."""
    high: float | None
    only_a: int
    """Questions only A got right."""
    only_b: int
    difference: float
    """B minus A."""
    p: float
    """Two-sided, of `flip_test`: A and B swapped in whole videos, which no model behind the videos must fit."""
    p_corrected: float | None
    """Sub-tasks: by Holm for all of them; ages of evidence likewise. The headline is one test, and needs none."""


def paired_differences(a: Sequence[Prediction], b: Sequence[Prediction], kind: Headline) -> list[Difference]:
    """Paired differences: the headline first, then each sub-task. ValueError where the questions are not the same.

    Pairing takes out what is hard about a video for either model.
    """
    by_id = {prediction.id: prediction for prediction in b}
    if {prediction.id for prediction in a} != set(by_id):
        common = len({prediction.id for prediction in a} & set(by_id))
        raise ValueError(f"not the same questions: {len(a)} in A, {len(b)} in B, {common} in both")
    pairs = [(first, by_id[first.id]) for first in sorted(a, key=attrgetter("id"))]
    firsts = [first for first, _ in pairs]
    tally_a, tally_b = Tally.of(firsts), Tally.of(firsts, [second.correct for _, second in pairs])
    gained = Tally.of(firsts, [second.correct and not first.correct for first, second in pairs]).correct
    lost = Tally.of(firsts, [first.correct and not second.correct for first, second in pairs]).correct
    count = tally_a.count
    places: list[tuple[str, str | int]] = [("headline", kind), *((task, i) for i, task in enumerate(tally_a.tasks))]
    found = []
    for name, of in places:
        weight = tally_a.weights(of)
        used = weight > 0
        low, high = difference_interval(gained[:, used], lost[:, used], count[:, used], weight[used]) or (None, None)
        p = flip_test(((gained - lost) / count.sum(0)) @ weight)
        one, other = headline_of(tally_a, of), headline_of(tally_b, of)
        total, only_a, only_b = (int(table[:, used].sum()) for table in (count, lost, gained))
        found.append(Difference(name, total, one, other, low, high, only_a, only_b, other - one, p, None))
    return [found[0], *_corrected(found[1:])]


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """One family of tests."""
    corrected = holm([line.p for line in found])
    return [replace(line, p_corrected=p) for line, p in zip(found, corrected, strict=True)]


def differences_by_age(a: Sequence[Prediction], b: Sequence[Prediction]) -> list[Difference]:
    """The same, pooled, for each bin of the evidence's age, of questions for which either run knows one."""
    ages = dict.fromkeys(row.id for row in a)
    ages |= {row.id: row.evidence_age for row in (*a, *b) if row.evidence_age is not None}
    others = by_age(b, ages)
    pairs = ((those, others[name]) for name, those in by_age(a, ages).items())
    found = [replace(paired_differences(*pair, "pooled")[0], name=pair[0][0].task) for pair in pairs]
    return _corrected(found)
