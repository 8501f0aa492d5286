"""What is reported of a finished run: the headline, every group, its baselines and intervals, and the cost.

Scores depend on questions and predictions alone, so a run that was killed or shared out gives the same ones;
what was measured with a clock stands apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .benchmarks.base import Benchmark
from .scoring import Tally, chance_of, commonest_of, headline, headline_of, interval
from .types import Prediction, VideoTask

CHANCE, COMMONEST, BLIND = "chance", "commonest_answer", "blind"


def scores_of(
    benchmark: Benchmark,
    tasks: Sequence[VideoTask],
    predictions: Mapping[str, Prediction],
    blind: Mapping[str, Prediction],
) -> dict[str, Any]:
    """Everything that follows from the answers. `blind` may be empty. All questions of `tasks` count."""
    questions = {question.id: question for task in tasks for question in task.questions}
    rows = [predictions[question_id] for question_id in sorted(questions)]
    model = Tally.of(rows)
    baselines = {CHANCE: chance_of(rows, questions), COMMONEST: commonest_of(rows)}
    if blind:
        baselines[BLIND] = Tally.of([blind[question_id] for question_id in sorted(questions)])
    drawn = model.resampled()
    spread = headline(benchmark.headline, *drawn, model.categories)
    pooled_spread = headline("pooled", *drawn, model.categories)
    return {
        "headline": {
            "what": benchmark.headline_name,
            **_with_interval(headline_of(model, benchmark.headline), spread),
            **{name: headline_of(tally, benchmark.headline) for name, tally in baselines.items()},
        },
        "pooled": {
            **_with_interval(headline_of(model, "pooled"), pooled_spread),
            **{name: headline_of(tally, "pooled") for name, tally in baselines.items()},
        },
        "questions": len(rows),
        "videos": len({row.task_id for row in rows}),
        "unanswered": _share(row.extracted is None for row in rows),
        "not_asked": sum(row.error is not None for row in rows),
        "categories": _categories(model),
        "sources": {
            source: {"questions": len(members), "accuracy": _share(row.correct for row in members)}
            for source, members in _grouped(rows, "source").items()
        },
        "tasks": _task_rows(model, drawn, baselines, rows),
        "problems": _problems(rows),
        "notes": benchmark.notes(list(tasks), rows),
    }


def _with_interval(value: float, spread: Any) -> dict[str, float]:
    low, high = interval(spread)
    return {"accuracy": value, "low": low, "high": high}


def _share(values: Any) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def _grouped(rows: Sequence[Prediction], field: str) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for row in sorted(rows, key=lambda row: (getattr(row, field), row.id)):
        groups.setdefault(getattr(row, field), []).append(row)
    return groups


def _categories(tally: Tally) -> dict[str, dict[str, float]]:
    """Each category: mean of its sub-tasks (as boards report it), and pooled."""
    found = {}
    for name in dict.fromkeys(tally.categories):
        members = [i for i, category in enumerate(tally.categories) if category == name]
        count = tally.count[:, members].sum()
        found[name] = {
            "questions": int(count),
            "accuracy": float(tally.accuracies()[members].mean()),
            "pooled": float(tally.correct[:, members].sum() / count),
        }
    return found


def _task_rows(
    tally: Tally, drawn: tuple[Any, Any], baselines: Mapping[str, Tally], rows: Sequence[Prediction]
) -> list[dict[str, Any]]:
    members = _grouped(rows, "task")
    found = []
    for i, task in enumerate(tally.tasks):
        present = drawn[1][:, i] > 0
        low, high = interval(drawn[0][present, i] / drawn[1][present, i])
        found.append(
            {
                "task": task,
                "category": tally.categories[i],
                "questions": len(members[task]),
                "accuracy": float(tally.accuracies()[i]),
                "low": low,
                "high": high,
                "unanswered": _share(row.extracted is None for row in members[task]),
                **{name: float(baseline.accuracies()[i]) for name, baseline in baselines.items()},
            }
        )
    return found


def _problems(rows: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Videos whose questions could not be asked, by name."""
    broken: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.error is not None:
            broken[row.task_id, row.error] = broken.get((row.task_id, row.error), 0) + 1
    return [{"video": video, "questions": n, "error": error} for (video, error), n in sorted(broken.items())]


def cost_of(predictions: Sequence[Prediction]) -> dict[str, float | int | None]:
    """What was measured with a clock, over the questions that were asked. Seconds."""
    asked = [row for row in predictions if row.error is None]
    frames = sum(row.new_frames for row in asked)
    frame_seconds = sum(row.frame_seconds for row in asked)
    return {
        "frames": frames,
        "seconds_per_frame": frame_seconds / frames if frames else None,
        "seconds_per_question": sum(row.answer_seconds for row in asked) / len(asked) if asked else None,
        "seconds": frame_seconds + sum(row.answer_seconds for row in asked),
    }
