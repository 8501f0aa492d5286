"""report.html, the page at the end of a run: did it learn, curves, what trained, what it cost, what to do next.

One file that any browser shows, with nothing to load: the curves are SVG. Made from the run's own log, so that a run
of several lives is told as one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..data.formats import read_row
from ..data.sample import IMAGE_MARK, VIDEO_MARK
from ..files import write_text
from .evaluating import Evaluation, HeldOut, chosen_of, verdict
from .log import ANSWERS_FILE, LOG_FILE, SHOWN, read_log
from .parts import PartRow, total
from .plan import TrainingPlan, counted

FILE = "report.html"
WIDTH, HEIGHT, EDGE = 400, 170, 48
"""Of a chart, and of the margin for its numbers, in pixels."""
COLOURS = ("#2563eb", "#dc2626")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1f2937}"
    "table{border-collapse:collapse}td{padding:.2em .8em;border-bottom:1px solid #e5e7eb}"
    ".yes{background:#dcfce7}.no{background:#fee2e2}p{padding:.6em 1em;border-radius:6px}"
    "pre{background:#f3f4f6;padding:.8em;overflow:auto}svg{margin:.3em}text{font-size:11px;fill:#6b7280}"
)


def write_page(
    plan: TrainingPlan,
    parts: Sequence[PartRow],
    evaluations: Sequence[Evaluation],
    dataset: Any,
    held_out: HeldOut | None,
) -> str:
    """Write a run's report.html; returns what it says in short, for the terminal. `dataset`: that it was trained on."""
    config, folder = plan.config, plan.config.run_folder
    log = read_log(folder / LOG_FILE)
    steps = [line for line in log if "loss" in line]
    chosen = chosen_of(evaluations, config)
    problems = verdict(evaluations, chosen, [line["loss"] for line in steps])
    facts = facts_of(plan, steps, evaluations, chosen, held_out)
    title = f"The model has not learnt: {'; '.join(problems)}." if problems else "The loss has fallen."
    if held_out is not None and held_out.is_trained:
        title += " Asked were rows it was trained on: whether it understands others is not known."
    charts = {
        "loss": {"training": curve(steps, "loss"), "held out": curve(log, "eval_loss")},
        "share of right answers": {"right": curve(log, "eval_accuracy"), "commonest": curve(log, "eval_commonest")},
        "learning rate": {"": curve(steps, "learning_rate")},
    }
    answers = [one for one in read_log(folder / ANSWERS_FILE) if chosen and one["step"] == chosen["step"]][:SHOWN]
    sample = [("question", "expected", "given")] + [(one["question"], one["expected"], one["given"]) for one in answers]
    marks = ["", *("yes" if one["right"] else "no" for one in answers)]
    trained = [(row.name, row.setting, f"{row.num_parameters:,}", f"{row.num_trained:,}") for row in parts_of(parts)]
    body = [
        f"<!doctype html><meta charset=utf-8><title>{escape(folder.name)}</title><style>{STYLE}</style>",
        f'<h1>{escape(folder.name)}</h1><p class="{"no" if problems else "yes"}">{escape(title)}</p>',
        *(chart(name, lines) for name, lines in charts.items()),
        table(facts.items()),
        "<h2>What trained</h2>" + table([("part", "setting", "parameters", "trained"), *trained]),
        "<h2>Answers</h2>" + table(sample, marks) if answers else "",
        f"<h2>Next</h2><pre>{escape(commands_of(plan, dataset if held_out is None else held_out.dataset))}</pre>",
    ]
    write_text(folder / FILE, "\n".join(body) + "\n")
    told = [f"{name:16} {value}" for name, value in facts.items()]
    told += [f"WARNING: {title}"] if problems or (held_out and held_out.is_trained) else []
    return "\n".join([*told, f"report           {folder / FILE}"])


def parts_of(parts: Sequence[PartRow]) -> list[PartRow]:
    return [*parts, total(list(parts))]


