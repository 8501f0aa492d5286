"""The language model: transformers' own classes, with rotary embeddings that keep no state, and packed attention.

Knows nothing of pictures. InternLM2 is Llama by other names: its checkpoint layout is mapped onto transformers' Llama
while loading and back while saving. There queries, keys and values lie in one tensor `wqkv`: for each KV head its group
of query heads, then its key, then its value. B sequences, L tokens of each, H heads, d their width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..model_config import LLM_ARCHITECTURES, has_length_dependent_rope, max_positions

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
VARLEN = "varlen"


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


def steady_positions(config: PreTrainedConfig) -> int:
    """Up to where rotary factors stay as they are, whatever the length."""
    if not has_length_dependent_rope(config):
        return max_positions(config)
    return int(config.rope_parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


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


# ---- attention over packed sequences --------------------------------------------------------------------------------
# Each sample by itself, on any device, without the (L, L) mask of the whole sequence. transformers builds that mask for
# its sdpa: 1 GiB of booleans at 32,768 tokens, and as many floats again in each layer. Here every sample is one call of
# torch's causal kernel.


def use_varlen(language_model: PreTrainedModel) -> None:
    """Let a language model attend by `varlen_attention`. It stays right for everything else: padding, caches."""
    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(VARLEN, varlen_mask)
    language_model.set_attn_implementation(VARLEN)


def sample_borders(position_ids: torch.Tensor) -> list[int]:
    """Positions (B, L) that start at 0 in each sample -> where each begins among all B * L, and the end: cu_seqlens."""
    starts = position_ids == 0
    starts[:, 0] = True
    return [*starts.flatten().nonzero()[:, 0].tolist(), position_ids.numel()]


def border_arguments(position_ids: torch.Tensor | None, *, flash: bool, device: torch.device) -> dict[str, Any]:
    """The borders of packed sequences as the language model takes them; nothing for others.

    They are read off once, where the positions are on the CPU still: each layer would read them off again and wait for
    the device. Flash attention wants them there, and then takes several sequences as well as one; ours wants numbers.
    """
    if position_ids is None:
        return {}
    borders: Any = sample_borders(position_ids)
    longest = max(end - start for start, end in pairwise(borders))
    if flash:
        borders = torch.tensor(borders, dtype=torch.int32, device=device)
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def varlen_mask(*, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """transformers' mask for sdpa, (B, 1, L, L), or None where `varlen_attention` needs none of it.

    It needs one with padding, behind a cache, and where the window of a sliding layer is shorter than the sequence.
    """
    q_length, kv_length, window = kwargs["q_length"], kwargs["kv_length"], kwargs.get("local_size")
    if attention_mask is None and q_length == kv_length and (window is None or kv_length <= window):
        return None
    return sdpa_mask(attention_mask=attention_mask, **kwargs)


def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: list[int] | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention (B, H, L, d) -> (B, L, H, d) within each sample.

    Its borders are `cu_seq_lens_q`, else read off the positions, as flash attention does.
    """
    batch, _, length, _ = query.shape
    is_whole = attention_mask is None and length == key.shape[2]
    if is_whole and cu_seq_lens_q is None and position_ids is not None:
        cu_seq_lens_q = sample_borders(position_ids.expand(batch, length))
    if not is_whole or cu_seq_lens_q is None or len(cu_seq_lens_q) == batch + 1:  # each sequence is one sample
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    sizes = [end - start for start, end in pairwise(cu_seq_lens_q)]
    # (1, H, all positions, d), split: slices would each have a gradient of the whole size in the backward pass
    split = [one.transpose(0, 1).flatten(1, 2)[None].split(sizes, dim=2) for one in (query, key, value)]
    parts = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in zip(*split, strict=True)]
    return torch.cat(parts, dim=1).view(batch, length, *parts[0].shape[2:]), None
