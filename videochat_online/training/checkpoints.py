"""Checkpoints that are complete or do not count: how one comes into being, how the newest is found.

A checkpoint is written into a staging folder, flushed to the disk, given its marker (the list of its files and their
sizes) and renamed into its place; until the rename it does not exist. A marker whose files are missing or of another
size, as after a copy that was cut off, makes a checkpoint incomplete. Knows nothing of what the files mean.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import files_below, flush_tree, replace_folder, write_json

MARKER = "complete.json"
STAGING = ".saving"
NAME = re.compile(r"checkpoint-(\d+)")
WRITE_ERRORS = (
    "No space left on device", "File too large", "Disk quota exceeded",  # safetensors passes the system's words on
    "PytorchStreamWriter failed", "file write failed", "unexpected pos",  # torch.save does not
)  # fmt: skip
"""How a full disk shows in the errors of libraries that write for us and keep no errno."""


class ResumeError(ValueError):
    """A checkpoint that cannot be resumed."""


class SaveError(ValueError):
    """A checkpoint that could not be written."""


@dataclass(frozen=True)
class RunShape:
    """How a run is shared out. A checkpoint is resumed exactly only in the same shape."""

    world_size: int
    strategy: str
    batch_size: int
    """Samples (packed: sequences) one process takes at once."""
    accumulation: int
    """Steps of gradient accumulation."""

    @property
    def batches_per_step(self) -> int:
        return self.world_size * self.accumulation


@dataclass(frozen=True)
class Checkpoint:
    """A folder checkpoint-STEP, whole or not."""

    folder: Path
    step: int
    problem: str | None = None
    """What makes it incomplete."""

    @property
    def marker(self) -> dict[str, Any]:
        return json.loads((self.folder / MARKER).read_text("utf-8"))


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
    return sorted(found, key=lambda checkpoint: checkpoint.step)


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


def choose_checkpoint(resume: str, run_folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to resume from, None for a fresh start.

    Args:
        resume: never, auto, or a checkpoint's folder.
        say: prints which incomplete checkpoints are skipped, and why.

    Raises ResumeError for `never` in a folder that holds checkpoints, and for a named one that is incomplete or older
    than others of the run's folder.
    """
    found = find_checkpoints(run_folder)
    if resume == "never":
        if found:
            name = found[-1].folder.name
            raise ResumeError(
                f"{run_folder} already holds {name}: resume it with --resume auto, or choose another --output-dir"
            )
        return None
    if resume != "auto":
        named = _named_checkpoint(Path(resume))
        if later := [one.folder.name for one in found if one.step > named.step and not one.problem]:
            raise ResumeError(
                f"--resume {resume}: {run_folder} also holds {', '.join(later)}, later ones: resume the last with "
                "--resume auto, or move them away, or choose another --output-dir"
            )
        return named
    for checkpoint in found:
        if checkpoint.problem:
            say(f"skipping {checkpoint.folder}: {checkpoint.problem}")
    for left in sorted(run_folder.glob(f"{STAGING}/checkpoint-*")):
        say(f"skipping {left.name}, which was being written when the run ended ({left})")
    whole = [checkpoint for checkpoint in found if not checkpoint.problem]
    return whole[-1] if whole else None


def _named_checkpoint(folder: Path) -> Checkpoint:
    match = NAME.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        raise ResumeError(f"--resume {folder}: expected never, auto or a folder checkpoint-STEP that is there")
    if problem := problem_of(folder):
        raise ResumeError(f"--resume {folder}: the checkpoint is incomplete, {problem}")
    return Checkpoint(folder, int(match[1]))


def check_shape(checkpoint: Checkpoint, shape: RunShape) -> None:
    """Raise ResumeError where a run of this shape cannot exactly resume a checkpoint."""
    before = RunShape(**checkpoint.marker["shape"])
    if before == shape:
        return
    sharded = before.strategy != "ddp" or shape.strategy != "ddp"
    same_steps = (before.batch_size, before.batches_per_step) == (shape.batch_size, shape.batches_per_step)
    if sharded or not same_steps:
        raise ResumeError(
            f"{checkpoint.folder} was written by {_describe(before)}; this is {_describe(shape)}. "
            "Sharded runs (zero1 to fsdp) resume only on as many processes; ddp needs the same samples in each step"
        )


def _describe(shape: RunShape) -> str:
    return (
        f"{shape.strategy} on {shape.world_size} processes, "
        f"{shape.batches_per_step} x {shape.batch_size} samples or sequences a step"
    )


def drop_old(run_folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints. Incomplete ones are left for their owner to look at."""
    whole = [checkpoint for checkpoint in find_checkpoints(run_folder) if not checkpoint.problem]
    for checkpoint in whole[:-keep]:
        (checkpoint.folder / MARKER).unlink()  # no longer complete, should the deleting be cut off
        shutil.rmtree(checkpoint.folder)


def is_write_error(error: BaseException) -> bool:
    """Whether an error of a library says that the disk took no more."""
    return isinstance(error, OSError) or any(text in str(error) for text in WRITE_ERRORS)


@contextmanager
def full_disk_named(what: Path, run_folder: Path, staging: Path) -> Iterator[None]:
    """Raise SaveError where `what` cannot be written, naming what is left; the files in `staging` go then."""
    try:
        yield
    except Exception as error:
        if not is_write_error(error):
            raise
        shutil.rmtree(staging, ignore_errors=True)  # what was written of it only takes room
        whole = [one.folder for one in find_checkpoints(run_folder) if not one.problem]
        free = shutil.disk_usage(run_folder).free / 2**30
        left = f"{whole[-1]} is whole: resume it with --resume auto" if whole else "no earlier checkpoint exists"
        raise SaveError(f"{what} could not be written ({error}); {free:.1f} GiB are free there. {left}") from error
