"""`--check`: everything that can be known before a run starts, on any machine; trains nothing and writes nothing.

Steps, tokens, what trains, memory on each GPU, room on the disk, and all problems in one report.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import scheduled_grids, tokens_of_grid
from ..data.sampler import Lengths
from ..data.settings import flag
from .checkpoints import choose_checkpoint
from .configuration import TrainingConfig
from .distributed import check_packages, uses_bf16, zero_stage
from .memory import Load, MemoryEstimate, estimate
from .parts import PartRow, choose_parts, part_rows, parts_table
from .plan import TrainingPlan, counted, judge, make_plan, steps_text
from .record import check_record, describe_data
from .run import Say, make_dataset, rope_boundary

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset
    from ..model_config import VideoChatOnlineConfig

GIB = 2**30
TRIED_SAMPLES = 50
"""Samples whose length --check finds out exactly; their media are opened."""


def check_run(config: TrainingConfig, num_processes: int, say: Say) -> int:
    """Print the plan and all problems; 1 where there are any."""
    from ..data.check import check_lists
    from ..model.weights import load_config
    from ..processing import Processor

    problems: list[str] = []
    warnings: list[str] = []
    model_config: VideoChatOnlineConfig | None = None
    plan: TrainingPlan | None = None
    # 1. settings, packages, the checkpoint to resume
    for step in (config.check_complete, lambda: check_packages(config), lambda: zero_stage(config)):
        with noted(problems):
            step()
    with noted(problems):
        checkpoint = choose_checkpoint(config.resume, config.run_folder, problems.append)
        if checkpoint is not None:
            check_record(config, checkpoint, problems.append, describe_data(config))
    # 2. the model's config
    with noted(problems, f"--model {config.model}: "):
        model_config = load_config(config.model)
    # 3. the data lists and every file they name
    report = check_lists(config.data, num_workers=config.num_workers) if config.data else None
    if report is not None:
        say(report.as_table())
        problems += [f"--data: {len(report.problems)} problems, listed above"] if report.problems else []
    # 4. steps
    if model_config is not None and report is not None and not report.problems:
        with noted(problems):
            processor = Processor.from_pretrained(config.model, model_config)
            dataset = make_dataset(replace(config, frame_cache=""), processor, model_config)  # nothing is written
            plan = make_plan(config, dataset.lengths, num_processes, boundary=rope_boundary(model_config))
            say(steps_text(plan, num_processes))
            for found, more in zip((problems, warnings), judge(plan), strict=True):
                found += more
            refused = refused_for_length(dataset)
            (problems if len(refused) > config.max_failed_share * len(dataset) else warnings).extend(refused)
    # 5. what trains, memory, disk
    if model_config is not None:
        with noted(problems):
            _say_memory(config, model_config, num_processes, plan.lengths if plan else (), say)
    for what, found in (("warning", warnings), ("problem", problems)):
        if found:
            say("\n".join([f"{counted(len(found), what)}:", *(f"  {one}" for one in found)]))
    if not problems:
        say("no problems")
    return 1 if problems else 0


@contextmanager
def noted(problems: list[str], where: str = "") -> Iterator[None]:
    """Note what is wrong, and let the report continue."""
    try:
        yield
    except (ValueError, ImportError) as error:
        problems.append(f"{where}{error}")


def refused_for_length(dataset: ConversationDataset) -> list[str]:
    """What training would say of samples that cannot fit --max-length; the first of those that reach it are tried."""
    from ..data.dataset import UNREADABLE

    found = []
    reach = dataset.lengths >= dataset.settings.max_length
    for set_number, row in np.unique(dataset.rows[reach], axis=0)[:TRIED_SAMPLES].tolist():  # a row may be repeated
        try:
            with dataset.prepare(set_number, row):
                pass
        except UNREADABLE as error:
            found.append(f"{dataset.data_sets[set_number].name}, row {row}: {error}")
    return found


def _say_memory(
    config: TrainingConfig, model_config: VideoChatOnlineConfig, num_processes: int, lengths: Lengths, say: Say
) -> None:
    """What trains, the memory it takes, the room for checkpoints. Raises ValueError where the disk has no place."""
    rows = model_rows(model_config, config)
    say(parts_table(rows))
    load = largest_load(model_config, config, lengths)
    say(memory_text(estimate(rows, model_config, config, num_processes, load), config, num_processes, load))
    each = checkpoint_bytes(rows, config)
    say(f"checkpoints      {each / GIB:.1f} GiB each, {config.keep_checkpoints} kept and one being written")
    places = {"output_dir": each * (config.keep_checkpoints + 1), "frame_cache": 0.0}
    found = [
        f"{flag(name)}: {problem}"
        for name, needed in places.items()
        if (place := getattr(config, name)) and (problem := folder_problem(needed, Path(place)))
    ]
    if found:
        raise ValueError("; ".join(found))


def model_rows(model_config: VideoChatOnlineConfig, config: TrainingConfig) -> list[PartRow]:
    """The parts of a model and what trains of them, from its config alone: no memory is used, whatever its size."""
    import torch

    from ..model.videochat import VideoChatOnline

    with torch.device("meta"):
        model = VideoChatOnline(model_config)
        choose_parts(model, config)
    return part_rows(model, config)


def largest_load(model_config: VideoChatOnlineConfig, config: TrainingConfig, lengths: Lengths = ()) -> Load:
    """The largest batch of one process: its longest samples, or --max-length tokens where lengths are not known."""
    memory, num_frames = model_config.memory_config, config.num_frames
    film = sum(tokens_of_grid(grid) for grid in scheduled_grids(num_frames, memory.every, memory.grids))
    if config.batching == "packed":
        tokens = config.batch_size * config.max_length
        return Load(tokens, max(num_frames, num_frames * tokens // film))
    longest = min(int(np.max(lengths)) if len(lengths) else config.max_length, config.max_length)
    return Load(config.batch_size * longest, config.batch_size * num_frames)


def checkpoint_bytes(rows: list[PartRow], config: TrainingConfig) -> float:
    """One checkpoint: the weights, Adam's moments, and with ZeRO its own copy of both."""
    weights, trained = sum(row.num_parameters for row in rows), sum(row.num_trained for row in rows)
    if zero_stage(config):
        return (2 + 2 if uses_bf16(config) else 4 + 4) * weights + 12 * trained
    return 4 * weights + 8 * trained


