"""One training run from its settings: the composing function of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .arguments import TrainingConfig
from .batches import make_plan
from .checkpoints import RunShape, check_shape, choose_checkpoint
from .distributed import trainer_arguments, world_size
from .parts import choose_parts, set_drop_path


def build_trainer(
    model: Any,
    dataset: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    config: TrainingConfig,
    sequences: Sequence[Sequence[int]] = (),
) -> Any:
    """A trainer for samples with `.lengths`; `sequences` are the packed ones, with packing."""
    from .trainer import OnlineTrainer

    plan = make_plan(config, dataset.lengths, world_size(), sequences)
    shape = RunShape(world_size(), config.strategy, config.batch_size, plan.batches_per_step // world_size())
    arguments = trainer_arguments(config, shape.accumulation)
    choose_parts(model, config)
    set_drop_path(model, config.drop_path)
    return OnlineTrainer(model, arguments, dataset=dataset, collator=collator, plan=plan, shape=shape)


def train(trainer: Any, config: TrainingConfig, say: Callable[[str], None]) -> bool:
    """Run to the end, or to a SIGTERM: then False. Goes on from the checkpoint that --resume names."""
    checkpoint = choose_checkpoint(config.resume, config.run_folder, say)
    if checkpoint is not None:
        check_shape(checkpoint, trainer.shape)
        say(f"going on from {checkpoint.folder}")
    trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    return not trainer.signals.stopped