def facts_of(
    plan: TrainingPlan,
    steps: Sequence[Mapping[str, float]],
    evaluations: Sequence[Evaluation],
    chosen: Evaluation | None,
    held_out: HeldOut | None,
) -> dict[str, str]:
    """What the run did, a line each; `steps` are training's lines of the log."""
    last = int(steps[-1]["step"])
    seconds = sum(line.get("seconds", 0.0) for line in steps)
    waited = sum(line.get("seconds", 0.0) * line["data_wait_share"] for line in steps)
    early = f" of {plan.num_steps:,}, ended early" if last < plan.num_steps else ""
    facts = {
        "steps": f"{last:,}{early}",
        "samples": f"{last * plan.samples_per_step:,.0f}, {counted(len(plan.lengths), 'sample')} in an epoch",
        "tokens": f"{sum(line.get('tokens', 0) for line in steps):,}",
        "time": f"{seconds / 60:.1f} min of training, {waited / max(seconds, 1e-9):.0%} of it waiting for data",
        "training loss": f"{steps[0]['loss']:.4g} -> {steps[-1]['loss']:.4g}",
    }
    if held_out is None or chosen is None:
        return facts
    begun = evaluations[0]
    facts["evaluation"] = held_out.text
    facts["its loss"] = f"{begun['loss']:.4g} -> {chosen['loss']:.4g} (step {chosen['step']:,})"
    if "accuracy" in chosen:
        right = f"{begun.get('accuracy', 0.0):.0%} -> {chosen['accuracy']:.0%} of {chosen['answers']:,}"
        facts["right answers"] = f"{right}; always the commonest: {chosen['commonest']:.0%}"
    facts["exported"] = f"step {chosen['step']:,}, the {plan.config.export_step} of {last:,} (--export-step)"
    return facts


def commands_of(plan: TrainingPlan, dataset: Any) -> str:
    """How to ask and score the trained model; about a video of `dataset`, where one of the first rows has any."""
    model = shlex.quote(str(plan.config.run_folder / "model"))
    video, question = "VIDEO.mp4", "What happens?"
    for one, row in dataset.rows[:SHOWN].tolist():
        sample = read_row(dataset.annotations[one][row], plan.config)
        if sample.video is not None and sample.video.path:
            video = str(dataset.data_sets[one].data_root / sample.video.path)
            question = sample.turns[-1].question.replace(VIDEO_MARK, "").replace(IMAGE_MARK, "").strip()
            break
    ask = f"videochat-online chat {shlex.quote(video)} --model {model} -q {shlex.quote(question)}"
    places = "--annotations ANNOTATIONS --videos VIDEOS"
    return f"{ask}\nvideochat-online eval ovbench --model {model} {places} --output {model}/../eval"


def curve(lines: Iterable[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if abs(line.get(name, float("inf"))) < float("inf")]


def chart(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An SVG of curves over the steps; nothing where there are no points."""
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    (left, low), (right, high) = map(min, zip(*points, strict=True)), map(max, zip(*points, strict=True))

    def place(x: float, y: float) -> str:
        across, up = (x - left) / max(right - left, 1e-12), (y - low) / max(high - low, 1e-12)
        return f"{EDGE + across * (WIDTH - EDGE - 8):.1f},{HEIGHT - 22 - up * (HEIGHT - 48):.1f}"

    drawn = [f'<text x="{EDGE}" y="14">{escape(title)} over {right:,.0f} steps</text>']
    drawn += [f'<text x="0" y="{y}">{value:.3g}</text>' for y, value in ((30, high), (HEIGHT - 18, low))]
    for number, (name, line) in enumerate(lines.items()):
        colour, path = COLOURS[number], " ".join(place(*point) for point in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>' if line else "")
        drawn.append(
            f'<text x="{EDGE + number * 90}" y="{HEIGHT - 4}" style="fill:{colour}">{name}</text>' if line else ""
        )
    return f'<svg width="{WIDTH}" height="{HEIGHT}">{"".join(drawn)}</svg>'


def table(rows: Iterable[Sequence[str]], marks: Sequence[str] = ()) -> str:
    """`marks`: the class of each row."""
    cells = ["".join(f"<td>{escape(text)}" for text in row) for row in rows]
    classes = [*marks, *[""] * len(cells)]
    return (
        "<table>" + "".join(f'<tr class="{mark}">{row}' for mark, row in zip(classes, cells, strict=False)) + "</table>"
    )
