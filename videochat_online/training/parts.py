"""What trains: freezing, the encoder's last layers, LoRA pairs and merging them; and the table that says so.

The three parts are those of the checkpoint: vision_model, mlp1 (the connector), language_model. LoRA (arXiv 2106.09685)
puts a pair A (rank, in), B (out, rank) beside a weight W (out, in): merged it is W + alpha / rank * B @ A. Merging
works on a state dict, so that it serves a whole model, one gathered from many GPUs, and a checkpoint's file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.settings import SettingError
from ..extras import require
from .configuration import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..model.videochat import VideoChatOnline

ADAPTER = "default"
BASE, PAIR_A, PAIR_B = ".base_layer.", f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}."


@dataclass(frozen=True)
class PartRow:
    """One part of the model in numbers."""

    name: str
    setting: str
    num_parameters: int
    num_trained: int


def choose_parts(model: VideoChatOnline, config: TrainingConfig) -> None:
    """Make exactly those weights trainable that the settings ask for, adding LoRA pairs where they ask for them.

    Layers of the encoder above `select_layer` never run and never train. Raises SettingError for `last:N` with more
    layers than there are.
    """
    model.requires_grad_(False)
    _choose_vision(model, config)
    if config.connector == "full":
        model.mlp1.requires_grad_(True)
    if config.llm == "full":
        model.language_model.requires_grad_(True)
    elif config.llm != "frozen":
        _add_lora(model.language_model, model.language_model.model.layers, config, "llm")


def _choose_vision(model: VideoChatOnline, config: TrainingConfig) -> None:
    encoder, running = model.vision_model, num_running_layers(model)
    kind, numbers = config.part("vision")
    if kind == "lora":
        _add_lora(encoder, encoder.encoder.layers[:running], config, "vision")
    elif kind == "full":
        encoder.embeddings.requires_grad_(True)
        encoder.encoder.layers[:running].requires_grad_(True)
    elif kind == "last":
        count = int(numbers[0])
        if count > running:
            raise SettingError(f"--vision last:{count}: the encoder has {running} layers that run")
        encoder.encoder.layers[running - count : running].requires_grad_(True)


def _add_lora(part: nn.Module, layers: nn.Module, config: TrainingConfig, name: str) -> None:
    """Put a trainable pair beside every linear layer inside `layers`, a module of `part`; all else in `part` is frozen.

    Raises ImportError with the install command where peft is missing.
    """
    require("peft")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    rank, alpha = rank_and_alpha(config, name)
    inside = {id(module) for module in layers.modules() if isinstance(module, torch.nn.Linear)}
    names = [name for name, module in part.named_modules() if id(module) in inside]
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=config.lora_dropout,
        target_modules=names,
        bias="none",
    )
    inject_adapter_in_model(lora, part, adapter_name=ADAPTER)


def rank_and_alpha(config: TrainingConfig, name: str) -> tuple[int, float]:
    """Of the pairs in vision or llm. `lora:16` -> (16, 32): alpha is twice the rank where it is not given."""
    _, numbers = config.part(name)
    return int(numbers[0]), numbers[1] if len(numbers) > 1 else 2 * numbers[0]


def merge_lora(weights: Mapping[str, torch.Tensor], config: TrainingConfig) -> dict[str, torch.Tensor]:
    """A state dict with pairs -> the public layout, each pair added to its weight. Without pairs: unchanged.

    The sum is taken in float32 and given back in the weight's dtype.
    """
    merged = {}
    for key, weight in weights.items():
        if PAIR_A in key or PAIR_B in key:
            continue
        name = key.replace(BASE, ".")
        if BASE in key and name.endswith(".weight"):
            stem = re.sub(r"base_layer\.weight$", "", key)
            down, up = (weights[f"{stem}{pair[1:]}weight"].float() for pair in (PAIR_A, PAIR_B))
            rank, alpha = rank_and_alpha(config, "vision" if name.startswith("vision_model.") else "llm")
            weight = (weight.float() + alpha / rank * (up @ down)).to(weight.dtype)
        merged[name] = weight
    return merged


def num_running_layers(model: VideoChatOnline) -> int:
    """Layers of the encoder below the hidden state that the model reads."""
    return range(model.config.vision_config.num_hidden_layers + 1)[model.config.select_layer]


def set_drop_path(model: VideoChatOnline, rate: float) -> None:
    """Stochastic depth of the encoder: `rate` at its last layer, in proportion below. Its config is left alone."""
    layers: Any = model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        layer.drop_path_rate = rate * number / max(len(layers) - 1, 1)


def part_rows(model: VideoChatOnline, config: TrainingConfig) -> list[PartRow]:
    """The parts and how much of each trains."""
    settings = {"vision_model": config.vision, "mlp1": config.connector, "language_model": config.llm}
    rows = []
    for name, setting in settings.items():
        weights = list(getattr(model, name).parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        rows.append(PartRow(name, setting, sum(weight.numel() for weight in weights), trained))
    return rows


def parts_table(rows: list[PartRow]) -> str:
    """What trains, for a reader."""
    total = PartRow("total", "", sum(row.num_parameters for row in rows), sum(row.num_trained for row in rows))
    lines = ["part             setting        parameters        trained"]
    for row in [*rows, total]:
        share = row.num_trained / row.num_parameters if row.num_parameters else 0.0
        lines.append(f"{row.name:16} {row.setting:12} {row.num_parameters:>12,} {row.num_trained:>14,}  {share:7.2%}")
    return "\n".join(lines)
