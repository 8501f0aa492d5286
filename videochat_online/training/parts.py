"""What trains: freezing, the encoder's last layers, LoRA pairs and merging them; its optimizer; the table that says so;
and how small what does not train is held.

Which modules are encoder, connector and language model is what the model's `roles` say. LoRA (arXiv 2106.09685)
puts a pair A (rank, in), B (out, rank) beside a weight W (out, in): merged it is V = W + alpha / rank * B @ A, with
DoRA m * V / |V|, m (out,) the lengths it trains of V's rows. Merging works on a state dict, so that it serves a whole
model, one gathered from many GPUs, and a checkpoint's file.
Quantized are linear layers inside the layers of a part, by bitsandbytes (4 bits: QLoRA, arXiv 2305.14314), below pairs
that stay as they are. ZeRO and FSDP hold weights by rules of their own.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..data.settings import SettingError, flag
from ..extras import require
from ..model.backbone import Facts
from ..model.backbones.held import as_module
from ..model.weights import adapter_folder, without_weights
from ..model_config import VideoChatOnlineConfig
from .configuration import TrainingConfig
from .distributed import uses_bf16, uses_cpu

ADAPTER = "default"
NORM = re.compile(r"layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)")
"""Names of norms' weights, as transformers has them now."""
BASE, PAIR_A, PAIR_B = ".base_layer.", f".lora_A.{ADAPTER}.", f".lora_B.{ADAPTER}."
LENGTHS = f".lora_magnitude_vector.{ADAPTER}."
OUTLIER = 6.0
"""Inputs from this size on are multiplied in 16 bits with int8 (LLM.int8, arXiv 2208.07339)."""


@dataclass(frozen=True)
class PartRow:
    """One part of the model in numbers."""

    name: str
    setting: str
    num_parameters: int
    num_trained: int
    num_quantized: int = 0
    """Those that --quantize is going to hold in fewer bits."""


def check_model(config: TrainingConfig, facts: Facts) -> None:
    """Raise SettingError for settings that this model cannot follow, being an adapter or not of our own layout."""
    if config.export == "adapter" and adapter_folder(config.model, None, {}):
        raise SettingError(
            f"--export adapter: {config.model} is an adapter itself, and the new one would be applied without it; "
            "leave the flag out, which writes a whole model"
        )
    if isinstance(facts, VideoChatOnlineConfig):
        return
    expected = {
        "drop_path": (config.drop_path == 0, "0 (their encoders have no stochastic depth)"),
        "strategy": (config.strategy != "fsdp", "ddp or ZeRO"),
        "sequence_parallel": (config.sequence_parallel == 1, "1"),
        "max_dynamic_patch": (config.max_dynamic_patch in (None, 1), "1 (a still image is one picture)"),
    }
    if wrong := [f"{flag(name)} must be {what}" for name, (is_right, what) in expected.items() if not is_right]:
        raise SettingError(f"for models of type {facts.model_type!r} {'; '.join(wrong)}")


def choose_parts(model: Any, config: TrainingConfig) -> None:
    """Make exactly those weights trainable that the settings ask for, adding LoRA pairs where they ask for them.

    Layers of the encoder above the one that is read never run and never train. Raises SettingError for `last:N` with
    more layers than there are.
    """
    model.requires_grad_(False)
    roles, (kind, numbers) = model.roles, config.part("vision")
    encoder, running = model.get_submodule(roles.vision), roles.num_running
    if kind == "last" and numbers[0] > running:
        raise SettingError(f"--vision {config.vision}: the encoder has {running} layers that run")
    first = running - int(numbers[0]) if kind == "last" else 0
    encoder.requires_grad_(kind == "full")  # what stands before the layers
    for name in (roles.vision_layers, *roles.idle):
        model.get_submodule(name).requires_grad_(False)
    layers = model.get_submodule(roles.vision_layers)[first:running]
    layers.requires_grad_(kind in ("full", "last"))
    if kind == "lora":
        _add_lora(encoder, layers, config, "vision")
    for name in roles.connector:
        model.get_submodule(name).requires_grad_(config.connector == "full")
    for name in roles.language:
        model.get_submodule(name).requires_grad_(config.llm == "full")
    if config.llm.startswith("lora"):
        _add_lora(model.get_submodule(roles.language[0]), model.get_submodule(roles.layers), config, "llm")


