"""What a run reports: log.jsonl, curves, the progress bar; speed, padding and waiting in each line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .configuration import TrainingConfig
from .distributed import is_main_process

if TYPE_CHECKING:
    import torch

LOG_FILE = "log.jsonl"


class RunLog:
    """Every line goes to log.jsonl, to the curves of --tracker and above the progress bar; none is there twice.

    A run that is resumed replaces what an earlier life wrote about the steps after its checkpoint.
    """

    def __init__(self, config: TrainingConfig, step: int, num_steps: int) -> None:
        """Of a run that has finished `step` of `num_steps`. Only the main process writes."""
        from tqdm.auto import tqdm

        self.is_main = is_main_process()
        self.path = config.run_folder / LOG_FILE
        self.bar = tqdm(total=num_steps, initial=step, disable=not self.is_main)
        if self.is_main:
            kept = [line for line in read_log(self.path) if line["step"] <= step]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
            self.draw, self.close = _curves(config, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        if self.is_main:
            self.close()

    def advance(self) -> None:
        self.bar.update()

    def write(self, step: int, line: dict[str, float]) -> None:
        if self.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
            self.draw(step, {f"train/{name}": value for name, value in line.items()})
            self.bar.write(str({name: f"{value:.4g}" for name, value in line.items()}))


def _curves(config: TrainingConfig, step: int) -> tuple[Callable[[int, dict[str, float]], Any], Callable[[], Any]]:
    """What draws the numbers of a step, and what ends it."""
    if config.tracker == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(config.run_folder / "logs"), purge_step=step + 1)

        def draw(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        return draw, writer.close
    if config.tracker == "wandb":
        import wandb  # type: ignore[import-not-found]

        project = os.environ.get("WANDB_PROJECT", "huggingface")
        run = wandb.init(project=project, name=config.run_folder.name, config=config.to_dict())
        run.define_metric("*", step_metric="train/global_step", step_sync=True)
        return lambda step, values: run.log({**values, "train/global_step": step}), run.finish
    return lambda step, values: None, lambda: None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut off by a kill is left out."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Throughput:
    """Counts between two lines of the log, for one process. Times are seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.restart()

    def restart(self) -> None:
        self.start = self.clock()
        self.images = self.tokens = self.positions = 0
        self.waiting = 0.0

    def count(self, batch: Mapping[str, Any], num_tokens: int, num_images: int) -> None:
        """Add a batch; what of its positions holds no token is padding."""
        self.positions += batch["input_ids"].numel()
        self.tokens += num_tokens
        self.images += num_images

    def numbers(self) -> list[float]:
        """What `summary` needs, to be added up over processes."""
        return [self.images, self.tokens, self.positions, self.waiting, self.clock() - self.start]


def summary(numbers: torch.Tensor) -> dict[str, float]:
    """(processes, 5) rows of `Throughput.numbers` -> what stands in the log."""
    images, tokens, positions, waiting, seconds = numbers.sum(dim=0).tolist()
    elapsed = max(seconds / len(numbers), 1e-9)  # the processes run side by side
    return {
        "images_per_second": round(images / elapsed, 2),
        "tokens_per_second": round(tokens / elapsed, 1),
        "padding_share": round(1 - tokens / positions, 4) if positions else 0.0,
        "data_wait_share": round(waiting / max(seconds, 1e-9), 4),
    }
