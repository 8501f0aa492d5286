"""What a run reports: log.jsonl, curves, the progress bar; speed, padding and waiting in each line; at the end a page.

report.html says whether it has learnt, what it cost, what trained, answers and what is next: one file with nothing to
load. It is made from the run's log, so that a run of several lives is one.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.formats import read_row
from ..data.sample import IMAGE_MARK, VIDEO_MARK
from ..drawing import chart
from ..files import write_text
from .configuration import TrainingConfig
from .evaluating import Evaluation, HeldOut, chosen_of, verdict
from .plan import TrainingPlan

LOG_FILE, ANSWERS_FILE = "log.jsonl", "answers.jsonl"
SHOWN = 8
"""Answers of an evaluation that are shown as text."""
PAGE_FILE = "report.html"
STYLE = """body{font:15px/1.5 system-ui;max-width:60em;margin:2em auto;padding:0 1em}td{padding:.2em .8em}
pre,p{background:#f3f4f6;padding:.8em;white-space:pre-wrap;overflow-wrap:anywhere}.yes{background:#dcfce7}.no{background:#fee2e2}"""


class RunLog:
    """Every line goes to log.jsonl, to the curves of --tracker and above the progress bar; none is there twice.

    A run that is resumed replaces what an earlier life wrote about the steps after its checkpoint. Only the main
    process writes.
    """

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, step: int, num_steps: int) -> None:
        """Of a run that has finished `step` of `num_steps`."""
        self.accelerator, self.path = accelerator, config.run_folder / LOG_FILE
        self.bar = tqdm(total=num_steps, initial=step, disable=not accelerator.is_main_process)
        if accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for path in (self.path, self.path.with_name(ANSWERS_FILE)):
                kept = [line for line in read_log(path) if step >= line["step"] and step]
                if kept or path == self.path:
                    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), "utf-8")
        project = os.environ.get("WANDB_PROJECT", "huggingface") if config.tracker == "wandb" else "logs"
        options = {
            "tensorboard": {"purge_step": step + 1 if step else 0},
            "wandb": {"name": config.run_folder.name, "config": config.to_dict()},
        }
        accelerator.init_trackers(project, init_kwargs=options)

    def write(self, step: int, line: dict[str, float], group: str = "train") -> None:
        """A line of the `group`'s curves; in log.jsonl names have it before them, but for training's."""
        if self.accelerator.is_main_process:
            self.accelerator.log({f"{group}/{name}": value for name, value in line.items()}, step)
            line = line if group == "train" else {f"{group}_{name}": value for name, value in line.items()}
            self._append(self.path, [{"step": step, **line}])
            self.bar.write(str({name: f"{value:.4g}" for name, value in line.items()}))

    def write_answers(self, step: int, answers: list[dict[str, Any]]) -> None:
        """All go to answers.jsonl, the first SHOWN to the curves as text."""
        if self.accelerator.is_main_process and answers:
            self._append(self.path.with_name(ANSWERS_FILE), [{"step": step, **one} for one in answers])
            cells = [[str(value).replace("|", "\\|").replace("\n", " ") for value in one.values()] for one in answers]
            table = [list(answers[0]), ["---"] * len(answers[0]), *cells[:SHOWN]]
            self.accelerator.log({"eval/sample": "\n".join(f"| {' | '.join(row)} |" for row in table)}, step)

    @staticmethod
    def _append(path: Path, lines: list[dict[str, Any]]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def close(self) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:  # `end_training` would end the process group as well
            tracker.finish()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log or of answers; a last line cut off by a kill is left out."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] if path.exists() else []


class Interval:
    """What one process did since the last line of the log, or since a checkpoint was written. Times are seconds."""

    def __init__(self, step: int) -> None:
        self.first, self.start = step, perf_counter()
        self.images = self.tokens = self.positions = 0.0
        self.waiting = 0.0
        self.loss: Any = 0.0

    def count(self, batch: dict[str, Any], shared_by: int = 1) -> None:
        """Add a batch, and take its counts out of it; what of its positions holds no token is padding."""
        self.positions += batch["input_ids"].numel() / shared_by
        self.tokens += batch.pop("num_tokens") / shared_by
        self.images += batch.pop("num_images") / shared_by

    def numbers(self) -> list[float]:
        """What `summary` needs of every process."""
        loss = float(self.loss)  # waits for the device: before the clock is read
        return [loss, self.images, self.tokens, self.positions, self.waiting, perf_counter() - self.start]


def summary(numbers: torch.Tensor) -> dict[str, float]:
    """(processes, 6) rows of `Interval.numbers` -> what stands in the log; the loss is the sum over the steps."""
    loss, images, tokens, positions, waiting, seconds = numbers.sum(dim=0).tolist()
    elapsed = max(seconds / len(numbers), 1e-9)  # the processes run side by side
    return {
        "loss": loss / len(numbers),
        "tokens": int(tokens),
        "seconds": round(elapsed, 4),
        "images_per_second": round(images / elapsed, 2),
        "tokens_per_second": round(tokens / elapsed, 1),
        "padding_share": round(1 - tokens / positions, 4) if positions else 0.0,
        "data_wait_share": round(waiting / max(seconds, 1e-9), 4),
    }


def write_run_page(
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
    facts = run_facts(plan, steps, evaluations, chosen)
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
        *(curve(name, log, lines) for name, lines in curves.items()),
        f"<pre>{escape(facts)}</pre><pre>{escape(parts)}</pre>",
        *(["<table><tr><th>question<th>expected<th>given", *rows, "</table>"] if rows else []),
        f"<pre>{escape(commands_of(str(folder / 'model'), held_out.dataset if held_out else dataset))}</pre>",
    ]
    write_text(folder / PAGE_FILE, "\n".join(body) + "\n")
    return f"{facts}\n{'WARNING: ' if problems else ''}{title}\nreport           {folder / PAGE_FILE}"


def run_facts(
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


def curve(title: str, log: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """Values of the log over the steps."""
    lines = {
        label: [(line["step"], line[name]) for line in log if math.isfinite(line.get(name, math.nan))]
        for label, name in names.items()
    }
    return chart(f"{title}, steps", {label: line for label, line in lines.items() if line})
