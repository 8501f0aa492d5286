"""One training run from its settings: data, model, trainer, and the trained model at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..files import locked
from .arguments import SettingError, TrainingConfig
from .batches import BatchPlan, make_plan
from .checkpoints import RunShape, check_shape, choose_checkpoint
from .counts import count_steps, judge
from .distributed import check_launcher, check_packages, is_main_process, trainer_arguments, world_size
from .parts import choose_parts, part_rows, parts_table, set_drop_path
from .plan import steps_text
from .record import write_record
from .weights import load_weights

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset
    from ..model_config import VideoChatOnlineConfig
    from ..processing import Processor

Say = Callable[[str], None]

INTERRUPTED = 143
"""Exit status after a SIGTERM, as the shell has it."""


def run(config: TrainingConfig, say: Say) -> int:
    """Train, as the only run in the folder; returns the exit status."""
    config.check_complete()
    check_packages(config)
    check_launcher(config)
    with locked(config.run_folder) if is_main_process() else nullcontext():
        return _run(config, say)


def _run(config: TrainingConfig, say: Say) -> int:
    """1. settings into the folder 2. model, processor 3. data 4. trainer 5. the plan 6. train 7. the trained model."""
    from ..processing import load_model
    from .export import export

    if is_main_process():
        checkpoint = choose_checkpoint(config.resume, config.run_folder, lambda _: None)
        write_record(config, checkpoint, say)  # a run that is refused changes nothing
    model, processor = load_model(config.model, device="cpu", dtype="float32", attn_implementation=config.attention)
    dataset = make_dataset(config, processor, model.config)
    trainer = build_trainer(model, dataset, make_collator(config, processor), config, processor=processor)
    say(parts_table(part_rows(model, config)))
    check_plan(trainer.plan, config, say)
    if not train(trainer, config, say):
        say("stopped by SIGTERM; go on with --resume auto")
        return INTERRUPTED
    say(f"the trained model is in {export(trainer, config)}")
    return 0


def check_plan(plan: BatchPlan, config: TrainingConfig, say: Say) -> None:
    """Say what the run will do and what is odd about it; SettingError where it could not change any weight."""
    steps = count_steps(plan)
    say(steps_text(steps, config, world_size()))
    judgement = judge(steps, config)
    for warning in judgement.warnings:
        say(f"WARNING: {warning}")
    if judgement.problems:
        raise SettingError("; ".join(judgement.problems))


def make_dataset(
    config: TrainingConfig, processor: Processor, model_config: VideoChatOnlineConfig
) -> ConversationDataset:
    """The samples of --data as --model reads them. Raises ValueError for whatever is wrong with the lists."""
    from ..data.dataset import ConversationDataset
    from ..data.registry import read_lists
    from ..data.settings import DataSettings

    settings = DataSettings(
        fps=config.fps,
        max_frames=config.num_frames,
        max_length=config.max_length,
        max_dynamic_patch=config.max_dynamic_patch,
        frame_times=config.frame_times,
        mixing=config.mixing,
        seed=config.seed,
        max_failed_share=config.max_failed_share,
        frame_cache=config.frame_cache,
    )
    return ConversationDataset(read_lists(config.data), processor, model_config, settings)


def make_collator(config: TrainingConfig, processor: Processor) -> Callable[[list[Any]], dict[str, Any]]:
    """Padded batches, or packed ones whose borders the language model reads off the positions.

    Flash attention reads them in a single sequence only, which may then be longer than --max-length.
    """
    from ..data.collator import PackingCollator, PaddingCollator

    tokenizer = processor.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad is None:
        raise SettingError(f"--model {config.model}: its tokenizer has neither a padding token nor an end of text")
    if config.batching != "packed":
        return PaddingCollator(pad)
    one_sequence = config.attention == "flash_attention_2"
    return PackingCollator(pad, 2**31 if one_sequence else config.max_length, attention="positions")


def rope_boundary(model_config: VideoChatOnlineConfig) -> int | None:
    """Tokens past which LongRoPE takes other factors, for a whole batch at once; None for other language models."""
    rope = model_config.llm_config.rope_parameters
    return rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else None


def build_trainer(
    model: Any,
    dataset: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    config: TrainingConfig,
    *,
    processor: Processor | None = None,
) -> Any:
    """A trainer for a data set with `.lengths` and `.set_epoch`."""
    from .trainer import OnlineTrainer

    plan = make_plan(config, dataset.lengths, world_size(), boundary=rope_boundary(model.config))
    shape = RunShape(world_size(), config.strategy, config.batch_size, plan.batches_per_step // world_size())
    arguments = trainer_arguments(config, shape.accumulation, count_steps(plan))
    choose_parts(model, config)
    set_drop_path(model, config.drop_path)
    return OnlineTrainer(
        model, arguments, dataset=dataset, collator=collator, plan=plan, shape=shape, processor=processor
    )


def train(trainer: Any, config: TrainingConfig, say: Say) -> bool:
    """Run to the end, or to a SIGTERM: then False. Goes on from the checkpoint that --resume names.

    A run that had ended trains no further step; its weights are loaded. Raises ValueError for what is wrong with the
    checkpoint or the data.
    """
    checkpoint = choose_checkpoint(config.resume, config.run_folder, say)
    if checkpoint is not None:
        check_shape(checkpoint, trainer.shape)
        say(f"going on from {checkpoint.folder}")
        if checkpoint.step >= count_steps(trainer.plan).total:
            load_weights(trainer.model, checkpoint.folder)
            return True
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    except ValueError as error:
        raise without_traceback(error) from error
    return not trainer.signals.stopped


def without_traceback(error: ValueError) -> ValueError:
    """An error of a data worker in its own words; torch puts the worker's whole traceback into the message."""
    message = str(error)
    if not message.startswith("Caught ") or (mark := f"{type(error).__name__}: ") not in message:
        return error
    return ValueError(message.split(mark, 1)[1].rstrip())
