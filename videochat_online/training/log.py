"""What a run reports: log.jsonl, curves, the progress bar; speed, padding and waiting in each line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .configuration import TrainingConfig

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

LOG_FILE, ANSWERS_FILE = "log.jsonl", "answers.jsonl"
SHOWN = 8
"""Answers of an evaluation that are shown as text."""


class RunLog:
    """Every line goes to log.jsonl, to the curves of --tracker and above the progress bar; none is there twice.

    A run that is resumed replaces what an earlier life wrote about the steps after its checkpoint. Only the main
    process writes.
    """

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, step: int, num_steps: int) -> None:
        """Of a run that has finished `step` of `num_steps`."""
        from tqdm.auto import tqdm

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
