"""The report of a finished run: what is known, in json, csv, markdown and a picture, and result.json to submit.

Scores depend on questions and predictions alone, so a run that was killed or shared out gives the same ones;
what was measured with a clock stands apart under `cost`.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .benchmarks.base import Benchmark
from .predictions import replace_file
from .scoring import Tally, chance_of, commonest_of, headline, headline_of, interval
from .types import Prediction, VideoTask

CHANCE, COMMONEST, BLIND = "chance", "commonest_answer", "blind"
COLUMNS = ("task", "category", "questions", "accuracy", "low", "high", "unanswered", CHANCE, COMMONEST, BLIND)
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "decord", "av")


def scores_of(
    benchmark: Benchmark, tasks: Sequence[VideoTask], predictions: Mapping[str, Prediction], blind: Mapping[str, Prediction]
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


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """What is needed to repeat a run beside its config: command, commit, versions, machine."""
    return {
        "command": list(command),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _commit() -> str | None:
    """The commit of the code that runs, marked where files were changed after it; None outside a repository."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_report(
    folder: Path,
    benchmark: Benchmark,
    tasks: Sequence[VideoTask],
    predictions: Mapping[str, Prediction],
    blind: Mapping[str, Prediction],
    config: Mapping[str, Any],
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """report.json, .csv, .md, .png and result.json in `folder`; returns the report."""
    scores = scores_of(benchmark, tasks, predictions, blind)
    report = {"benchmark": benchmark.title, "config": dict(config), "scores": scores, "cost": cost_of(list(predictions.values()))}
    result = {
        "benchmark": benchmark.title,
        "model": config.get("model"),
        "mode": config.get("mode"),
        "score": round(100 * scores["headline"]["accuracy"], 2),
        "tasks": {row["task"]: round(100 * row["accuracy"], 2) for row in scores["tasks"]},
        "questions": scores["questions"],
        "unanswered": scores["unanswered"],
        "config": dict(config),
        **provenance(sys.argv if command is None else command),
    }
    replace_file(folder / "report.json", _json(report))
    replace_file(folder / "report.csv", csv_of(scores))
    replace_file(folder / "report.md", markdown_of(report))
    replace_file(folder / "result.json", _json(result))
    draw_bars(folder / "report.png", benchmark.title, scores)
    return report


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def csv_of(scores: Mapping[str, Any]) -> str:
    """One row a sub-task, then the headline."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(scores["tasks"])
    total = {"task": "headline", "category": scores["headline"]["what"], "questions": scores["questions"]}
    writer.writerow({**total, **scores["headline"], "unanswered": scores["unanswered"]})
    return buffer.getvalue()


def markdown_of(report: Mapping[str, Any]) -> str:
    """The report for people; every number in percent."""
    scores, cost = report["scores"], report["cost"]
    head = scores["headline"]
    lines = [
        f"# {report['benchmark']}: {_percent(head['accuracy'])}",
        "",
        f"{head['what'].capitalize()}, 95 % interval {_percent(head['low'])} to {_percent(head['high'])} "
        f"(videos resampled). {scores['questions']} questions on {scores['videos']} videos; no answer found for "
        f"{_percent(scores['unanswered'])} %, all of them counted as wrong.",
        "",
        "| sub-task | questions | accuracy | 95 % | no answer | chance | commonest answer | blind |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [*scores["tasks"], {**head, "task": "**headline**", "questions": scores["questions"], "unanswered": scores["unanswered"]}]
    for row in rows:
        numbers = [row["accuracy"], (row["low"], row["high"]), row["unanswered"], row[CHANCE], row[COMMONEST], row.get(BLIND)]
        cells = [f"{_percent(n[0])} - {_percent(n[1])}" if isinstance(n, tuple) else _percent(n) for n in numbers]
        lines.append(f"| {row['task']} | {row['questions']} | {' | '.join(cells)} |")
    lines += ["", f"All questions pooled: {_percent(scores['pooled']['accuracy'])}.", ""]
    lines += _small_table("category", scores["categories"]) + _small_table("source", scores["sources"])
    lines += [f"- {note}" for note in scores["notes"]]
    for problem in scores["problems"]:
        lines.append(f"- not asked, counted as wrong: {problem['questions']} questions on {problem['video']}: {problem['error']}")
    lines += ["", "## Cost", ""]
    for name in ("seconds_per_frame", "seconds_per_question"):
        value = cost[name]
        lines.append(f"- {name.replace('_', ' ')}: {'none' if value is None else f'{value:.4f}'}")
    return "\n".join([*lines, f"- frames read and encoded: {cost['frames']}", ""])


def _small_table(name: str, values: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [f"| {key} | {value['questions']} | {_percent(value['accuracy'])} |" for key, value in values.items()]
    return [f"| {name} | questions | accuracy |", "|---|---|---|", *rows, ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def draw_bars(path: Path, title: str, scores: Mapping[str, Any]) -> None:
    """A bar for each sub-task and the headline, with its interval, over marks for the baselines."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the picture of the report needs matplotlib: pip install 'videochat-online[eval]'") from error
    rows = [*scores["tasks"], {**scores["headline"], "task": "headline"}]
    places = list(range(len(rows)))
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [100 * row["accuracy"] for row in rows]
    below = [max(0.0, value - 100 * row["low"]) for value, row in zip(values, rows, strict=True)]
    above = [max(0.0, 100 * row["high"] - value) for value, row in zip(values, rows, strict=True)]
    axes.barh(places, values, xerr=[below, above], color="#4477aa", ecolor="#222222", label="accuracy, 95 %")
    for name, marker, color in ((CHANCE, "|", "#bb5566"), (COMMONEST, "x", "#ddaa33"), (BLIND, "o", "#222222")):
        if name in rows[0]:
            baseline = [100 * row[name] for row in rows]
            axes.plot(baseline, places, marker, color=color, label=name.replace("_", " "), linestyle="none")
    axes.set_yticks(places, [row["task"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% right")
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})
