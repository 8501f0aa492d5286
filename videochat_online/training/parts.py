"""What trains: freezing, the encoder's last layers, LoRA; and the table that says so.

The three parts are those of the checkpoint: vision_model, mlp1 (the connector), language_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .arguments import SettingError, TrainingConfig, check_part
from .lora import add_lora

if TYPE_CHECKING:
    from torch import nn

    from ..model.videochat import VideoChatOnline


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
        add_lora(model.language_model, model.language_model.model.layers, config.llm, config.lora_dropout)


def _choose_vision(model: VideoChatOnline, config: TrainingConfig) -> None:
    encoder, running = model.vision_model, num_running_layers(model)
    kind, numbers = check_part("--vision", config.vision, ("frozen", "full", "last", "lora"))
    if kind == "lora":
        add_lora(encoder, encoder.encoder.layers[:running], config.vision, config.lora_dropout)
    elif kind == "full":
        encoder.embeddings.requires_grad_(True)
        encoder.encoder.layers[:running].requires_grad_(True)
    elif kind == "last":
        count = int(numbers[0])
        if count > running:
            raise SettingError(f"--vision last:{count}: the encoder has {running} layers that run")
        encoder.encoder.layers[running - count : running].requires_grad_(True)


def num_running_layers(model: VideoChatOnline) -> int:
    """Layers of the encoder below the hidden state that the model reads."""
    return range(model.config.vision_config.num_hidden_layers + 1)[model.config.select_layer]


def set_drop_path(model: VideoChatOnline, rate: float) -> None:
    """Stochastic depth of the encoder: `rate` at its last layer, in proportion below. Its config is left alone."""
    layers: Any = model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        layer.drop_path_rate = rate * number / max(len(layers) - 1, 1)


def part_rows(model: VideoChatOnline, config: TrainingConfig) -> list[PartRow]:
    """The parts and how much of each trains; under ZeRO-3 too, where a process holds a slice of each weight."""
    settings = {"vision_model": config.vision, "mlp1": config.connector, "language_model": config.llm}
    rows = []
    for name, setting in settings.items():
        sizes = list(_sizes(getattr(model, name)))
        trained = sum(size for size, is_trained in sizes if is_trained)
        rows.append(PartRow(name, setting, sum(size for size, _ in sizes), trained))
    return rows


def _sizes(part: nn.Module) -> Iterator[tuple[int, bool]]:
    for weight in part.parameters():
        yield getattr(weight, "ds_numel", weight.numel()), weight.requires_grad


def parts_table(rows: list[PartRow]) -> str:
    """What trains, for a reader."""
    total = PartRow("total", "", sum(row.num_parameters for row in rows), sum(row.num_trained for row in rows))
    lines = ["part             setting        parameters        trained"]
    for row in [*rows, total]:
        share = row.num_trained / row.num_parameters if row.num_parameters else 0.0
        lines.append(f"{row.name:16} {row.setting:12} {row.num_parameters:>12,} {row.num_trained:>14,}  {share:7.2%}")
    return "\n".join(lines)
