"""The language model: transformers' own classes, with rotary embeddings that keep no state.

Knows nothing of pictures. InternLM2 is Llama by other names: its checkpoint layout is mapped onto transformers' Llama
while loading and back while saving. There queries, keys and values lie in one tensor `wqkv`: for each KV head its group
of query heads, then its key, then its value. D is the model's width, d a head's.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..model_config import LLM_ARCHITECTURES, has_length_dependent_rope

INTERNLM2_NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "^output": "lm_head",
}
FUSED = "attention.wqkv"
SPLIT = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


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
    if is_internlm2 := config.model_type == "internlm2":
        register_internlm2_layout()
    class_name = LLM_ARCHITECTURES["llama" if is_internlm2 else config.model_type]
    model: PreTrainedModel = getattr(transformers, class_name)(config)
    if has_length_dependent_rope(config):
        model.model.rotary_emb = StatelessRope(config)
    return model


def split_wqkv(fused: torch.Tensor, num_kv_heads: int, head_dim: int) -> tuple[torch.Tensor, ...]:
    """(all heads * d, ...) -> query, key and value weights (or biases), each (its heads * d, ...)."""
    groups = fused.reshape(num_kv_heads, -1, head_dim, *fused.shape[1:])  # (KV heads, group + 2, d, ...)
    return tuple(part.flatten(0, 2) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:]))


def fuse_wqkv(parts: list[torch.Tensor], num_kv_heads: int, head_dim: int) -> torch.Tensor:
    """The reverse of `split_wqkv`."""
    groups = [part.reshape(num_kv_heads, -1, head_dim, *part.shape[1:]) for part in parts]
    return torch.cat(groups, dim=1).flatten(0, 2)


class ConvertWqkv(ConversionOps):
    """`split_wqkv` as a step of transformers' loading; its reverse, `fuse_wqkv`, as one of saving."""

    def __init__(self, *, fuses: bool = False) -> None:
        self.fuses = fuses

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        config, found = kwargs["config"].get_text_config(), (input_dict[name] for name in source_patterns)
        fused, *others = (one[0] if isinstance(one, list) else one for one in found)
        if self.fuses:
            return {target_patterns[0]: fuse_wqkv([fused, *others], config.num_key_value_heads, config.head_dim)}
        num_heads = config.num_attention_heads + 2 * config.num_key_value_heads
        if len(fused) != num_heads * config.head_dim:  # passed on as it is: the report of wrong shapes names it
            return dict.fromkeys(target_patterns, fused)
        parts = split_wqkv(fused, config.num_key_value_heads, config.head_dim)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        return ConvertWqkv(fuses=not self.fuses)


def register_internlm2_layout() -> None:
    """Tell transformers how a model of type internlm2 is stored. Safe to call again."""
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in INTERNLM2_NAMES.items()]
    split = WeightConverter(FUSED, list(SPLIT), operations=[ConvertWqkv()])
    register_checkpoint_conversion_mapping("internlm2", [*renamings, split], overwrite=True)
