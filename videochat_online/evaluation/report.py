"""The report of a finished run as files: json, csv, markdown, a picture, and result.json to submit."""

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

from ..extras import lacks
from .benchmarks.base import Benchmark
from .cautions import Background, unanswered
from .predictions import replace_file
from .summary import BLIND, CHANCE, COMMONEST, cost_of, scores_of
from .types import Prediction, VideoTask

COLUMNS = ("task", "category", "questions", "accuracy", "low", "high", "unanswered", CHANCE, COMMONEST, BLIND)
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "decord", "av")


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
    background: Background | None = None,
) -> dict[str, Any]:
    """report.json, .csv, .md, .png and result.json in `folder`; returns the report. No picture without matplotlib."""
    background = background or Background.of(tasks)
    scores = scores_of(benchmark, tasks, predictions, blind)
    cost = cost_of(list(predictions.values()))
    first = {"cautions": [*unanswered(scores, config.get("answer")), *background.cautions()]}
    answer = {"answer": config.get("answer"), "answer_because": background.answer_because}
    left_out = {"left_out": len(background.left_out), "left_out_records": list(background.left_out)}
    about = {**answer, **left_out, "config": dict(config)}
    report = {**first, "benchmark": benchmark.title, **about, "scores": scores, "cost": cost}
    result = {
        **first,
        "benchmark": benchmark.title,
        "model": config.get("model"),
        "mode": config.get("mode"),
        "score": round(100 * scores["headline"]["accuracy"], 2),
        "tasks": {row["task"]: round(100 * row["accuracy"], 2) for row in scores["tasks"]},
        "questions": scores["questions"],
        "unanswered": scores["unanswered"],
        **about,
        **provenance(sys.argv if command is None else command),
    }
    replace_file(folder / "report.json", _json(report))
    replace_file(folder / "report.csv", csv_of(scores))
    replace_file(folder / "report.md", markdown_of(report))
    replace_file(folder / "result.json", _json(result))
    if lacks("matplotlib") is None:
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
    lines = [line for caution in report["cautions"] for line in (f"**Caution**: {caution}.", "")]
    lines += [
        f"# {report['benchmark']}: {_percent(head['accuracy'])}",
        "",
        f"{head['what'].capitalize()}, 95 % interval {_percent(head['low'])} to {_percent(head['high'])} "
        f"(videos resampled). {scores['questions']} questions on {scores['videos']} videos; no answer found for "
        f"{_percent(scores['unanswered'])} %, all of them counted as wrong. {_answers(report)}",
        "",
        "| sub-task | questions | accuracy | 95 % | no answer | chance | commonest answer | blind |",
        "|---|---|---|---|---|---|---|---|",
    ]
    total = {"task": "**headline**", "questions": scores["questions"], "unanswered": scores["unanswered"], **head}
    for row in [*scores["tasks"], total]:
        span = f"{_percent(row['low'])} - {_percent(row['high'])}"
        others = [_percent(row.get(name)) for name in ("unanswered", CHANCE, COMMONEST, BLIND)]
        lines.append(
            f"| {' | '.join([row['task'], str(row['questions']), _percent(row['accuracy']), span, *others])} |"
        )
    lines += ["", f"All questions pooled: {_percent(scores['pooled']['accuracy'])}.", ""]
    lines += _small_table("category", scores["categories"]) + _small_table("source", scores["sources"])
    lines += [f"- {note}" for note in scores["notes"]]
    for problem in scores["problems"]:
        what = f"{problem['questions']} questions on {problem['video']}: {problem['error']}"
        lines.append(f"- not asked, counted as wrong: {what}")
    lines += [f"- left out, not counted: {record}" for record in report["left_out_records"]]
    lines += ["", "## Cost", ""]
    for name in ("seconds_per_frame", "seconds_per_question"):
        value = cost[name]
        lines.append(f"- {name.replace('_', ' ')}: {'none' if value is None else f'{value:.4f}'}")
    return "\n".join([*lines, f"- frames read and encoded: {cost['frames']}", ""])


def _answers(report: Mapping[str, Any]) -> str:
    """How options were chosen among, and why."""
    ways = {"likelihood": "The likeliest option is the answer", "generate": "The answer is what is found in the reply"}
    reason = f", {report['answer_because']}" if report["answer_because"] else ""
    way = ways.get(report["answer"])
    return f"{way} (--answer {report['answer']}{reason})." if way else ""


def _small_table(name: str, values: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [f"| {key} | {value['questions']} | {_percent(value['accuracy'])} |" for key, value in values.items()]
    return [f"| {name} | questions | accuracy |", "|---|---|---|", *rows, ""]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def draw_bars(path: Path, title: str, scores: Mapping[str, Any]) -> None:
    """A bar for each sub-task and the headline, with its interval, over marks for the baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
