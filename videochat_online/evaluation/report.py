"""The report of a finished run: what a reader must know first, then json, csv, markdown, a picture, and result.json.

Also the table of two runs side by side. Knows questions and scores, no model.
"""

from __future__ import annotations

import csv
import io
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import lacks
from ..files import whole, write_json, write_text
from .benchmarks import Benchmark
from .predictions import Prediction
from .questions import VideoTask
from .scoring import BEST, BLIND, CHANCE, COMMONEST, Difference, cost_of, players_of, scores_of

COLUMNS = ("task", "category", "questions", "accuracy", "low", "high", "unanswered", CHANCE, COMMONEST, BEST, BLIND)
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "decord", "av")
MANY_UNANSWERED = 0.2
"""Share of questions without an answer above which the score says little about what a model knows."""
_GENERATED = re.compile(r"(?:^|/)(train|test)-\d{8}-l\d+-")
"""A video of a generated world begins so, with its split (shapeworld/scenes.py names it)."""
GENERATED_TITLE = "ShapeWorld (a generated world)"
NAMES = {CHANCE: "chance", COMMONEST: "commonest answer", BEST: "best without looking", BLIND: "model without frames"}
_WAYS = {"likelihood": "The likeliest option is the answer", "generate": "The answer is what is found in the reply"}


def cautions_of(tasks: Sequence[VideoTask], left_out: Sequence[str]) -> list[str]:
    """What a reader must know before anything is asked. `left_out`: the records that cannot be asked."""
    cautions = []
    worlds = [found[1] for task in tasks if (found := _GENERATED.search(task.video))]
    if trained_on := worlds.count("train"):
        cautions.append(
            f"{trained_on} of these videos are from the train split of a generated world: a model that was "
            "trained on it is asked about what it was shown. `videochat-online world build DIR --split test` "
            "makes others"
        )
    if left_out:
        cautions.append(
            f"{len(left_out)} records of the annotations cannot be asked and are left out of every number; "
            "the report and --check name them"
        )
    return cautions


def _unanswered(scores: Mapping[str, Any], answer: str | None) -> list[str]:
    """That many questions have no answer, and what may help; nothing where it is a fifth of them or fewer."""
    if scores["unanswered"] <= MANY_UNANSWERED:
        return []
    not_asked = scores["not_asked"] / scores["questions"]
    text = (
        f"no answer was found for {100 * scores['unanswered']:.1f} % of the questions, which count as wrong: the score "
        "says little about what the model knows"
    )
    if not_asked:
        text += f". {100 * not_asked:.1f} % could not be asked (see below)"
    if answer == "generate" and scores["unanswered"] > not_asked:
        text += ". It may answer in words where a letter is looked for: see predictions.jsonl, or --answer likelihood"
    return [text]


def _incomplete(scores: Mapping[str, Any], of_all: int, left_out: int) -> list[str]:
    """That fewer questions were asked than there are, and why; nothing where all were."""
    missing = {
        "were not in this run": of_all - scores["questions"],
        "could not be asked and count as wrong": scores["not_asked"],
        "stand in records that cannot be read": left_out,
    }
    why = ", ".join(f"{number} {reason}" for reason, number in missing.items() if number)
    asked = scores["questions"] - scores["not_asked"]
    return [f"{asked} of {of_all + left_out} questions were asked: {why}"] if why else []


def _not_above_blind(scores: Mapping[str, Any]) -> list[str]:
    """That the score may be had without looking: its interval reaches down to what a blind player gets."""
    head, names = scores["headline"], {player["name"]: player["accuracy"] for player in scores["players"]}
    rivals = {
        **names,
        NAMES[BEST] + " in each sub-task": head[BEST],
        "the model itself without frames": head.get(BLIND, -1.0),
    }
    best = max(rivals, key=lambda name: rivals[name])
    if head["low"] is not None and head["low"] > rivals[best]:
        return []
    span = "too few videos for an interval" if head["low"] is None else f"95 % from {_percent(head['low'])}"
    return [
        f"the score {_percent(head['accuracy'])} ({span}) is not above what is reached without looking: "
        f"{best.replace('_', ' ')} gets {_percent(rivals[best])}"
    ]


