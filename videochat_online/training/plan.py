"""What a run would do, before it does it: steps, tokens, what trains, memory on each GPU, room on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import scheduled_grids, tokens_of_grid
from ..data.sampler import Lengths
from .arguments import TrainingConfig
from .counts import Steps
from .distributed import uses_bf16, zero_stage
from .memory import Load, Machine, MemoryEstimate, estimate
from .parts import PartRow, choose_parts, part_rows

if TYPE_CHECKING:
    from ..model_config import VideoChatOnlineConfig

GIB = 2**30


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


def estimate_memory(
    rows: list[PartRow], model_config: VideoChatOnlineConfig, config: TrainingConfig, num_processes: int, load: Load
) -> MemoryEstimate:
    machine = Machine(num_processes, zero_stage(config), config.strategy == "fsdp", uses_bf16(config), not config.cpu)
    return estimate(rows, model_config, config, machine, load)


def checkpoint_bytes(rows: list[PartRow], config: TrainingConfig) -> float:
    """One checkpoint: the weights, Adam's moments, and with ZeRO its own copy of both."""
    weights, trained = sum(row.num_parameters for row in rows), sum(row.num_trained for row in rows)
    if zero_stage(config):
        return (2 + 2 if uses_bf16(config) else 4 + 4) * weights + 12 * trained
    return 4 * weights + 8 * trained


def disk_problem(needed: float, folder: Path) -> str | None:
    """What to say where a folder has no room for `needed` bytes."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free >= needed:
        return None
    return f"{place} has {free / GIB:.1f} GiB free, the checkpoints of this run take {needed / GIB:.1f} GiB"


def steps_text(steps: Steps, config: TrainingConfig, num_processes: int) -> str:
    accumulation = steps.batches_per_step // num_processes
    unit = "sequence" if config.batching == "packed" else "sample"
    return "\n".join(
        [
            f"samples          {steps.num_samples:,} an epoch, {steps.num_tokens:,} tokens (estimated), "
            f"{steps.padding_share:.1%} padding ({config.batching})",
            f"a step           {steps.samples_per_step:,.0f} samples: {count(num_processes, 'process')} x "
            f"{accumulation} times x {count(config.batch_size, unit)}",
            f"steps            {steps.total:,} ({steps.per_epoch:,} an epoch), {steps.warmup:,} of them warm-up; "
            f"a checkpoint every {config.save_every:,}",
        ]
    )


def count(number: int, what: str) -> str:
    """1 process, 8 processes."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


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
        f"memory {place}, estimated, GiB ({config.strategy}, {count(num_processes, 'process')}, {number}; a batch "
        f"of {count(load.num_tokens, 'token')} and {count(load.num_pictures, 'picture')})"
    )
    return "\n".join([head, *(f"  {name:12} {size / GIB:8.2f}  {note}".rstrip() for name, size, note in rows)])
