"""`--check`: everything that can be known before a run starts, on any machine; trains nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .arguments import SettingError, TrainingConfig
from .batches import BatchPlan, make_plan
from .checkpoints import choose_checkpoint
from .counts import count_steps, judge
from .distributed import check_packages, zero_stage
from .plan import (
    checkpoint_bytes,
    count,
    disk_problem,
    estimate_memory,
    largest_load,
    memory_text,
    model_rows,
    steps_text,
)
from .record import check_record, describe_data
from .run import make_dataset, rope_boundary

if TYPE_CHECKING:
    from ..model_config import VideoChatOnlineConfig

Say = Callable[[str], None]


def check(config: TrainingConfig, num_processes: int, say: Say) -> int:
    """Print the plan and all problems; 1 where there are any.

    1. settings and packages 2. the model's config 3. the data lists and every file they name 4. steps 5. memory, disk.
    """
    problems: list[str] = []
    _settings(config, problems)
    model_config = _model_config(config, problems)
    data_is_whole = _data(config, problems, say)
    plan = _plan(config, model_config, num_processes, problems) if model_config and data_is_whole else None
    warnings: list[str] = []
    if plan is not None:
        steps = count_steps(plan)
        say(steps_text(steps, config, num_processes))
        judgement = judge(steps, config)
        problems += judgement.problems
        warnings += judgement.warnings
    if model_config is not None:
        _model(config, model_config, num_processes, plan, problems, say)
    for what, found in (("warning", warnings), ("problem", problems)):
        if found:
            say("\n".join([f"{count(len(found), what)}:", *(f"  {one}" for one in found)]))
    if not problems:
        say("no problems")
    return 1 if problems else 0


def _settings(config: TrainingConfig, problems: list[str]) -> None:
    for step in (config.check_complete, lambda: check_packages(config), lambda: zero_stage(config)):
        try:
            step()
        except (SettingError, ImportError) as error:
            problems.append(str(error))
    try:
        checkpoint = choose_checkpoint(config.resume, config.run_folder, problems.append)
        if checkpoint is not None:
            check_record(config, checkpoint, problems.append, describe_data(config))
    except ValueError as error:
        problems.append(str(error))


def _model_config(config: TrainingConfig, problems: list[str]) -> VideoChatOnlineConfig | None:
    from ..model.weights import load_config
    from ..processing import model_place

    try:
        return load_config(model_place(config.model))
    except ValueError as error:
        problems.append(f"--model {config.model}: {error}")
        return None


def _data(config: TrainingConfig, problems: list[str], say: Say) -> bool:
    """Counts of the lists; whether everything in them is right."""
    from ..data.check import check_lists
    from ..data.commands import as_table

    if not config.data:
        return False
    report = check_lists(config.data, num_workers=config.num_workers)
    say(as_table(report))
    if report.problems:
        problems.append(f"--data: {len(report.problems)} problems, listed above")
    return not report.problems


def _plan(
    config: TrainingConfig, model_config: VideoChatOnlineConfig, num_processes: int, problems: list[str]
) -> BatchPlan | None:
    from ..processing import Processor, model_place

    try:
        processor = Processor.from_pretrained(model_place(config.model), model_config)
        lengths = make_dataset(config, processor, model_config).lengths
        return make_plan(config, lengths, num_processes, boundary=rope_boundary(model_config))
    except ValueError as error:
        problems.append(str(error))
        return None


def _model(
    config: TrainingConfig,
    model_config: VideoChatOnlineConfig,
    num_processes: int,
    plan: BatchPlan | None,
    problems: list[str],
    say: Say,
) -> None:
    """What trains, the memory it takes, and the room that checkpoints need."""
    from .parts import parts_table

    try:
        rows = model_rows(model_config, config)
    except (SettingError, ImportError) as error:
        problems.append(str(error))
        return
    say(parts_table(rows))
    load = largest_load(model_config, config, plan.lengths if plan else ())
    say(memory_text(estimate_memory(rows, model_config, config, num_processes, load), config, num_processes, load))
    each = checkpoint_bytes(rows, config)
    say(f"checkpoints      {each / 2**30:.1f} GiB each, {config.keep_checkpoints} kept and one being written")
    if config.output_dir and (problem := disk_problem(each * (config.keep_checkpoints + 1), config.run_folder)):
        problems.append(f"--output-dir: {problem}")
