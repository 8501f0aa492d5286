"""One training run from its settings: data, model, training loop, and the trained model at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.settings import SettingError, flag
from ..files import write_json
from .batches import make_collator
from .checkpoints import check_shape, choose_checkpoint
from .configuration import MAY_CHANGE, TrainingConfig
from .distributed import check_launcher, check_packages, is_main_process, world_size
from .parts import part_rows, parts_table
from .plan import make_plan

if TYPE_CHECKING:
    from ..data.dataset import ConversationDataset
    from ..model_config import VideoChatOnlineConfig
    from ..processing import Processor
    from .loop import TrainingLoop

SETTINGS_FILE = "settings.json"
Say = Callable[[str], None]

INTERRUPTED = 143
"""Exit status after a SIGTERM, as the shell has it."""


def run(config: TrainingConfig, say: Say) -> int:
    """Train; returns the exit status. Raises ValueError for what is wrong with settings, data or checkpoint."""
    from ..processing import load_model
    from .export import export
    from .loop import TrainingLoop

    # 1. what can be refused at once, and the settings into the run's folder
    config.check_complete()
    check_packages(config)
    check_launcher(config)
    if is_main_process():
        choose_checkpoint(config.resume, config.run_folder, lambda _: None)  # a run that is refused changes nothing
        write_settings(config)
    # 2. model and data
    model, processor = load_model(config.model, device="cpu", dtype="float32", attn_implementation=config.attention)
    dataset = make_dataset(config, processor, model.config)
    plan = make_plan(config, dataset.lengths, world_size(), boundary=rope_boundary(model.config))
    # 3. training
    loop = TrainingLoop(model, dataset, make_collator(config, processor), plan, processor=processor)
    say(parts_table(part_rows(model, config)))
    if not train(loop, say):
        say("stopped by SIGTERM; resume it with --resume auto")
        return INTERRUPTED
    # 4. the trained model
    say(f"the trained model is in {export(loop.state, config)}")
    return 0


def write_settings(config: TrainingConfig) -> None:
    """Write the resolved settings into the run's folder.

    Where the folder already holds a run that is to be resumed, settings that change what is learned must be the same.
    Raises SettingError otherwise, with both values.
    """
    path = config.run_folder / SETTINGS_FILE
    if config.resume == "auto" and path.exists():
        _check_same(path, config)
    try:
        write_json(path, config.to_dict())
    except OSError as error:
        raise SettingError(f"--output-dir {config.output_dir} cannot be written to: {error}") from error


def _check_same(path: Path, config: TrainingConfig) -> None:
    before, now = json.loads(path.read_text("utf-8")), config.to_dict()
    changed = [
        f"{flag(name)} {before.get(name)!r} -> {value!r}"
        for name, value in now.items()
        if name not in MAY_CHANGE and before.get(name) != value
    ]
    if changed:
        raise SettingError(
            f"--resume auto: {config.output_dir} holds a run with other settings ({'; '.join(changed)}); "
            "take its settings, or another --output-dir (and there --resume PATH to resume one of its checkpoints)"
        )


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
