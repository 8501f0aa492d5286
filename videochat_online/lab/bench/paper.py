"""`bench paper`: FLOPs and bytes of a model on paper, and what an accelerator's published peaks would allow.

Nothing here is measured. A multiply-add counts as two operations; attention scores and values are counted, norms are
not, nor are activations on their way to memory and back. The output layer works for the last position of a prompt only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...config import MemoryConfig
from ...model_config import VideoChatOnlineConfig
from .measure import tables_of

TEXT_TOKENS_A_FRAME = 14
"""Of "Frame12 at 5.5s: <img></img>" and its newline."""
TEXT_TOKENS = 200
"""System message, question and marks."""
QUESTION_TOKENS = 30
BYTES = 2
"""Of a value in bfloat16."""
PREFILL_SHARE = 0.35
"""Of the prompt that one new frame makes new in the mean, as `bench ask` counts it for the trained order."""

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
    gigabytes: float
    reachable: float = 0.5


H100 = Accelerator("H100 SXM, bfloat16 dense", 989.0, 3.35, 80.0)


def encoder_weights(config: VideoChatOnlineConfig) -> int:
    """Parameters of the encoder's matrices."""
    vision = config.vision_config
    layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    return vision.num_hidden_layers * layer + vision.num_channels * vision.patch_size**2 * vision.hidden_size


def encoder_flops(config: VideoChatOnlineConfig) -> float:
    """Of one frame through the encoder."""
    vision = config.vision_config
    tokens = (config.image_size // vision.patch_size) ** 2 + 1
    attention = vision.num_hidden_layers * 4 * tokens**2 * vision.hidden_size
    return 2.0 * encoder_weights(config) * tokens + attention


def connector_flops(config: VideoChatOnlineConfig, tokens: float) -> float:
    width = config.llm_config.hidden_size
    return 2.0 * tokens * width * (config.feature_size + width)


def language_weights(config: VideoChatOnlineConfig) -> int:
    """Parameters that are read for each token, with the output layer."""
    return _layer_weights(config) + config.llm_config.hidden_size * config.llm_config.vocab_size


def _layer_weights(config: VideoChatOnlineConfig) -> int:
    llm = config.llm_config
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    keys = llm.num_key_value_heads * head
    attention = 2 * llm.hidden_size * (llm.num_attention_heads * head + keys)
    return int(llm.num_hidden_layers * (attention + 3 * llm.hidden_size * llm.intermediate_size))


def prefill_flops(config: VideoChatOnlineConfig, new: int, cached: int = 0) -> float:
    """Of `new` tokens on top of `cached` ones (causal: each sees those before it), and the logits of the last."""
    llm = config.llm_config
    seen = new * cached + new * (new + 1) / 2
    output = 2.0 * llm.hidden_size * llm.vocab_size
    return 2.0 * _layer_weights(config) * new + 4.0 * llm.num_hidden_layers * llm.hidden_size * seen + output


def cache_bytes(config: VideoChatOnlineConfig, tokens: int) -> int:
    llm = config.llm_config
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    return 2 * llm.num_hidden_layers * llm.num_key_value_heads * head * tokens * BYTES


def prompt_tokens(memory: MemoryConfig) -> int:
    """Of a full memory with a question."""
    return memory.max_tokens + TEXT_TOKENS_A_FRAME * memory.capacity + TEXT_TOKENS


def per_frame(config: VideoChatOnlineConfig, machine: Accelerator = H100) -> list[dict[str, Any]]:
    """What one frame costs, step by step. The encoder's weights are read once a batch."""
    grid_tokens, weights = config.grid**2, encoder_weights(config) * BYTES
    map_bytes = grid_tokens * config.feature_size * BYTES
    rows = [
        ("encoder, alone", encoder_flops(config), weights + map_bytes),
        ("encoder, in a batch of 16", encoder_flops(config), weights / 16 + map_bytes),
        ("memory bank: one read of the map", grid_tokens * config.feature_size, map_bytes),
        ("connector, at full grid", connector_flops(config, grid_tokens), map_bytes),
    ]
    return [
        {"step": name, "GFLOP": flops / 1e9, "MiB": size / 2**20, **_times(flops, size, machine)}
        for name, flops, size in rows
    ]


def per_question(
    config: VideoChatOnlineConfig, memory: MemoryConfig, machine: Accelerator = H100
) -> list[dict[str, Any]]:
    """The time to the first token by how much is cached already, and one further token."""
    prompt = prompt_tokens(memory)
    coarse = QUESTION_TOKENS + TEXT_TOKENS_A_FRAME + memory.levels[-1].num_tokens
    situations = [
        ("cold", prompt, 0),
        ("one coarse frame new", coarse, prompt - coarse),
        ("nothing new, or prefilled while idle", QUESTION_TOKENS, prompt - QUESTION_TOKENS),
        ("each further token", 1, prompt),
    ]
    rows = []
    for name, new, cached in situations:
        flops = prefill_flops(config, new, cached)
        moved = language_weights(config) * BYTES + cache_bytes(config, new + cached)
        rows.append(
            {
                "bank": _name(memory),
                "situation": name,
                "tokens computed": new,
                "GFLOP": flops / 1e9,
                "GiB moved": moved / 2**30,
                **_times(flops, moved, machine),
            }
        )
    return rows


def per_machine(
    config: VideoChatOnlineConfig, memory: MemoryConfig, machine: Accelerator = H100, *, fps: float = 2.0
) -> dict[str, Any]:
    """How many streams at `fps` one accelerator could watch, by what runs out first."""
    prompt = prompt_tokens(memory)
    frame = _times(encoder_flops(config), 0.0, machine)["ms by arithmetic"]
    new = int(PREFILL_SHARE * prompt)
    update = _times(prefill_flops(config, new, prompt - new), 0.0, machine)["ms by arithmetic"]
    bank = sum(level.capacity * level.num_tokens for level in memory.levels) * config.feature_size * BYTES
    cache = cache_bytes(config, prompt)
    free = machine.gigabytes * 1e9 - (language_weights(config) + encoder_weights(config)) * BYTES
    return {
        "bank": _name(memory),
        "maps MiB a stream": bank / 2**20,
        "cache MiB a stream": cache / 2**20,
        "encode ms a frame": frame,
        "idle prefill ms a frame": update,
        "streams by encoding": 1000 / (frame * fps),
        "with idle prefill": 1000 / ((frame + update) * fps),
        "by memory, caches kept": free / (bank + cache),
        "caches not kept": free / bank,
    }


def _name(memory: MemoryConfig) -> str:
    return "/".join(map(str, memory.capacities))


def _times(flops: float, moved: float, machine: Accelerator) -> dict[str, Any]:
    compute = flops / (machine.tflops * machine.reachable * 1e12) * 1e3
    memory = moved / (machine.terabytes_per_second * 1e12) * 1e3
    return {
        "ms by arithmetic": compute,
        "ms by memory": memory,
        "bound": "arithmetic" if compute > memory else "memory",
    }


def paper_report(config: VideoChatOnlineConfig, machine: Accelerator = H100) -> str:
    """All tables, for both published banks."""
    banks = [MemoryConfig.pyramid(capacities=c).for_encoder(config.grid) for c in ((2, 2, 12), (24, 24, 144))]
    tables = {
        "a frame": per_frame(config, machine),
        "a question": [row for bank in banks for row in per_question(config, bank, machine)],
        "streams at 2 fps": [per_machine(config, bank, machine) for bank in banks],
    }
    title = f"on paper: {machine.name}, {machine.reachable:.0%} of {machine.tflops:g} TFLOPS reachable"
    return f"{title}\n{tables_of(tables)}"
