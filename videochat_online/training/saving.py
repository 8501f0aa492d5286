"""A run's checkpoints as they are written: each process's files by a thread, with copies while training goes on.

One is being written at most. Its marker and name come last, when all processes have written theirs.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ..files import write_json
from .checkpoints import STAGING, drop_old, finish, full_disk_named
from .configuration import TrainingConfig
from .distributed import rank, shared_store, world_size
from .evaluating import best_of
from .plan import RunShape
from .state import TrainState

BEST_FILE = "best.json"
"""The evaluation of the best checkpoint, for people: the run itself goes by the checkpoints' own."""


class Saver:
    """One for each process; all methods are for all processes together, but `check`."""

    def __init__(self, state: TrainState, config: TrainingConfig, shape: RunShape) -> None:
        self.state, self.config, self.shape = state, config, shape
        self.staging = config.run_folder / STAGING
        self.thread = threading.Thread()
        self.problem: Exception | None = None
        self.store = shared_store("saving", config.timeout) if world_size() > 1 else None

    def save(self) -> None:
        """Write a checkpoint, with --async-checkpoints later. Raises ValueError where the disk takes no more."""
        self.wait()
        folder, is_main = self.config.run_folder / f"checkpoint-{self.state.step}", rank() == 0
        staged = self.staging / folder.name
        with full_disk_named(folder, self.config.run_folder, self.staging):
            # 1. an empty staging folder
            if is_main:
                shutil.rmtree(self.staging, ignore_errors=True)
                staged.mkdir(parents=True)
            self.state.accelerator.wait_for_everyone()
            # 2. what is to be written, as it is now
            files = self.state.files(staged, copied=self.config.async_checkpoints)
            best = best_of(self.state.evaluations)
        # 3. its files, then flush, marker, rename; older checkpoints go
        self.thread = threading.Thread(target=self._write, args=(folder, self.state.step, files, best))
        self.thread.start()
        if not self.config.async_checkpoints:
            self.wait()

    def wait(self) -> None:
        """Until the last checkpoint is complete. Raises ValueError where it could not be written."""
        if self.thread.ident is not None:
            self.thread.join()
        self.check()
        self.state.accelerator.wait_for_everyone()

    def check(self) -> None:
        """Raise what went wrong with the last checkpoint, if that is known."""
        if self.problem is not None:
            raise self.problem

    def _write(
        self, folder: Path, step: int, files: list[Callable[[], object]], best: Mapping[str, float] | None
    ) -> None:
        try:
            with full_disk_named(folder, self.config.run_folder, self.staging):
                for write in files:
                    write()
                if rank() == 0:
                    self._hear_others(step)
                    finish(self.staging / folder.name, folder, step, self.shape)
                    self.staging.rmdir()
                    if best:
                        write_json(self.config.run_folder / BEST_FILE, best)
                    drop_old(self.config.run_folder, self.config.keep_checkpoints, int(best["step"]) if best else None)
        except Exception as error:
            self.problem = error
        if self.store is not None and rank() > 0:
            self.store.set(f"{step}/{rank()}", str(self.problem or ""))

    def _hear_others(self, step: int) -> None:
        """Wait until all other processes have written their files. A collective would be in the way of training."""
        for number in range(1, world_size()):
            assert self.store is not None
            if problem := self.store.get(f"{step}/{number}").decode():
                raise ValueError(f"rank {number}: {problem}")