def folder_problem(needed: float, folder: Path) -> str | None:
    """What to say where nothing can be written to a folder, or it has no room for `needed` bytes."""
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} cannot be written to"
    free = shutil.disk_usage(place).free
    if free >= needed:
        return None
    return f"{place} has {free / GIB:.1f} GiB free, the checkpoints of this run take {needed / GIB:.1f} GiB"


def memory_text(memory: MemoryEstimate, config: TrainingConfig, num_processes: int, load: Load) -> str:
    """The estimate as a table, GiB."""
    on, off = ("with", "without") if config.gradient_checkpointing else ("without", "with")
    number = "bf16" if uses_bf16(config) else "fp32"
    rows: list[tuple[str, float, str]] = [
        ("weights", memory.weights, ""),
        ("gradients", memory.gradients, ""),
        ("optimizer", memory.optimizer, ""),
        ("casts", memory.casts, ""),
        (
            "activations",
            memory.activations,
            f"{on} gradient checkpointing ({off}: {memory.other_activations / GIB:.2f})",
        ),
        ("logits", memory.logits, ""),
        ("reserve", memory.reserve, ""),
        ("total", memory.total, ""),
    ]
    place = "of each process" if config.cpu else "on each GPU"
    head = (
        f"memory {place}, estimated, GiB ({config.strategy}, {counted(num_processes, 'process')}, {number}; a batch "
        f"of {counted(load.num_tokens, 'token')} and {counted(load.num_pictures, 'picture')})"
    )
    return "\n".join([head, *(f"  {name:12} {size / GIB:8.2f}  {note}".rstrip() for name, size, note in rows)])
