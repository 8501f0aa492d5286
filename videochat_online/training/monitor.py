"""What a run tells while it goes: speed, padding and waiting in the log; and a SIGTERM that becomes a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    import torch

LOG_FILE = "log.jsonl"


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


class LogFile(TrainerCallback):
    """log.jsonl in the run's folder: one line for each line of the log, none twice when a run is resumed."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / LOG_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an earlier life wrote about steps that are now taken again."""
        if state.is_world_process_zero:
            kept = [line for line in read_log(self.path) if line["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut off by a kill is left out."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class SaveOnSignal(TrainerCallback):
    """SIGTERM ends the run after the step in hand, with a checkpoint; on all processes where one of them got it."""

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self.agree = agree  # whether any process says yes
        self.received = False
        self.stopped = False
        self.before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.received = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.agree(self.received) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the signal back to whoever had it."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
            self.before = None


class Curves(TrainerCallback):
    """The log's numbers for TensorBoard, in logs/ of the run's folder; a resumed run takes the place of lost steps."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "logs"
        self.writer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=state.global_step + 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.writer is not None:
            for name, value in (logs or {}).items():
                self.writer.add_scalar(f"train/{name}", value, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.writer is not None:
            self.writer.close()


def leave_sigterm_to_the_trainer(worker: int) -> None:
    """For data workers: they end on a SIGTERM of the trainer's alone.

    torchrun and schedulers send one to every process, and the trainer still needs batches to come to its checkpoint.
    """
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_trainer_says_so, daemon=True).start()


def _end_when_the_trainer_says_so() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class LogBeforeSaving(TrainerCallback):
    """A checkpoint comes with a line of the log, so that a resumed run averages over the same steps as any other."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:
            control.should_log = True
