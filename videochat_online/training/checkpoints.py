"""Checkpoints that are complete or do not count: how one comes into being, how the newest is found.

A checkpoint is written into a staging folder, flushed to the disk, given its marker (the list of its files and their
sizes) and renamed into its place; until the rename it does not exist. A marker whose files are missing or of another
size, as after a copy that was cut off, makes a checkpoint incomplete. Knows nothing of what the files mean.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..files import files_below, flush_tree, replace_folder, write_json
from .configuration import TrainingConfig
from .distributed import rank, shared_store, world_size
from .evaluating import best_of
from .plan import RunShape

MARKER = "complete.json"
STAGING = ".saving"
STEP_FILE = "trainer_state.json"
NAME = re.compile(r"checkpoint-(\d+)")
WRITE_ERRORS = (
    "No space left on device", "File too large", "Disk quota exceeded",  # safetensors passes the system's words on
    "PytorchStreamWriter failed", "file write failed", "unexpected pos",  # torch.save does not
)  # fmt: skip
"""How a full disk shows in the errors of libraries that write for us and keep no errno."""
BEST_FILE = "best.json"
"""The evaluation of the best checkpoint, for people: the run itself goes by the checkpoints' own."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder checkpoint-STEP, whole or not."""

    folder: Path
    step: int
    problem: str | None = None
    """What makes it incomplete."""


def finish(staged: Path, folder: Path, step: int, shape: RunShape) -> None:
    """Turn the files in `staged` into the complete checkpoint `folder`."""
    flush_tree(staged)
    sizes = {str(path.relative_to(staged)): path.stat().st_size for path in files_below(staged)}
    write_json(staged / MARKER, {"step": step, "shape": asdict(shape), "files": sizes})
    replace_folder(staged, folder)  # one may be left of an earlier life of this run, which resumed before it


def find_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """All checkpoints of a run, oldest first; the incomplete ones say why."""
    found = []
    for folder in run_folder.glob("checkpoint-*"):
        if (match := NAME.fullmatch(folder.name)) and folder.is_dir():
            found.append(Checkpoint(folder, int(match[1]), problem_of(folder)))
    return sorted(found, key=attrgetter("step"))


def problem_of(folder: Path) -> str | None:
    """What makes a checkpoint incomplete; None where it is whole."""
    marker = folder / MARKER
    if not marker.is_file():
        return f"it has no {MARKER}, which is written last"
    try:
        sizes = json.loads(marker.read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MARKER} cannot be read ({error})"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def whole_checkpoints(run_folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run, oldest first."""
    return [checkpoint for checkpoint in find_checkpoints(run_folder) if not checkpoint.problem]


def choose_checkpoint(resume: str, run_folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from, None for a fresh start. `resume` is never, auto, or a checkpoint's folder.

    Raises ValueError for `never` in a folder that holds checkpoints, and for a named one that is not there, is
    incomplete or older than others of the run's folder.
    """
    found, whole = find_checkpoints(run_folder), whole_checkpoints(run_folder)
    if resume == "auto":
        return whole[-1] if whole else None
    if resume == "never" and found:
        raise ValueError(
            f"{run_folder} already holds {found[-1].folder.name}: resume it with --resume auto, or choose another "
            "--output-dir"
        )
    if resume == "never":
        return None
    folder = Path(resume)
    named = next((one for one in find_checkpoints(folder.parent) if one.folder == folder), None)
    if named is None:
        raise ValueError(f"--resume {resume}: expected never, auto or a folder checkpoint-STEP that is there")
    if named.problem:
        raise ValueError(f"--resume {resume}: the checkpoint is incomplete, {named.problem}")
    if later := [one.folder.name for one in whole if one.step > named.step]:
        raise ValueError(
            f"--resume {resume}: {run_folder} also holds {', '.join(later)}, later ones: resume the last with "
            "--resume auto, or move them away, or choose another --output-dir"
        )
    return named


def skipped(resume: str, run_folder: Path) -> list[str]:
    """What `--resume auto` passes over in a run's folder, and why; nothing for other ways to resume."""
    if resume != "auto":
        return []
    found = [f"skipping {one.folder}: {one.problem}" for one in find_checkpoints(run_folder) if one.problem]
    left = sorted(run_folder.glob(f"{STAGING}/checkpoint-*"))
    return found + [f"skipping {one.name}, which was being written when the run ended ({one})" for one in left]


def evaluations_of(folder: Path) -> list[dict[str, float]]:
    """Those that the run had when it wrote a checkpoint; none before there were any."""
    path = folder / STEP_FILE
    return list(json.loads(path.read_text("utf-8")).get("evaluations", [])) if path.is_file() else []


def check_shape(checkpoint: Checkpoint, shape: RunShape) -> None:
    """Raise ValueError where a run of this shape cannot exactly resume a checkpoint."""
    before = RunShape(**json.loads((checkpoint.folder / MARKER).read_text("utf-8"))["shape"])
    if before == shape:
        return
    whole = before.strategy == shape.strategy and shape.strategy in ("ddp", "fsdp")  # not in shares, as ZeRO
    same_steps = (before.batch_size, before.batches_per_step) == (shape.batch_size, shape.batches_per_step)
    if not whole or not same_steps:
        raise ValueError(
            f"{checkpoint.folder} was written by {before}; this is {shape}. "
            "Runs with ZeRO resume only on as many processes; ddp and fsdp need the same samples in each step"
        )


def drop_old(run_folder: Path, keep: int, best: int | None = None) -> None:
    """Delete complete checkpoints but the newest `keep` and step `best`; incomplete ones are left for their owner."""
    for checkpoint in whole_checkpoints(run_folder)[:-keep]:
        if checkpoint.step == best:
            continue
        (checkpoint.folder / MARKER).unlink()  # no longer complete, should the deleting be cut off
        shutil.rmtree(checkpoint.folder)


@contextmanager
def full_disk_named(what: Path, run_folder: Path, staging: Path) -> Iterator[None]:
    """Raise ValueError where the disk takes no more of `what`, naming what is left; the files in `staging` go then."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not any(text in str(error) for text in WRITE_ERRORS):
            raise
        shutil.rmtree(staging, ignore_errors=True)  # what was written of it only takes room
        whole = whole_checkpoints(run_folder)
        free = shutil.disk_usage(run_folder).free / 2**30
        left = f"{whole[-1].folder} is whole: resume it with --resume auto" if whole else "no earlier checkpoint exists"
        raise ValueError(f"{what} could not be written ({error}); {free:.1f} GiB are free there. {left}") from error


class Saver:
    """Writes a run's checkpoints: each process's files by a thread, with copies while training goes on.

    One is being written at most. Its marker and name come last, when all processes have written theirs. One for each
    process; all methods are for all processes together, but `check`. `state`: the TrainState.
    """

    def __init__(self, state: Any, config: TrainingConfig, shape: RunShape) -> None:
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
