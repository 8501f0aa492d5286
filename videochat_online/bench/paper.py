"""`bench paper`: FLOPs and bytes of a model on paper, and what an accelerator's published peaks would allow.

Nothing here is measured. A multiply-add counts as two operations; attention scores and values are counted, norms and
activations are not. B bytes a value (2 in bfloat16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import MemoryConfig
from ..model_config import VideoChatOnlineConfig

TEXT_TOKENS_A_FRAME = 14
"""Of "Frame12 at 5.5s: <img></img>" and its newline."""
TEXT_TOKENS = 200
"""System message, question and marks."""
QUESTION_TOKENS = 30
BYTES = 2

PUBLISHED_4B: dict[str, Any] = {
    "vision_config": {},
    "llm_config": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32020,
        "pad_token_id": 32000,
    },
}
"""Sizes of VideoChatOnline-4B."""


@dataclass(frozen=True)
class Accelerator:
    """Peaks from a data sheet, and the share of the arithmetic peak that large matrix products usually reach."""

    name: str
    tflops: float
    terabytes_per_second: float
    reachable: float = 0.5


H100 = Accelerator("H100 SXM, bfloat16 dense", 989.0, 3.35)


def encoder_flops(config: VideoChatOnlineConfig) -> float:
    """Of one frame through the encoder."""
    vision = config.vision_config
    tokens = (config.image_size // vision.patch_size) ** 2 + 1
    weights = vision.num_hidden_layers * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    attention = vision.num_hidden_layers * 4 * tokens**2 * vision.hidden_size
    patches = 2 * (tokens - 1) * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    return 2.0 * weights * tokens + attention + patches


def connector_flops(config: VideoChatOnlineConfig, tokens: float) -> float:
    width = config.llm_config.hidden_size
    return 2.0 * tokens * width * (config.feature_size + width)


def language_weights(config: VideoChatOnlineConfig) -> int:
    """Parameters that each token passes through, with the output layer."""
    llm = config.llm_config
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    keys = llm.num_key_value_heads * head
    attention = 2 * llm.hidden_size * (llm.num_attention_heads * head + keys)
    layer = attention + 3 * llm.hidden_size * llm.intermediate_size
    return llm.num_hidden_layers * layer + llm.hidden_size * llm.vocab_size


def prefill_flops(config: VideoChatOnlineConfig, new: int, cached: int = 0) -> float:
    """Of `new` tokens on top of `cached` ones (causal: each sees those before it)."""
    llm = config.llm_config
    seen = new * cached + new * (new + 1) / 2
    return 2.0 * language_weights(config) * new + 4.0 * llm.num_hidden_layers * llm.hidden_size * seen


def cache_bytes(config: VideoChatOnlineConfig, tokens: int) -> int:
    llm = config.llm_config
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    return 2 * llm.num_hidden_layers * llm.num_key_value_heads * head * tokens * BYTES


def per_frame(config: VideoChatOnlineConfig, machine: Accelerator = H100) -> list[dict[str, Any]]:
    """What one frame costs, step by step."""
    grid_tokens = config.grid**2
    map_bytes = grid_tokens * config.feature_size * BYTES
    rows = [
        ("encoder", encoder_flops(config), map_bytes),
        ("memory bank: one read of the map", grid_tokens * config.feature_size, map_bytes),
    ]
    rows.append(("connector, at full grid", connector_flops(config, grid_tokens), map_bytes))
    return [
        {"step": name, "GFLOP": flops / 1e9, "MiB": size / 2**20, **_times(flops, size, machine)}
        for name, flops, size in rows
    ]


def per_question(
    config: VideoChatOnlineConfig, memory: MemoryConfig, machine: Accelerator = H100
) -> list[dict[str, Any]]:
    """The time to the first token by how much is cached already, and one further token."""
    prompt = memory.max_tokens + TEXT_TOKENS_A_FRAME * memory.capacity + TEXT_TOKENS
    weights = language_weights(config) * BYTES
    situations = [
        ("cold", prompt, 0),
        ("one coarse frame new", QUESTION_TOKENS + TEXT_TOKENS_A_FRAME + memory.levels[-1].num_tokens, prompt),
        ("nothing new, or prefilled while idle", QUESTION_TOKENS, prompt),
        ("each further token", 1, prompt),
    ]
    rows = []
    for name, new, cached in situations:
        flops, moved = prefill_flops(config, new, cached), weights + cache_bytes(config, new + cached)
        rows.append(
            {
                "bank": "/".join(map(str, memory.capacities)),
                "situation": name,
                "tokens computed": new,
                "GFLOP": flops / 1e9,
                "GiB moved": moved / 2**30,
                **_times(flops, moved, machine),
            }
        )
    return rows


def _times(flops: float, moved: float, machine: Accelerator) -> dict[str, Any]:
    compute = flops / (machine.tflops * machine.reachable * 1e12) * 1e3
    memory = moved / (machine.terabytes_per_second * 1e12) * 1e3
    return {
        "ms by arithmetic": compute,
        "ms by memory": memory,
        "bound": "arithmetic" if compute > memory else "memory",
    }
