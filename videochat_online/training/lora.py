"""LoRA pairs beside the linear layers of a part (arXiv 2106.09685), and merging them back into plain weights.

Merging works on a state dict, so that it serves a whole model, one gathered from many GPUs, and a checkpoint's file.
W (out, in) is the weight beside which A (rank, in) and B (out, rank) train: merged it is W + alpha / rank * B @ A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..extras import require
from .arguments import TrainingConfig, check_part

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTER = "default"
BASE, PAIR_A, PAIR_B = ".base_layer.", f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}."


def rank_and_alpha(setting: str) -> tuple[int, float]:
    """`lora:16` -> (16, 32): alpha is twice the rank where it is not given."""
    _, numbers = check_part("lora", setting, ("lora",))
    rank = int(numbers[0])
    return rank, numbers[1] if len(numbers) > 1 else 2.0 * rank


def add_lora(part: nn.Module, layers: nn.Module, setting: str, dropout: float) -> None:
    """Put a trainable pair beside every linear layer inside `layers`, a module of `part`; all else in `part` is frozen.

    Raises ImportError with the install command where peft is missing.
    """
    require("peft")
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    rank, alpha = rank_and_alpha(setting)
    inside = {id(module) for module in layers.modules() if isinstance(module, torch.nn.Linear)}
    names = [name for name, module in part.named_modules() if id(module) in inside]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, bias="none")  # type: ignore[arg-type]
    inject_adapter_in_model(config, part, adapter_name=ADAPTER)


def scale_of(key: str, config: TrainingConfig) -> float:
    """alpha / rank of the pair that a key of the state dict belongs to."""
    rank, alpha = rank_and_alpha(config.vision if key.startswith("vision_model.") else config.llm)
    return alpha / rank


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
            weight = (weight.float() + scale_of(name, config) * (up @ down)).to(weight.dtype)
        merged[name] = weight
    return merged
