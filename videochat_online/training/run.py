"""One training run from its settings: data, model, training loop, and the trained model at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..data.settings import SettingError
from ..files import locked
from .batches import make_collator
from .checkpoints import check_shape, choose_checkpoint
from .configuration import TrainingConfig
from .distributed import check_launcher, check_packages, is_main_process, world_size
from .parts import part_rows, parts_table
from .plan import TrainingPlan, judge, make_plan, steps_text
from .record import write_record

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset
    from ..model_config import VideoChatOnlineConfig
    from ..processing import Processor
    from .loop import TrainingLoop

Say = Callable[[str], None]

INTERRUPTED = 143
"""Exit status after a SIGTERM, as the shell has it."""


def run(config: TrainingConfig, say: Say) -> int:
    """Train, as the only run in the folder; returns the exit status.

    Raises ValueError for what is wrong with settings, data or checkpoint.
    """
    config.check_complete()
    check_packages(config)
    check_launcher(config)
    with locked(config.run_folder) if is_main_process() else nullcontext():
        return _run(config, say)


def _run(config: TrainingConfig, say: Say) -> int:
    from ..processing import load_model
    from .export import export
    from .loop import TrainingLoop

    # 1. the record of the run into its folder; a run that is refused changes nothing
    if is_main_process():
        checkpoint = choose_checkpoint(config.resume, config.run_folder, lambda _: None)
        write_record(config, checkpoint, say)
    # 2. model, data and the plan
    model, processor = load_model(config.model, device="cpu", dtype="float32", attn_implementation=config.attention)
    dataset = make_dataset(config, processor, model.config)
    plan = make_plan(config, dataset.lengths, world_size(), boundary=rope_boundary(model.config))
    loop = TrainingLoop(model, dataset, make_collator(config, processor), plan, processor=processor)
    say(parts_table(part_rows(model, config)))
    check_plan(plan, say)
    # 3. training
    if not train(loop, say):
        say("stopped by SIGTERM; resume it with --resume auto")
        return INTERRUPTED
    # 4. the trained model
    say(f"the trained model is in {export(loop.state, config)}")
    return 0


def check_plan(plan: TrainingPlan, say: Say) -> None:
    """Say what the run will do and what is odd about it; SettingError where it could not change any weight."""
    say(steps_text(plan, world_size()))
    problems, warnings = judge(plan)
    for warning in warnings:
        say(f"WARNING: {warning}")
    if problems:
        raise SettingError("; ".join(problems))


def make_dataset(
    config: TrainingConfig, processor: Processor, model_config: VideoChatOnlineConfig
) -> ConversationDataset:
    """The samples of --data as --model reads them. Raises ValueError for whatever is wrong with the lists."""
    from ..data.dataset import ConversationDataset
    from ..data.registry import read_lists

    return ConversationDataset(read_lists(config.data), processor, model_config, config)


def rope_boundary(model_config: VideoChatOnlineConfig) -> int | None:
    """Tokens past which LongRoPE takes other factors, for a whole batch at once; None for other language models."""
    rope = model_config.llm_config.rope_parameters
    return rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else None


def train(loop: TrainingLoop, say: Say) -> bool:
    """Run to the end, or to a SIGTERM: then False. Continues from the checkpoint that --resume names.

    A run that had ended trains no further step; its weights are loaded. Raises ValueError for what is wrong with the
    checkpoint or the data.
    """
    checkpoint = choose_checkpoint(loop.config.resume, loop.config.run_folder, say)
    if checkpoint is not None:
        check_shape(checkpoint, loop.shape)
        say(f"resuming from {checkpoint.folder}")
        if checkpoint.step >= loop.plan.num_steps:
            loop.state.load_weights(checkpoint.folder)
            return True
    return loop.train(checkpoint)
