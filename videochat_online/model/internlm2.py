"""InternLM2's checkpoint layout, mapped onto transformers' Llama while loading and back while saving.

The architecture is Llama's; the names differ, and queries, keys and values lie in one tensor `wqkv`: for each KV head
its group of query heads, then its key, then its value. D is the model's width, d a head's.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

NAMES = {
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


def split_wqkv(fused: torch.Tensor, num_kv_heads: int, head_dim: int) -> tuple[torch.Tensor, ...]:
    """(all heads * d, ...) -> query, key and value weights (or biases), each (its heads * d, ...)."""
    groups = fused.reshape(num_kv_heads, -1, head_dim, *fused.shape[1:])  # (KV heads, group + 2, d, ...)
    return tuple(part.flatten(0, 2) for part in (groups[:, :-2], groups[:, -2:-1], groups[:, -1:]))


def fuse_wqkv(parts: list[torch.Tensor], num_kv_heads: int, head_dim: int) -> torch.Tensor:
    """The reverse of `split_wqkv`."""
    groups = [part.reshape(num_kv_heads, -1, head_dim, *part.shape[1:]) for part in parts]
    return torch.cat(groups, dim=1).flatten(0, 2)


class SplitWqkv(ConversionOps):
    """`split_wqkv` as a step of transformers' loading."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        config = kwargs["config"].get_text_config()
        fused = _tensor(input_dict[source_patterns[0]])
        num_heads = config.num_attention_heads + 2 * config.num_key_value_heads
        if len(fused) != num_heads * config.head_dim:  # passed on as it is: the report of wrong shapes names it
            return dict.fromkeys(target_patterns, fused)
        parts = split_wqkv(fused, config.num_key_value_heads, config.head_dim)
        return {name: part.contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        return FuseWqkv()


class FuseWqkv(ConversionOps):
    """`fuse_wqkv` as a step of transformers' saving."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        config: PreTrainedConfig = kwargs["config"].get_text_config()
        parts = [_tensor(input_dict[name]) for name in source_patterns]
        return {target_patterns[0]: fuse_wqkv(parts, config.num_key_value_heads, config.head_dim)}

    @property
    def reverse_op(self) -> ConversionOps:
        return SplitWqkv()


def _tensor(collected: Any) -> torch.Tensor:
    return collected[0] if isinstance(collected, list) else collected


def register_internlm2_layout() -> None:
    """Tell transformers how a model of type internlm2 is stored. Safe to call again."""
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in NAMES.items()]
    split = WeightConverter(FUSED, list(SPLIT), operations=[SplitWqkv()])
    register_checkpoint_conversion_mapping("internlm2", [*renamings, split], overwrite=True)
