"""One training run from its settings: its record, data, model, training loop, and the trained model at the end.

The record says in a run's folder what the run is: settings.json and data.json, written before all else, compared on
resuming. data.json knows annotations by the digest of their words, wherever they lie; media are not read for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..data.dataset import ConversationDataset, PackingCollator, PaddingCollator
from ..data.registry import read_lists
from ..data.settings import SettingError, flag
from ..files import digest, locked, write_json
from ..model.backbone import Facts
from ..model.backbones.held import as_module
from ..model.weights import load_facts
from ..processing import Processor, load_model
from .checkpoints import Checkpoint, choose_checkpoint, evaluations_of, problem_of
from .configuration import EARLIER, MAY_CHANGE, TrainingConfig
from .distributed import check_launcher, check_packages, is_main_process, say, world_size
from .evaluating import HeldOut, chosen_of, hold_out
from .export import check_hub, export, push
from .log import write_run_page
from .loop import TrainingLoop
from .memory import memory_problem
from .parts import check_model, part_rows, parts_table
from .plan import TrainingPlan, judge, make_plan, steps_text

SETTINGS_FILE, DATA_FILE = "settings.json", "data.json"
INTERRUPTED = 143
"""Exit status after a SIGTERM, as the shell has it."""


def run(config: TrainingConfig) -> int:
    """Train, as the only run in the folder; returns the exit status.

    Raises ValueError for what is wrong with settings, data or checkpoint.
    """
    config.check_complete()
    check_packages(config)
    check_launcher(config)
    with locked(config.run_folder) if is_main_process() else nullcontext():
        # 1. the record of the run into its folder; a run that is refused changes nothing
        if is_main_process():
            check_hub(config, create=True)
            write_record(config, choose_checkpoint(config.resume, config.run_folder))
        check_model(config, load_facts(config.model))
        # 2. model, data and the plan
        model, processor = start_model(config)
        dataset, collator, plan, held_out = make_data(config, processor, model.config, world_size())
        check_memory(plan, model.config)
        loop = TrainingLoop(model, dataset, collator, plan, processor=processor)
        say(parts := parts_table(part_rows(model, config)))
        check_plan(plan, held_out)
        # 3. training
        if not loop.train(held_out):
            say("stopped by SIGTERM; resume it with --resume auto")
            return INTERRUPTED
        # 4. the trained model, of the best step or the last, and whether it has learnt
        evaluations = loop.state.evaluations
        num_steps, mean_loss = loop.state.step, loop.state.total_loss / loop.state.step
        if (chosen := chosen_of(evaluations, config)) and chosen is not evaluations[-1]:
            loop.state.load_weights(best_folder(config, int(chosen["step"])))
        folder = export(loop.state, config)
        if is_main_process():
            say(write_run_page(plan, parts, evaluations, dataset, held_out))
        say(f"the trained model is in {folder}")
        if config.push_to_hub and is_main_process():
            say(f"and at {push(folder, config, describe_data(config), num_steps, mean_loss)}")
    return 0


def start_model(config: TrainingConfig) -> tuple[Any, Processor]:
    """The model to begin with. The main process alone reads it; the others get their share from it in `prepare`.

    So the weights stand once in the memory of the first machine, and not once for each GPU.
    """
    options: dict[str, Any] = {"dtype": "float32", "attn_implementation": config.attention}
    reads = is_main_process() or config.quantize != "none"  # each process makes its own 4 or 8 bits
    model, processor = load_model(config.model, device="cpu", read=reads, **options)
    return as_module(model), processor


def make_data(
    config: TrainingConfig,
    processor: Processor,
    model_config: Facts,
    num_processes: int,
    dataset: ConversationDataset | None = None,
) -> tuple[ConversationDataset, Callable[[list[Any]], dict[str, Any]], TrainingPlan, HeldOut | None]:
    """The samples of --data as --model reads them, what makes batches, the plan of a run on them; what is held out.

    `dataset`: the samples, where they have been read already.

    Batches are padded, or packed with borders that the language model reads off the positions.

    Raises ValueError for whatever is wrong with the lists, for numbers that do not divide, and for a tokenizer that
    has no token to pad with.
    """
    tokenizer = processor.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad is None:
        raise SettingError(f"--model {config.model}: its tokenizer has neither a padding token nor an end of text")
    collator = PackingCollator(pad, config.max_length) if config.batching == "packed" else PaddingCollator(pad)
    dataset = dataset or ConversationDataset(read_lists(config.data), processor, model_config, config)
    dataset, held_out = hold_out(dataset, config)
    rope = model_config.llm_config.rope_parameters  # LongRoPE takes other factors past a length, for a whole batch
    boundary = rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else None
    return dataset, collator, make_plan(config, dataset.lengths, num_processes, boundary=boundary), held_out


def check_plan(plan: TrainingPlan, held_out: HeldOut | None = None) -> None:
    """Say what the run will do and what is odd about it; SettingError where it could not change any weight."""
    say(steps_text(plan))
    problems, warnings = judge(plan)
    if held_out is not None:
        say(f"evaluation       {held_out.text}")
        warnings += held_out.warnings
    for warning in warnings:
        say(f"WARNING: {warning}")
    if problems:
        raise SettingError("; ".join(problems))


def check_memory(plan: TrainingPlan, model_config: Facts) -> None:
    """Say whether the run fits --memory-limit, where there is one; SettingError where it does not."""
    if plan.config.memory_limit:
        told, problem = memory_problem(model_config, plan.config, world_size(), plan.lengths)
        say(told)
        if problem:
            raise SettingError(f"{problem}; the table above has settings that fit")


def write_record(config: TrainingConfig, checkpoint: Checkpoint | None) -> None:
    """Write settings and data into the run's folder, once they fit the `checkpoint` to resume, if any.

    Raises SettingError where they do not, with what changed, and where nothing can be written.
    """
    data = describe_data(config)
    if checkpoint is not None:
        for warning in check_record(config, checkpoint, data):
            say(f"WARNING: {warning}")
    try:
        write_json(config.run_folder / DATA_FILE, data)
        write_json(config.run_folder / SETTINGS_FILE, config.to_dict())
    except OSError as error:
        raise SettingError(f"--output-dir {config.output_dir} cannot be written to: {error}") from error


def describe_data(config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """The sets of --data in order: digest of the annotations and options. Raises ValueError where one is unreadable."""
    found: dict[str, dict[str, Any]] = {}
    for one in read_lists(config.data):
        options = {name: getattr(one, name) for name in ("data_augment", "repeat_time", "max_dynamic_patch")}
        try:
            found[one.name] = {"annotation": str(one.annotation), "sha256": digest(one.annotation), **options}
        except OSError as error:
            raise SettingError(f"data set {one.name!r}: {one.annotation} cannot be read ({error.strerror})") from error
    return found


def check_record(config: TrainingConfig, checkpoint: Checkpoint, data: dict[str, dict[str, Any]]) -> list[str]:
    """What cannot be compared with the run of `checkpoint`.

    Raises SettingError where that run had other data or, in the same folder, other settings.
    """
    folder = checkpoint.folder.parent
    same_folder = folder.resolve() == config.run_folder.resolve()
    if same_folder and (changed := _other_settings(folder / SETTINGS_FILE, config)):
        raise SettingError(
            f"--resume {config.resume}: {config.output_dir} holds a run with other settings ({'; '.join(changed)}); "
            "take its settings, or another --output-dir (and there --resume PATH to resume one of its checkpoints)"
        )
    if not (folder / DATA_FILE).is_file():
        return [f"{folder} has no {DATA_FILE}: it cannot be said whether the annotations are those it began with"]
    best = chosen_of(evaluations_of(checkpoint.folder), config)
    if best is not None and best["step"] != checkpoint.step:
        best_folder(config, int(best["step"]))
    if changed := _other_data(json.loads((folder / DATA_FILE).read_text("utf-8")), data):
        raise SettingError(
            f"--resume {config.resume}: the data is not what {checkpoint.folder} learned from ({'; '.join(changed)}); "
            "give the run its data back, or begin a new one with --resume never and another --output-dir"
        )
    return []


def best_folder(config: TrainingConfig, step: int) -> Path:
    """The checkpoint of the best step: in the run's folder, or beside the one that --resume names.

    Raises SettingError where it is in neither: its weights could not become the trained model.
    """
    beside = [] if config.resume in ("auto", "never") else [Path(config.resume).parent]
    folders = [folder / f"checkpoint-{step}" for folder in (config.run_folder, *beside)]
    if whole := [folder for folder in folders if folder.is_dir() and problem_of(folder) is None]:
        return whole[0]
    raise SettingError(
        f"--resume {config.resume}: the held-out loss was lowest at step {step}, and {folders[0]} is not there, or not "
        "whole: put it back, or take --export-step last"
    )


def _other_settings(path: Path, config: TrainingConfig) -> list[str]:
    """What is set in another way than in the file `path`, of those settings that decide what is learned."""
    now = config.to_dict()
    before = json.loads(path.read_text("utf-8")) if path.is_file() else now
    before = TrainingConfig().to_dict() | EARLIER | before  # a setting that was not known then had one way only
    changed = [name for name in now if name not in MAY_CHANGE and before[name] != now[name]]
    return [f"{flag(name)} {before[name]!r} -> {now[name]!r}" for name in changed]


def _other_data(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> list[str]:
    """What is another set, other words or another option; where a file lies does not count."""
    found = [f"data set {name!r} is gone" for name in before if name not in now]
    found += [f"data set {name!r} is new" for name in now if name not in before]
    for name, values in now.items():
        for key, value in values.items():
            old = before.get(name, values).get(key)
            if key == "sha256" and old != value:
                found.append(f"data set {name!r}: the words of {values['annotation']} changed")
            elif key not in ("sha256", "annotation") and old != value:
                found.append(f"data set {name!r}: {key} {old!r} -> {value!r}")
    return found or (["the order of the data sets"] if list(before) != list(now) else [])
