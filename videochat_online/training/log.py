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

LOG_FILE = "log.jsonl"


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
            kept = [json.dumps(line) + "\n" for line in read_log(self.path) if line["step"] <= step]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(kept), "utf-8")
        project = os.environ.get("WANDB_PROJECT", "huggingface") if config.tracker == "wandb" else "logs"
        options = {
            "tensorboard": {"purge_step": step + 1},
            "wandb": {"name": config.run_folder.name, "config": config.to_dict()},
        }
        accelerator.init_trackers(project, init_kwargs=options)

    def write(self, step: int, line: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
            self.accelerator.log({f"train/{name}": value for name, value in line.items()}, step)
            self.bar.write(str({name: f"{value:.4g}" for name, value in line.items()}))

    def close(self) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:  # `end_training` would end the process group as well
            tracker.finish()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut off by a kill is left out."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


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
        "images_per_second": round(images / elapsed, 2),
        "tokens_per_second": round(tokens / elapsed, 1),
        "padding_share": round(1 - tokens / positions, 4) if positions else 0.0,
        "data_wait_share": round(waiting / max(seconds, 1e-9), 4),
    }
