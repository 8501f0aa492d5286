"""`--check`: everything that can be known before a run starts, on any machine; trains nothing and writes nothing.

Steps, tokens, what trains, memory on each GPU, room on the disk, and all problems in one report.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np

from ..data.check import Report, check_lists
from ..data.dataset import UNREADABLE, ConversationDataset
from ..data.looking import with_bar
from ..data.registry import collect_lists
from ..data.sample import SampleError
from ..data.sampler import Lengths
from ..data.settings import flag
from ..media.source import MediaWarning
from ..model.backbone import Facts
from ..model.weights import load_facts
from ..processing import Processor
from .checkpoints import Checkpoint, check_shape, choose_checkpoint, skipped
from .configuration import TrainingConfig
from .distributed import check_packages, data_workers, say, uses_bf16, zero_stage
from .evaluating import HeldOut
from .export import check_hub
from .memory import GIB, largest_load, memory_problem, memory_text
from .parts import PartRow, check_model, frozen_dtype, holds_trained_only, model_rows, parts_table, total
from .plan import TrainingPlan, counted, judge, steps_text
from .run import check_record, describe_data, make_data

NEARLY = 0.9
"""Samples whose estimate reaches this share of --max-length are laid out: words may be denser than estimated."""

MOST_ROWS = 5_000
"""Of all sets, whose words and files are looked at: a report before a run takes a minute, not a night."""


def check_run(config: TrainingConfig, num_processes: int) -> int:
    """Print the plan and all problems; 1 where there are any."""
    problems: list[str] = []
    warnings: list[str] = []
    model_config: Facts | None = None
    lengths: Lengths = ()
    checkpoint: Checkpoint | None = None
    # 1. settings, packages, the checkpoint to resume
    for step in (TrainingConfig.check_complete, check_packages, zero_stage, check_hub):
        with noted(problems):
            step(config)
    problems += skipped(config.resume, config.run_folder)
    with noted(problems):
        if (checkpoint := choose_checkpoint(config.resume, config.run_folder)) is not None:
            problems += check_record(config, checkpoint, describe_data(config))
    # 2. the model's config
    with noted(problems, f"--model {config.model}: "):
        model_config = load_facts(config.model)
        check_model(config, model_config)
    # 3. the data lists and every file they name
    report = report_data(config.data, data_workers(config), problems)
    # 4. samples and steps, of the sets that can be read
    if model_config is not None and report is not None and report.sets:
        with noted(problems):
            processor = Processor.from_pretrained(config.model, model_config)
            uncached = replace(config, frame_cache="")  # nothing is written
            readable = {one.name for one in report.sets}
            data_sets = [one for one in collect_lists(config.data)[0] if one.name in readable]
            dataset = ConversationDataset(data_sets, processor, model_config, uncached)
            lengths = dataset.lengths
            with noted(problems):
                *_, plan, held_out = make_data(uncached, processor, model_config, num_processes, dataset)
                lengths = plan.lengths  # without what is held out
                report_plan(plan, held_out, problems, warnings)
                if checkpoint is not None:
                    check_shape(checkpoint, plan.shape)
            report_lengths(dataset, problems, warnings)
    # 5. what trains, memory, disk
    report_costs(model_config, config, num_processes, lengths, problems)
    return say_all(problems, warnings)


def report_costs(
    model_config: Facts | None,
    config: TrainingConfig,
    num_processes: int,
    lengths: Lengths,
    problems: list[str],
) -> None:
    """Print what trains, and what a run takes of memory and disk."""
    rows: list[PartRow] = []
    if model_config is not None:
        with noted(problems):
            rows = model_rows(model_config, config)
            say(parts_table(rows))
            say(memory_text(rows, model_config, config, num_processes, largest_load(model_config, config, lengths)))
            if config.memory_limit:
                told, problem = memory_problem(model_config, config, num_processes, lengths)
                say(told)
                problems += [problem] if problem else []
    with noted(problems):
        problems += disk_problems(rows, config)


def check_data(lists: Sequence[str], problems: list[str]) -> int:
    """Print what is wrong with the data where the settings are wrong too, as `problems` say; 1."""
    report_data(lists, data_workers(TrainingConfig()), problems)
    return say_all(problems, [])


def report_data(lists: Sequence[str], num_workers: int, problems: list[str]) -> Report | None:
    """Print what is in the lists, and note how many problems they have; None without lists."""
    if not lists:
        return None
    report = check_lists(lists, num_workers=num_workers, most_rows=MOST_ROWS)
    say(report.as_table())
    problems += [f"--data: {counted(len(report.problems), 'problem')}, listed above"] if report.problems else []
    return report


def report_plan(plan: TrainingPlan, held_out: HeldOut | None, problems: list[str], warnings: list[str]) -> None:
    """Print the steps, what is held out and what evaluating costs: a pass forward is a third of a step's work."""
    say(steps_text(plan))
    for found, more in zip((problems, warnings), judge(plan), strict=True):
        found += more
    if held_out is None:
        return
    warnings += held_out.warnings
    config, lengths = plan.config, np.asarray(held_out.dataset.lengths)
    times = 2 + (plan.num_steps - 1) // (config.eval_every or config.save_every)
    asked = lengths[: 0 if config.strategy == "fsdp" else config.eval_answers]
    cost = times * (lengths.sum() + asked.sum()) / 3 / (plan.num_steps * plan.samples_per_step * plan.lengths.mean())
    each = f"{times:,} times {lengths.sum():,} tokens and {len(asked):,} answers"
    say(f"evaluation       {held_out.text}; {each}, about {cost:.1%} of the time that training takes")