def title_of(benchmark: Benchmark, tasks: Sequence[VideoTask]) -> str:
    """The benchmark's title; of a generated world, which has the benchmark's form and not its videos, that."""
    return GENERATED_TITLE if any(_GENERATED.search(task.video) for task in tasks) else benchmark.title


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """What is needed to repeat a run beside its config: command, commit, versions, machine."""
    return {
        "command": list(command),
        "commit": code_commit(),
        "python": platform.python_version(),
        "packages": {name: next((found.version for found in distributions(name=name)), None) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def code_commit() -> str | None:
    """The commit of the code that runs, marked where files were changed after it; None outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() or None


def write_report(
    folder: Path,
    benchmark: Benchmark,
    tasks: Sequence[VideoTask],
    config: Mapping[str, Any],
    predictions: Mapping[str, Prediction],
    blind: Mapping[str, Prediction] | None = None,
    *,
    left_out: Sequence[str] = (),
    answer_because: str = "",
    of_all: int | None = None,
    made: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """report.json, .csv, .md, .png and result.json in `folder`; returns the report. No picture without matplotlib.

    Args:
        predictions, blind: by question id; `blind` those without frames, where there are any.
        left_out: a line for each record of the annotations that cannot be asked.
        answer_because: why options are answered as they are: the flag, the model, the default.
        of_all: how many questions there are, where `tasks` may be a part of them.
        made: `provenance` of the answers, where another process gave them; by default of `command`.
        command: what was started, by default this process.
    """
    players = players_of(benchmark.judge, tasks)
    scores = scores_of(benchmark.headline, tasks, predictions, blind or {}, players)
    scores["headline"] = {"what": benchmark.headline_name, **scores["headline"]}
    scores["notes"] = benchmark.notes(tasks, [predictions[q.id] for task in tasks for q in task.questions])
    answer = config.get("answer")
    incomplete = _incomplete(scores, of_all or scores["questions"], len(left_out))
    cautions = [*_unanswered(scores, answer), *cautions_of(tasks, left_out), *incomplete, *_not_above_blind(scores)]
    first: dict[str, Any] = {
        "cautions": cautions,
        "benchmark": title_of(benchmark, tasks),
        "incomplete": bool(incomplete),
    }
    about: dict[str, Any] = {"protocol": benchmark.protocol, "letter_rule": benchmark.letter_rule}
    about |= {"answer": answer, "answer_because": answer_because, "left_out": len(left_out)}
    about |= {"left_out_records": list(left_out), "config": dict(config)}
    report = {**first, **about, "scores": scores, "cost": cost_of(list(predictions.values()))}
    result = {**first, **_in_short(scores, config), **about, **(made or provenance(command or sys.argv))}
    write_json(folder / "report.json", report)
    write_text(folder / "report.csv", csv_of(scores))
    write_text(folder / "report.md", markdown_of(report))
    write_json(folder / "result.json", result)
    if lacks("matplotlib") is None:
        draw_bars(folder / "report.png", first["benchmark"], scores)
    return report


def _in_short(scores: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What one submits. Scores in percent."""
    return {
        "model": config.get("model"),
        "mode": config.get("mode"),
        "score": round(100 * scores["headline"]["accuracy"], 2),
        "tasks": {row["task"]: round(100 * row["accuracy"], 2) for row in scores["tasks"]},
        "blind_players": {player["name"]: round(100 * player["accuracy"], 2) for player in scores["players"]},
        "questions": scores["questions"],
        "not_asked": scores["not_asked"],
        "unanswered": scores["unanswered"],
    }


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
    because = f", {report['answer_because']}" if report["answer_because"] else ""
    way = f" {_WAYS[report['answer']]} (--answer {report['answer']}{because})." if report["answer"] in _WAYS else " "
    lines = [line for caution in report["cautions"] for line in (f"**Caution**: {caution}.", "")]
    lines += [
        f"# {report['benchmark']}: {_percent(head['accuracy'])}",
        "",
        f"{head['what'].capitalize()}, 95 % interval: {_span(head, 'to')} "
        f"(a video is one draw). {scores['questions']} questions on {scores['videos']} videos; no answer found for "
        f"{_percent(scores['unanswered'])} %, all of them counted as wrong.{way}",
        "",
        f"Protocol: {report['protocol']} (--protocol). Letters are read by {report['letter_rule']}.",
        *_memory_of(report["config"]),
        "",
        *_headline_table(scores),
        "",
        f"All questions pooled: {_percent(scores['pooled']['accuracy'])}.",
        "",
        *blind_table(scores["players"]),
    ]
    for name, groups in (("category", scores["categories"]), ("source", scores["sources"])):
        rows = ([key, value["questions"], _percent(value["accuracy"])] for key, value in groups.items())
        lines += ["", *table((name, "questions", "accuracy"), rows)]
    lines += _age_table(scores)
    lines += ["", *(f"- {note}" for note in scores["notes"])]
    for row in scores["problems"]:
        lines.append(f"- not asked, counted as wrong: {row['questions']} questions on {row['video']}: {row['error']}")
    lines += [f"- left out, not counted: {record}" for record in report["left_out_records"]]
    lines += ["", "## Cost", ""]
    for name in ("seconds per frame", "seconds per question"):
        value = cost[name.replace(" ", "_")]
        lines.append(f"- {name}: {'none' if value is None else f'{value:.4f}'}")
    return "\n".join([*lines, f"- frames read and encoded: {cost['frames']}", ""])


def _headline_table(scores: Mapping[str, Any]) -> list[str]:
    """A row for each sub-task, then the headline."""
    total = {"task": "**headline**", "questions": scores["questions"], "unanswered": scores["unanswered"]}
    rows = []
    for row in [*scores["tasks"], {**total, **scores["headline"]}]:
        others = [_percent(row.get(name)) for name in ("unanswered", CHANCE, COMMONEST, BEST, BLIND)]
        above = row["low"] is not None and row["low"] > row[BEST]
        rows.append([row["task"], row["questions"], _percent(row["accuracy"]), _span(row, "-"), *others])
        rows[-1][-2] += "" if above else " !"
    named = ("no answer", "chance", "commonest answer", "best without looking", "blind")
    legend = "!: the interval reaches down to the best player that never looks, in this sub-task (see below)."
    return [*table(("sub-task", "questions", "accuracy", "95 %", *named), rows), "", legend]


def _memory_of(config: Mapping[str, Any]) -> list[str]:
    """What our model remembered, and which frames it was shown; nothing of others, which have no memory."""
    if not (memory := config.get("memory")):
        return []
    held, grids = ("/".join(str(level[name]) for level in memory["levels"]) for name in ("capacity", "grid"))
    how = f"{held} frames of grid {grids}, policy {memory['policy']}{', cascade' if memory.get('cascade') else ''}"
    return ["", f"Memory: {how}. Recall: {config.get('recall', 'off')} (--recall)."]


def _age_table(scores: Mapping[str, Any]) -> list[str]:
    """A row for each age of evidence; nothing where no annotation tells one."""
    if not (ages := scores["ages"]):
        return []
    heads = ("age of evidence", "questions", "accuracy", "95 %", NAMES[BEST])
    rows = [
        [row["age"], row["questions"], _percent(row["accuracy"]), _span(row, "-"), _percent(row[BEST])] for row in ages
    ]
    legend = "Seconds, when it is asked, since the oldest piece that the answer needs was last to be seen; pooled"
    told = f"the annotations tell it of {sum(row['questions'] for row in ages)} of {scores['questions']} questions"
    return ["", *table(heads, rows), "", f"{legend}; {told}."]


def blind_table(players: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each player that never looks gets, and its rule."""
    rows = ([one["name"].replace("_", " "), _percent(one["accuracy"]), one["says"]] for one in players)
    return table(("never looks", "headline", "says"), rows)


def blind_report(benchmark: Benchmark, tasks: Sequence[VideoTask]) -> tuple[str, dict[str, Any]]:
    """Markdown and values of what players get that never look, in the headline and in each sub-task."""
    nobody = {q.id: Prediction.unanswered(task, q, "") for task in tasks for q in task.questions}
    scores = scores_of(benchmark.headline, tasks, nobody, {}, players_of(benchmark.judge, tasks))
    names = (CHANCE, COMMONEST, BEST)
    found = [{key: row[key] for key in ("task", "questions", *names)} for row in scores["tasks"]]
    rows = [[row["task"], row["questions"], *(_percent(row[name]) for name in names)] for row in found]
    text = [f"# {title_of(benchmark, tasks)}: players that never look", "", f"{benchmark.headline_name}:", ""]
    heads = ("sub-task", "questions", *(NAMES[name] for name in names))
    text += [*blind_table(scores["players"]), "", *table(heads, rows)]
    values = {"benchmark": benchmark.name, "questions": len(nobody), "players": scores["players"], "tasks": found}
    return "\n".join(text), values


def _span(row: Mapping[str, Any], between: str) -> str:
    if row["low"] is None:
        return "too few videos"
    return f"{_percent(row['low'])} {between} {_percent(row['high'])}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of Markdown."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    return [lines[0], f"|{'---|' * len(heads)}", *lines[1:]]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def comparison_of(differences: Sequence[Difference], a: Sequence[Prediction], b: Sequence[Prediction]) -> str:
    """Two runs side by side in markdown, in points of 100, and what both cost.

    Times compare only where both were measured on one machine.
    """
    rows = []
    for one in differences:
        points = [f"{100 * one.accuracy_a:.1f}", f"{100 * one.accuracy_b:.1f}", f"{100 * one.difference:+.1f}"]
        span = "too few videos"
        if one.low is not None and one.high is not None:
            span = f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
        tests = [f"{one.p:.4f}", "" if one.p_corrected is None else f"{one.p_corrected:.4f}"]
        rows.append([one.name, one.num_questions, *points, span, one.only_a, one.only_b, *tests])
    heads = ("", "questions", "A", "B", "B - A", "95 %", "only A right", "only B right", "p", "p, Holm")
    cost_a, cost_b = cost_of(a), cost_of(b)
    ratio = f", B is {cost_b['seconds'] / cost_a['seconds']:.2f} times A" if cost_a["seconds"] else ""
    frames = f"frames encoded: A {cost_a['frames']}, B {cost_b['frames']}"
    cost = f"{frames}; seconds: A {cost_a['seconds']:.1f}, B {cost_b['seconds']:.1f}{ratio}"
    how = "p: A and B swapped in whole videos at random (paired); Holm: corrected for the number of sub-tasks, or ages"
    return "\n".join([*table(heads, rows), how, cost])


def draw_bars(path: Path, title: str, scores: Mapping[str, Any]) -> None:
    """A bar for each sub-task and the headline, with its interval, over marks for the baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [*scores["tasks"], {**scores["headline"], "task": "headline"}]
    places = range(len(rows))
    figure = Figure(figsize=(8, 0.32 * len(rows) + 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    accuracy, low, high = (np.array([row[name] for row in rows], float) * 100 for name in ("accuracy", "low", "high"))
    axes.barh(places, accuracy, color="#88aacc", label="accuracy")
    known = ~np.isnan(low)
    spread = np.maximum([accuracy - low, high - accuracy], 0)[:, known]
    axes.errorbar(
        accuracy[known], np.flatnonzero(known), xerr=spread, fmt="none", ecolor="#222222", label="95 % interval"
    )
    marks = ((CHANCE, "|", "#bb5566"), (COMMONEST, "x", "#997700"), (BEST, "D", "#ddaa33"), (BLIND, "o", "#222222"))
    for name, marker, color in marks:
        if name in rows[0]:
            baseline = [100 * row[name] for row in rows]
            look: dict[str, Any] = {"color": color, "markerfacecolor": "none", "linestyle": "none", "clip_on": False}
            look["markersize"] = 14 if marker == "|" else 6  # to be seen where others stand on it
            axes.plot(baseline, places, marker, label=NAMES[name], **look)
    axes.set_yticks(places, [row["task"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% right")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    with whole(path) as beside:
        figure.savefig(beside, format="png", dpi=120, metadata={"Software": None})
