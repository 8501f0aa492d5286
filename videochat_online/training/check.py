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
import torch

from ..data.sampler import Lengths
from ..data.settings import flag
from .checkpoints import choose_checkpoint, skipped
from .configuration import TrainingConfig
from .distributed import check_packages, say, uses_bf16, zero_stage
from .memory import GIB, largest_load, memory_text
from .parts import PartRow, choose_parts, part_rows, parts_table, total
from .plan import counted, judge, steps_text
from .run import check_record, describe_data, make_data

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset
    from ..model_config import VideoChatOnlineConfig

TRIED_SAMPLES = 50
"""Samples whose length --check finds out exactly; their media are opened."""


def check_run(config: TrainingConfig, num_processes: int) -> int:
    """Print the plan and all problems; 1 where there are any."""
    from ..data.check import check_lists
    from ..model.weights import load_config
    from ..processing import Processor

    problems: list[str] = []
    warnings: list[str] = []
    model_config: VideoChatOnlineConfig | None = None
    lengths: Lengths = ()
    # 1. settings, packages, the checkpoint to resume
    for step in (config.check_complete, lambda: check_packages(config), lambda: zero_stage(config)):
        with noted(problems):
            step()
    problems += skipped(config.resume, config.run_folder)
    with noted(problems):
        if (checkpoint := choose_checkpoint(config.resume, config.run_folder)) is not None:
            problems += check_record(config, checkpoint, describe_data(config))
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
            uncached = replace(config, frame_cache="")  # nothing is written
            dataset, _, plan = make_data(uncached, processor, model_config, num_processes)
            lengths = plan.lengths
            say(steps_text(plan))
            for found, more in zip((problems, warnings), judge(plan), strict=True):
                found += more
            refused = refused_for_length(dataset)
            (problems if len(refused) > config.max_failed_share * len(dataset) else warnings).extend(refused)
    # 5. what trains, memory, disk
    if model_config is not None:
        with noted(problems):
            rows = model_rows(model_config, config)
            say(parts_table(rows))
            say(memory_text(rows, model_config, config, num_processes, largest_load(model_config, config, lengths)))
            problems += disk_problems(rows, config)
    say_found(problems, warnings)
    return 1 if problems else 0


def say_found(problems: list[str], warnings: list[str]) -> None:
    """The end of the report."""
    for what, found in (("warning", warnings), ("problem", problems)):
        if found:
            say("\n".join([f"{counted(len(found), what)}:", *(f"  {one}" for one in found)]))
    if not problems:
        say("no problems")


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


def model_rows(model_config: VideoChatOnlineConfig, config: TrainingConfig) -> list[PartRow]:
    """The parts of a model and what trains of them, from its config alone: no memory is used, whatever its size."""
    from ..model.videochat import VideoChatOnline

    with torch.device("meta"):
        model = VideoChatOnline(model_config)
        choose_parts(model, config)
    return part_rows(model, config)


def disk_problems(rows: list[PartRow], config: TrainingConfig) -> list[str]:
    """Say the size of checkpoints; return what is wrong with the folders of --output-dir and --frame-cache."""
    model = total(rows)
    each = 4 * model.num_parameters + 8 * model.num_trained  # the weights and Adam's moments
    if zero_stage(config):  # and ZeRO's own copy of both
        each = (2 + 2 if uses_bf16(config) else 4 + 4) * model.num_parameters + 12 * model.num_trained
    say(f"checkpoints      {each / GIB:.1f} GiB each, {config.keep_checkpoints} kept and one being written")
    needed = {"output_dir": each * (config.keep_checkpoints + 1), "frame_cache": 0}
    places = {name: Path(getattr(config, name)) for name in needed if getattr(config, name)}
    found = {name: folder_problem(needed[name], place) for name, place in places.items()}
    return [f"{flag(name)}: {problem}" for name, problem in found.items() if problem]


def folder_problem(needed: int, folder: Path) -> str | None:
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