def report_lengths(dataset: ConversationDataset, problems: list[str], warnings: list[str]) -> None:
    """Print how many samples do not fit --max-length, and note each; too many that are refused are a problem."""
    with catch_warnings():
        simplefilter("ignore", MediaWarning)  # the data's own report has them
        refused, shortened = samples_too_long(dataset)
    say(f"too long         {counted(len(refused), 'sample')} refused, {len(shortened):,} shown with fewer pictures")
    is_too_many = len(refused) > dataset.settings.max_failed_share * len(dataset)
    (problems if is_too_many else warnings).extend(refused)
    warnings += shortened


def say_all(problems: list[str], warnings: list[str]) -> int:
    """Print the end of the report; 1 where there are problems."""
    for what, found in (("warning", warnings), ("problem", problems)):
        if lines := [f"  {one}" for one in dict.fromkeys(found)]:  # several steps may meet the same one
            say("\n".join([f"{counted(len(lines), what)}:", *lines]))
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


def samples_too_long(dataset: ConversationDataset) -> tuple[list[str], list[str]]:
    """Every sample that does not fit --max-length: those whose text alone is too long, those shown with fewer pictures.

    Only those are laid out whose estimate comes near it: media are opened for their times and sizes, no video is
    decoded. What cannot be read is left out: the data's own report says it.
    """
    max_length, refused, shortened = dataset.settings.max_length, [], []
    whole = copy(dataset)
    whole.settings = replace(dataset.settings, max_length=sys.maxsize)
    rows = np.unique(dataset.rows[dataset.lengths >= NEARLY * max_length], axis=0).tolist()  # a row may be repeated
    for set_number, row in with_bar(rows, len(rows), "long samples"):
        source = dataset.data_sets[set_number].name, row
        dataset.failures.shortened.add(source)  # said here, not in the log
        try:
            with whole.prepare(set_number, row) as (layout, rendered):
                num_tokens, num_pictures = len(rendered.ids), len(layout.grids)
        except UNREADABLE:
            continue
        if num_tokens > max_length:
            needs = f"{source[0]}, row {row}: needs {num_tokens} tokens with {num_pictures} pictures"
            try:
                with dataset.prepare(set_number, row) as (layout, _):
                    shown = len(layout.grids)
                shortened.append(f"{needs}, expected at most max_length={max_length}: it is shown with {shown}")
            except SampleError as error:
                refused.append(f"{source[0]}, row {row}: {error}")
    return refused, shortened


def disk_problems(rows: list[PartRow], config: TrainingConfig) -> list[str]:
    """Say the size of checkpoints; return what is wrong with the folders of --output-dir and --frame-cache.

    Without `rows` (a model that is not known) only whether they can be written to is looked at.
    """
    each, kept = 0, config.keep_checkpoints + config.evaluates  # the best one is kept too
    if rows:
        model = total(rows)
        num_frozen = 0 if holds_trained_only(config, model) else model.num_parameters - model.num_trained
        # the weights and Adam's moments
        each = (4 + 8) * model.num_trained + frozen_dtype(config).itemsize * num_frozen
        if zero_stage(config):  # and ZeRO's own copy of both
            size = 2 + 2 if uses_bf16(config) else 4 + 4
            each = size * (model.num_trained + num_frozen) + 12 * model.num_trained
        what = "trained weights only" if holds_trained_only(config, model) else "all weights"
        say(f"checkpoints      {each / GIB:.1f} GiB each ({what}), {kept} kept and one being written")
    needed = {"output_dir": each * (kept + 1), "frame_cache": 0}
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