def _add_lora(part: nn.Module, layers: nn.Module, config: TrainingConfig, name: str) -> None:
    """Put a trainable pair beside every linear layer inside `layers`, a module of `part`; all else in `part` is frozen.

    Raises ImportError with the install command where peft is missing.
    """
    require("peft")
    from peft import inject_adapter_in_model

    inside = {id(module) for module in layers.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in part.named_modules() if id(module) in inside]
    inject_adapter_in_model(lora_config(config, config.part(name)[1], names), part, adapter_name=ADAPTER)


def lora_config(config: TrainingConfig, numbers: list[float], names: list[str], **more: Any) -> Any:
    """peft's settings of pairs beside the layers `names`; `numbers` are rank and alpha, `more` other settings."""
    from peft import LoraConfig

    variant = {"use_rslora": config.lora_variant == "rslora", "use_dora": config.lora_variant == "dora"}
    more |= {"r": int(numbers[0]), "lora_alpha": numbers[1], "lora_dropout": config.lora_dropout, **variant}
    return LoraConfig(target_modules=names, bias="none", **more)


def merge_lora(
    weights: Mapping[str, torch.Tensor], config: TrainingConfig, vision: str = "vision_model"
) -> dict[str, torch.Tensor]:
    """A state dict with pairs -> the public layout, each pair added to its weight. Without pairs: unchanged.

    `vision` is the encoder's name. The weights beside the pairs may have their public names already.

    The sum is taken in float32 and given back in the weight's dtype.
    """
    merged = {}
    for key, weight in weights.items():
        if PAIR_A in key or PAIR_B in key or LENGTHS in key:
            continue
        name = key.replace(BASE, ".")
        stem = name.removesuffix(".weight")
        if name.endswith(".weight") and f"{stem}{PAIR_A}weight" in weights:
            down, up = (weights[f"{stem}{pair}weight"].float() for pair in (PAIR_A, PAIR_B))
            part = "vision" if name.startswith(f"{vision}.") else "llm"
            whole = weight.float() + config.lora_scale(part) * (up @ down)
            if (lengths := weights.get(f"{stem}{LENGTHS}weight")) is not None:
                whole *= (lengths.float() / whole.norm(dim=1))[:, None]
            weight = whole.to(weight.dtype)
        merged[name] = weight
    return merged


def checkpoint_gradients(model: Any, config: TrainingConfig) -> None:
    """Switch gradient checkpointing on, for the parts that --gradient-checkpointing names."""
    if config.gradient_checkpointing == "none":
        return
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name in newer releases
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    for name, part in (("vision", model.roles.vision), ("llm", model.roles.language[0])):
        for module in model.get_submodule(part).modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = config.checkpoints_gradients(name)


def set_drop_path(model: Any, rate: float) -> None:
    """Stochastic depth of the encoder: `rate` at its last layer, in proportion below. Its config is left alone."""
    layers = model.get_submodule(model.roles.vision_layers)
    for number, layer in enumerate(layers):
        layer.drop_path_rate = rate * number / max(len(layers) - 1, 1)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW on what trains, without weight decay on biases and norms (see --decay-norms).

    Published: the norms that transformers 4.37 lists, which are LayerNorm and Llama's RMSNorm, not Phi-3's or Qwen2's.
    """
    named = ((type(module).__name__, module) for module in model.modules())
    listed = [one for name, one in named if isinstance(one, nn.LayerNorm) or name == "LlamaRMSNorm"]
    norms = {id(weight) for module in listed for weight in module.parameters()}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            lower = name.lower()
            is_norm = id(weight) in norms or (not config.decay_norms and NORM.search(lower))
            (plain if is_norm or "bias" in lower else decayed).append(weight)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=True)


def part_rows(model: Any, config: TrainingConfig) -> list[PartRow]:
    """The parts, by the checkpoint's names or, where these are many, those of the flags; how much of each trains."""
    roles = model.roles
    parts = {"connector": roles.connector, "vision": (roles.vision,), "llm": roles.language}  # it may stand in vision
    small = {id(linear.weight) for _, _, linear in frozen_linears(model, config)}
    rows, counted = list[PartRow](), set[int]()
    for part, names in parts.items():
        found = {id(one): one for name in names for one in model.get_submodule(name).parameters()}
        weights = [one for key, one in found.items() if key not in counted]
        counted |= found.keys()
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        num_quantized = sum(weight.numel() for weight in weights if id(weight) in small)
        name = part if "." in names[0] else names[0]
        rows.append(PartRow(name, getattr(config, part), sum(map(num_values, weights)), trained, num_quantized))
    return [rows[1], rows[0], rows[2]]


