"""The language model: transformers' own classes, and rotary embeddings that keep no state.

Knows nothing of pictures. Where the rotary frequencies depend on how long the sequence is (LongRoPE of Phi-3-128k,
dynamic NTK), keys cached at one length are wrong at another; `factor_set` says which lengths go together.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    LlamaForCausalLM,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import TransformersKwargs

from .internlm2 import register_internlm2_layout

LLM_CLASSES: dict[str, type[PreTrainedModel]] = {
    "phi3": Phi3ForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "llama": LlamaForCausalLM,
    "internlm2": LlamaForCausalLM,
}
CACHE_NAMES = ("cache", "past_key_values")
"""Of one argument of `forward` and `generate`: since transformers 5.24, and before."""


@functools.cache
def forward_names() -> frozenset[str]:
    """The arguments that `forward` of this transformers' language models uses."""
    names = inspect.signature(LlamaForCausalLM.forward).parameters
    return frozenset({*names, *TransformersKwargs.__optional_keys__, "return_dict"} - {"self", "kwargs"})


def rename_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with the cache under the name of this transformers, or without the name where there is no cache.

    Raises ValueError where both names are given: transformers would quietly take one.
    """
    given = [name for name in CACHE_NAMES if arguments.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are two names of one argument: give one of them")
    renamed = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    if given:
        renamed[next(name for name in CACHE_NAMES if name in forward_names())] = arguments[given[0]]
    return renamed


def check_forward_names(arguments: Mapping[str, Any]) -> None:
    """TypeError for an argument that transformers' language models would ignore without a word."""
    unknown = sorted(arguments.keys() - forward_names())
    if unknown:
        raise TypeError(f"forward has no argument {', '.join(unknown)}; it takes {', '.join(sorted(forward_names()))}")


def factor_set(config: PreTrainedConfig, num_positions: int) -> int:
    """Names the rotary frequencies in force for a sequence of `num_positions`.

    A cache may be continued from one length to another only where both give the same value. LongRoPE has two sets,
    dynamic NTK one for every length past the trained one, every other type one in all.
    """
    kind = config.rope_parameters["rope_type"]
    if kind == "longrope":
        return int(num_positions > config.rope_parameters["original_max_position_embeddings"])
    if kind == "dynamic":
        return max(num_positions, config.max_position_embeddings)
    return 0


def max_positions(config: PreTrainedConfig) -> int:
    """Tokens of a sequence at most; rope types that stretch the trained length count with their factor."""
    rope = config.rope_parameters
    stretched = rope["rope_type"] in ("dynamic", "linear", "yarn")
    return int(config.max_position_embeddings * (rope["factor"] if stretched else 1))


def has_length_dependent_rope(config: PreTrainedConfig) -> bool:
    return config.rope_parameters["rope_type"] in ("longrope", "dynamic")


class StatelessRope(nn.Module):
    """Rotary embedding of LongRoPE (arXiv 2402.13753) and dynamic NTK: frequencies follow from this call's positions.

    transformers' own module writes the frequencies of the last call into a buffer, so that two threads at different
    lengths disturb each other. Numbers are the same.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, N) -> cos and sin (B, N, d), in the dtype of `x`."""
        frequencies, scale = self._frequencies(position_ids.max() + 1)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)

    def _frequencies(self, num_positions: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(d / 2,) and the scale of cos and sin, without asking the device for the length."""
        device, kind = num_positions.device, self.config.rope_parameters["rope_type"]
        compute = ROPE_INIT_FUNCTIONS[kind]
        if kind == "dynamic":
            return compute(self.config, device, seq_len=num_positions)
        line = self.config.rope_parameters["original_max_position_embeddings"]
        short, scale = compute(self.config, device, seq_len=line)
        long, _ = compute(self.config, device, seq_len=line + 1)
        return torch.where(num_positions > line, long, short), scale


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of `config`, with random weights."""
    if config.model_type == "internlm2":
        register_internlm2_layout()
    model = LLM_CLASSES[config.model_type](config)
    if has_length_dependent_rope(config):
        model.model.rotary_emb = StatelessRope(config)
    return model
