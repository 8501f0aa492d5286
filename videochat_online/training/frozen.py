"""Weights that do not train, held small: in bfloat16 where the run computes in it, in 4 or 8 bits where asked for.

Quantized are linear layers inside the layers of a part, by bitsandbytes (4 bits: QLoRA, arXiv 2305.14314), below LoRA
pairs that stay as they are. What trains is held in float32. ZeRO and FSDP hold weights by rules of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .configuration import TrainingConfig
from .distributed import uses_bf16, uses_cpu

OUTLIER = 6.0
"""Inputs from this size on are multiplied in 16 bits with int8 (LLM.int8, arXiv 2208.07339)."""


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
