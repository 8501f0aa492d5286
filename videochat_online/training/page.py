"""report.html, the page at the end of a run: did it learn, curves, what it cost, what trained, answers, what is next.

One file with nothing to load, its curves are SVG. Made from the run's log, so that a run of several lives is one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..data.formats import read_row
from ..data.sample import IMAGE_MARK, VIDEO_MARK
from ..files import write_text
from .evaluating import Evaluation, HeldOut, chosen_of, verdict
from .log import ANSWERS_FILE, LOG_FILE, SHOWN, read_log
from .plan import TrainingPlan

FILE = "report.html"
WIDTH, HEIGHT, EDGE = 400, 170, 66
"""Of a chart, and of the margin for its numbers, in pixels."""
COLOURS = ("#2563eb", "#dc2626", "#15803d", "#a16207", "#7c3aed", "#0891b2", "#111827")
STYLE = """body{font:15px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}td{padding:.2em .8em}
pre,p{background:#f3f4f6;padding:.8em;white-space:pre-wrap;overflow-wrap:anywhere}.yes{background:#dcfce7}.no{background:#fee2e2}text{font-size:11px}"""


def write_page(
    plan: TrainingPlan, parts: str, evaluations: Sequence[Evaluation], dataset: Any, held_out: HeldOut | None
) -> str:
    """Write the page into the run's folder; returns it in short. `parts`: the table of what trained of the model."""
    folder = plan.config.run_folder
    log, chosen = read_log(folder / LOG_FILE), chosen_of(evaluations, plan.config)
    steps = [line for line in log if "loss" in line]
    # 1. did it learn
    problems = verdict(evaluations, chosen, [line["loss"] for line in steps])
    title = f"The model has not learnt: {'; '.join(problems)}." if problems else "The loss has fallen."
    if chosen is None and len(steps) < 2:
        title = "Whether the model has learnt is not known: nothing was evaluated, and the log has not two losses."
    if held_out is not None and held_out.is_trained:
        title += " It was asked what it was trained on: whether it understands other rows is not known."
    facts = facts_of(plan, steps, evaluations, chosen)
    # 2. curves, and the answers of what is exported
    curves: dict[str, dict[str, str]] = {
        "loss": {"training": "loss", "evaluation": "eval_loss"},
        "share of right answers": {"right": "eval_accuracy", "always the commonest": "eval_commonest"},
        "learning rate": {"": "learning_rate"},
    }
    answers = [one for one in read_log(folder / ANSWERS_FILE) if chosen and one["step"] == chosen["step"]][:SHOWN]
    rows = [
        f'<tr class="{"yes" if one["right"] else "no"}"><td>{escape(one["question"])}<td>{escape(one["expected"])}'
        f"<td>{escape(one['given'])}"
        for one in answers
    ]
    # 3. the file
    body = [
        f"<!doctype html><meta charset=utf-8><title>{escape(folder.name)}</title><style>{STYLE}</style>",
        f'<h1>{escape(folder.name)}</h1><p class="{"no" if problems else "yes"}">{escape(title)}</p>',
        *(chart(name, log, lines) for name, lines in curves.items()),
        f"<pre>{escape(facts)}</pre><pre>{escape(parts)}</pre>",
        *(["<table><tr><th>question<th>expected<th>given", *rows, "</table>"] if rows else []),
        f"<pre>{escape(commands_of(str(folder / 'model'), held_out.dataset if held_out else dataset))}</pre>",
    ]
    write_text(folder / FILE, "\n".join(body) + "\n")
    return f"{facts}\n{'WARNING: ' if problems else ''}{title}\nreport           {folder / FILE}"


def facts_of(
    plan: TrainingPlan,
    steps: Sequence[Mapping[str, float]],
    evaluations: Sequence[Evaluation],
    chosen: Evaluation | None,
) -> str:
    """What the run did, a line each; `steps` are training's lines of the log."""
    if not steps:
        return "trained          in an earlier life, whose log is not in this folder"
    last, seconds = int(steps[-1]["step"]), sum(line.get("seconds", 0.0) for line in steps)
    waited = sum(line.get("seconds", 0.0) * line["data_wait_share"] for line in steps) / max(seconds, 1e-9)
    lines = [
        f"trained          {last:,} of {plan.num_steps:,} steps, {last * plan.samples_per_step:,.0f} samples, "
        f"{sum(line.get('tokens', 0) for line in steps):,} tokens in {seconds / 60:.1f} min, {waited:.0%} of it "
        "waiting for data",
        f"training loss    {steps[0]['loss']:.4g} -> {steps[-1]['loss']:.4g}",
    ]
    if chosen is not None:
        begun, step = evaluations[0], f"step {chosen['step']:,}"
        lines.append(f"evaluation loss  {begun['loss']:.4g} -> {chosen['loss']:.4g}")
        if "accuracy" in chosen:
            right = f"{begun.get('accuracy', 0.0):.0%} -> {chosen['accuracy']:.0%} of {chosen['answers']:,}"
            lines.append(f"right answers    {right}; always the commonest: {chosen['commonest']:.0%}")
        lines.append(f"exported         {step}, the {plan.config.export_step} of {last:,} (--export-step)")
    return "\n".join(lines)


def commands_of(model: str, dataset: Any) -> str:
    """How to ask and to score the trained model, with the first video of `dataset`, where it has one."""
    video, question = "VIDEO.mp4", "What happens?"
    for one, row in dataset.rows[:SHOWN].tolist():
        sample = read_row(dataset.annotations[one][row], dataset.settings)
        if sample.video is not None and sample.video.path:
            video = str(dataset.data_sets[one].data_root / sample.video.path)
            question = sample.turns[-1].question.replace(VIDEO_MARK, "").replace(IMAGE_MARK, "").strip()
    ask = shlex.join(["videochat-online", "chat", video, "--model", model, "-q", question])
    return f"{ask}\n{shlex.join(['videochat-online', 'eval', 'ovbench', '--model', model])} --annotations A --videos V"


def chart(title: str, log: Iterable[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """An SVG of curves over the steps, each of one value of the log; nothing where there are no points."""
    lines = {
        label: [(line["step"], line[name]) for line in log if math.isfinite(line.get(name, math.nan))]
        for label, name in names.items()
    }
    steps = [step for line in lines.values() for step, _ in line]
    return curves(f"{title}, steps {min(steps):,.0f} to {max(steps):,.0f}", lines) if steps else ""


def curves(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, ...]]],
    *,
    scale: tuple[float, float] | None = None,
    ticks: Mapping[float, str] | None = None,
    width: int = WIDTH,
) -> str:
    """An SVG of curves, each of points (x, y), or (x, y, low, high) with the ends of an interval; "" for none.

    `scale`: the lowest and highest y, by default of the points; `ticks`: what is written below these x.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    left, right = (choose(point[0] for point in points) for choose in (min, max))
    low, high = scale or (min(point[1] for point in points), max(point[1] for point in points))
    columns, legend = max((width - EDGE) // 90, 1), HEIGHT - 4 + 14 * bool(ticks)
    across, up = (width - EDGE - 16) / max(right - left, 1e-12), (HEIGHT - 48) / max(high - low, 1e-12)

    def drawn_line(points: Iterable[tuple[float, float]], beside: float, colour: str) -> str:
        places = (
            f"{EDGE + 4 + (x - left) * across + beside:.1f},{HEIGHT - 22 - (y - low) * up:.1f}" for x, y in points
        )
        return f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"/>'

    drawn = f'<text x="{EDGE}" y="14">{escape(title)}</text>'
    drawn += f'<text y="30">{high:.3g}</text><text y="{HEIGHT - 18}">{low:.3g}</text>'
    drawn += f'<path d="M{EDGE} 26V{HEIGHT - 22}H{width - 8}" fill="none" stroke="#9ca3af"/>'
    for x, text in (ticks or {}).items():
        at = EDGE + 4 + (x - left) * across
        drawn += f'<text x="{at:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>'
    for number, (label, line) in enumerate(lines.items()):
        colour, ends = COLOURS[number % len(COLOURS)], [(point[0], end) for point in line for end in point[2:]]
        beside = 3.0 * (number - (len(lines) - 1) / 2) if ends else 0.0  # px: no interval lies on another
        drawn += drawn_line([(point[0], point[1]) for point in line], beside, colour)
        drawn += "".join(drawn_line(pair, beside, colour) for pair in zip(ends[::2], ends[1::2], strict=True))
        row, column = divmod(number, columns)
        drawn += f'<text x="{EDGE + column * 90}" y="{legend + 14 * row}" fill="{colour}">{escape(label)}</text>'
    height = legend + 4 + 14 * ((len(lines) - 1) // columns)
    return f'<svg xmlns="http://www.w3.org/2000/svg" font-size="11" width="{width}" height="{height}">{drawn}</svg>'
