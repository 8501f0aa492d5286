"""What is written where most of a model is frozen: a checkpoint's trained weights, beside the name and the fingerprint
of the model that they belong to; and the trained model as an adapter, in the layout of the package peft.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..files import write_json
from .configuration import TrainingConfig
from .parts import ADAPTER, LENGTHS, PAIR_A, PartRow, lora_config

if TYPE_CHECKING:
    from ..model.backbone import Roles

BASE_FILE, TRAINED_FILE = "base.json", "trained.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"


def holds_trained_only(config: TrainingConfig, model: PartRow) -> bool:
    """Whether the checkpoints of a run leave out what is frozen; `model` is the sum of its parts."""
    less = 2 * model.num_trained < model.num_parameters
    return config.checkpoint_weights == "trained" or (config.checkpoint_weights == "auto" and less)


def fingerprint(sampled: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names and some values of weights, whatever lossless dtype they are held in."""
    found = hashlib.sha256()
    for name in sorted(sampled):
        found.update(name.encode() + sampled[name].float().numpy().tobytes())
    return found.hexdigest()


def write_trained(folder: Path, base: dict[str, str], weights: Mapping[str, torch.Tensor]) -> None:
    """Write trained weights, and which model they belong to."""
    from safetensors.torch import save_file

    save_file({key: weight.contiguous() for key, weight in weights.items()}, folder / TRAINED_FILE)
    write_json(folder / BASE_FILE, base)


def check_base(folder: Path, base: dict[str, str]) -> None:
    """Raise ValueError where a checkpoint holds trained weights only, and they belong to another model."""
    if not (folder / BASE_FILE).is_file():
        return
    written = json.loads((folder / BASE_FILE).read_text("utf-8"))
    if written["fingerprint"] != base["fingerprint"]:
        raise ValueError(
            f"{folder} holds trained weights alone, which belong to --model {written['model']}: the frozen weights of "
            f"--model {base['model']} are not those they were trained with; give the run its model back"
        )


def write_adapter(folder: Path, weights: Mapping[str, torch.Tensor], config: TrainingConfig, roles: Roles) -> None:
    """Write LoRA pairs and the connector as `peft.PeftModel.from_pretrained` reads them.

    Args:
        weights: those that train, under the model's own keys, in the dtype they are written in.
    """
    from safetensors.torch import save_file

    pairs = [key.removesuffix(f"{PAIR_A}weight") for key in weights if PAIR_A in key]
    part = {name: config.part("vision" if name.startswith(f"{roles.vision}.") else "llm")[1] for name in pairs}
    rank, alpha = part[pairs[-1]]
    lora_config(
        config,
        [rank, alpha],
        pairs,
        base_model_name_or_path=config.model,
        inference_mode=True,
        rank_pattern={name: int(numbers[0]) for name, numbers in part.items() if numbers[0] != rank},
        alpha_pattern={name: numbers[1] for name, numbers in part.items() if numbers[1] != alpha},
        modules_to_save=list(roles.connector) if config.connector == "full" else None,
    ).save_pretrained(str(folder))
    save_file({peft_key(key): weight.contiguous() for key, weight in weights.items()}, folder / ADAPTER_FILE)


def peft_key(key: str) -> str:
    """A trained weight's name in an adapter's file."""
    short = key.replace(f"{LENGTHS}weight", LENGTHS.removesuffix(f".{ADAPTER}."))
    return f"base_model.model.{short.replace(f'.{ADAPTER}.', '.')}"