def num_values(weight: Any) -> int:
    """Of a weight, packed or not: in 4 bits two share a byte."""
    state = getattr(weight, "quant_state", None)
    return int(weight.numel() if state is None else math.prod(state.shape))


def model_rows(model_config: Facts, config: TrainingConfig) -> list[PartRow]:
    """The parts of a model and what trains of them, from its config alone: no memory is used, whatever its size."""
    model = as_module(without_weights(model_config))
    with torch.device("meta"):
        choose_parts(model, config)
    return part_rows(model, config)


def total(rows: list[PartRow]) -> PartRow:
    """The whole model's."""
    names = ("num_parameters", "num_trained", "num_quantized")
    return PartRow("total", "", *(sum(getattr(row, name) for row in rows) for name in names))


def parts_table(rows: list[PartRow]) -> str:
    """What trains, for a reader."""
    lines = ["part             setting        parameters        trained"]
    for row in [*rows, total(rows)]:
        share = row.num_trained / row.num_parameters if row.num_parameters else 0.0
        lines.append(f"{row.name:16} {row.setting:12} {row.num_parameters:>12,} {row.num_trained:>14,}  {share:7.2%}")
    return "\n".join(lines)


def frozen_dtype(config: TrainingConfig) -> torch.dtype:
    """What weights that do not train, and are not quantized, are held in."""
    in_bf16 = config.frozen_dtype == "auto" and config.strategy == "ddp" and uses_bf16(config)
    return torch.bfloat16 if in_bf16 else torch.float32


def hold_frozen(model: nn.Module, config: TrainingConfig) -> None:
    """Make the weights that do not train as small as the settings say. After `choose_parts`."""
    dtype = frozen_dtype(config)
    for parent, name, linear in frozen_linears(model, config):
        setattr(parent, name, quantized(linear, config))
    for weight in model.parameters():
        if not weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def frozen_linears(model: Any, config: TrainingConfig) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(holder, name, layer) of every linear layer that --quantize names; none where nothing is quantized."""
    parts = [model.roles.layers] if config.quantize != "none" else []
    parts += [model.roles.vision_layers] if config.quantize_vision else []
    for holder in [module for part in parts for module in model.get_submodule(part).modules()]:
        for name, layer in list(holder.named_children()):
            if type(layer) is nn.Linear and not layer.weight.requires_grad:
                yield holder, name, layer


def quantized(linear: nn.Linear, config: TrainingConfig) -> nn.Module:
    """The layer with its weight in 4 or 8 bits, on the device of the run, where it is made small."""
    import bitsandbytes as bnb

    compute = torch.bfloat16 if uses_bf16(config) else torch.float32
    weight, shape = linear.weight.data.to(compute), (linear.in_features, linear.out_features, linear.bias is not None)
    layer: Any
    if config.quantize == "nf4":
        layer = bnb.nn.Linear4bit(*shape, compute_dtype=compute, quant_type="nf4", device="meta")
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer)
    else:
        layer = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=OUTLIER, device="meta")
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    layer.bias = linear.bias
    return layer.to("cpu" if uses_cpu(config) else f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def holds_trained_only(config: TrainingConfig, model: PartRow) -> bool:
    """Whether the checkpoints of a run leave out what is frozen; `model` is the sum of its parts."""
    less = 2 * model.num_trained < model.num_parameters
    return config.checkpoint_weights == "trained" or (config.checkpoint_weights == "auto" and less)
