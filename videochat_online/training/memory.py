"""How much memory one GPU needs for a run, by arithmetic. Bytes; W processes; P weights, T of them trained.

weights      2 P with ZeRO in bf16, else 4 P; ZeRO-3 and FSDP hold 1/W of that and gather what is in use
gradients    2 T with ZeRO in bf16, else 4 T; 1/W from ZeRO-2 on and with FSDP; ddp on several processes holds them
             twice (its buckets)
optimizer    Adam's two moments, 8 T; ZeRO adds its float32 copy, 12 T; 1/W with ZeRO and FSDP
casts        ddp in bf16 keeps a bf16 copy of the weights in use, 2 P; none with ZeRO
activations  what the backward pass reads again (arXiv 2205.05198, without the L x L attention, which SDPA and flash
             attention never store): a layer of the language model keeps for each token
                 b (2 h + 2 q + 2 kv + 3 f) + 16 h bytes, and what goes into its linear layers
             h width, q and kv widths of queries and of keys, f width of the MLP, b bytes of a number; 16 h are the
             RMS norms, which compute in float32. Into linear layers go b (2 h + f); where they are frozen nothing of
             it is kept, and with LoRA's dropout each keeps a copy and a mask of its own. A trained encoder layer keeps
             b (10 h + f) for each patch, and as much for its linear layers; a layer below which nothing trains keeps
             nothing, so a frozen encoder only has b (2 h + 2 f) in use, before the language model begins.
             With gradient checkpointing each layer keeps its input, b h, and one layer at a time is computed again.
             The norm behind the last layer of the language model keeps 16 h.
logits       10 bytes a word of the vocabulary for each loss-bearing token (LOSS_SHARE of the sequence): the logits,
             their float32 copy and its gradient
reserve      the CUDA context, and a tenth of the rest for what the allocator cannot use
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .configuration import TrainingConfig
from .distributed import uses_bf16, zero_stage

if TYPE_CHECKING:
    from ..model_config import VideoChatOnlineConfig
    from .parts import PartRow

LOSS_SHARE = 0.1
"""Of a sequence's tokens; frames make up most of it, and questions bear none."""
CONTEXT = 1.2e9
"""Bytes a CUDA context and its libraries take."""
GATHERED_PARAMETERS = 1e9
"""Weights that ZeRO-3 keeps gathered at most (DeepSpeed's stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Load:
    """What one process has in hand at once."""

    num_tokens: int
    """Positions of all sequences of a batch."""
    num_pictures: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    optimizer: float
    casts: float
    activations: float
    logits: float
    reserve: float
    other_activations: float
    """Those of the same run with gradient checkpointing the other way round; no part of the total."""

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self)) - self.other_activations


def estimate(
    rows: list[PartRow], model_config: VideoChatOnlineConfig, config: TrainingConfig, num_processes: int, load: Load
) -> MemoryEstimate:
    """Memory of a run; `rows` are the model's parts with what trains of them."""
    number_size = 2 if uses_bf16(config) else 4  # in activations
    held = _held(sum(row.num_parameters for row in rows), sum(row.num_trained for row in rows), config, num_processes)
    most, other = (
        activations(model_config, config, load, number_size, checkpointing)[1]
        for checkpointing in (config.gradient_checkpointing, not config.gradient_checkpointing)
    )
    logits = 10 * load.num_tokens * LOSS_SHARE * model_config.llm_config.vocab_size
    reserve = CONTEXT * (not config.cpu) + 0.1 * (sum(held.values()) + most + logits)
    return MemoryEstimate(**held, activations=most, logits=logits, reserve=reserve, other_activations=other)


def _held(num_parameters: int, num_trained: int, config: TrainingConfig, num_processes: int) -> dict[str, float]:
    """Bytes that stay from step to step."""
    stage, fsdp, bf16 = zero_stage(config), config.strategy == "fsdp", uses_bf16(config)
    size = 2 if stage and bf16 else 4
    weights, gradients, optimizer = (
        1 / num_processes if fsdp or stage >= first else 1.0 for first in (3, 2, 1)
    )  # the share that one process holds
    buckets = 2 if not stage and not fsdp and num_processes > 1 else 1
    gathered = (2 if bf16 else 4) * min(num_parameters, GATHERED_PARAMETERS) if fsdp or stage == 3 else 0
    return {
        "weights": size * num_parameters * weights + gathered,
        "gradients": size * buckets * num_trained * gradients,
        "optimizer": (12 if stage else 8) * num_trained * optimizer,
        "casts": 2 * num_parameters if bf16 and not stage and not fsdp else 0,
    }


def activations(
    model_config: VideoChatOnlineConfig, config: TrainingConfig, load: Load, number_size: int, checkpointing: bool
) -> tuple[float, float]:
    """Bytes kept between forward and backward pass, and bytes at most: with what is in use for a single layer.

    While the encoder runs, forward or backward, nothing of the language model is kept.
    """
    llm = model_config.llm_config
    per_token = layer_bytes(llm, number_size, config.llm, config.lora_dropout)
    words, one_layer = (
        size * load.num_tokens
        for size in _layers(llm.num_hidden_layers, per_token, number_size * llm.hidden_size, checkpointing)
    )
    words += 16 * llm.hidden_size * load.num_tokens  # the norm behind the last layer
    pictures, one_encoder_layer = _encoder(model_config, config, load, number_size, checkpointing)
    return pictures + words, pictures + max(words + one_layer, one_encoder_layer)


def layer_bytes(llm: Any, number_size: int, setting: str = "full", dropout: float = 0.0) -> float:
    """Bytes one layer of the language model keeps for each token without gradient checkpointing."""
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    queries, keys = head * llm.num_attention_heads, head * llm.num_key_value_heads
    width, inner = llm.hidden_size, llm.intermediate_size
    num_linears = 2 if llm.model_type == "phi3" else 5  # that read the width: qkv and gate_up are one each in Phi-3
    inputs = _inputs(setting, dropout, number_size, 2 * width + inner, num_linears * width + queries + inner)
    return number_size * (2 * width + 2 * queries + 2 * keys + 3 * inner) + 16 * width + inputs


def _encoder(
    model_config: VideoChatOnlineConfig, config: TrainingConfig, load: Load, number_size: int, checkpointing: bool
) -> tuple[float, float]:
    """Bytes kept, and those in use for one layer on top."""
    vision = model_config.vision_config
    width, inner = vision.hidden_size, vision.intermediate_size
    num_patches = load.num_pictures * (1 + (model_config.image_size // vision.patch_size) ** 2)
    kind, numbers = config.part("vision")
    trained = {"frozen": 0, "last": int(numbers[0]) if numbers else 0}.get(kind, vision.num_hidden_layers)
    if not trained:
        return 0, number_size * 2 * (width + inner) * num_patches
    inputs = _inputs(config.vision, config.lora_dropout, number_size, 2 * width + inner, 3 * width + inner)
    per_patch = number_size * (10 * width + inner) + inputs
    kept, once = _layers(trained, per_patch, number_size * width, checkpointing)
    return kept * num_patches, once * num_patches


def _inputs(setting: str, dropout: float, number_size: int, shared: int, each: int) -> float:
    """Bytes kept of what goes into a layer's linears: `shared` numbers in all, `each` where none shares its copy."""
    if setting == "frozen":
        return 0
    return (number_size + 1) * each if setting.startswith("lora") and dropout else number_size * shared


def _layers(count: int, each: float, inputs: float, checkpointing: bool) -> tuple[float, float]:
    """Bytes kept by `count` layers, and those in use for one that is computed again."""
    return (count * inputs, each) if checkpointing else (count * each, 0)
