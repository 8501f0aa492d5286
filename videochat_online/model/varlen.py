"""Attention over packed sequences: each sample by itself, on any device, without the (L, L) mask of the whole sequence.

transformers builds that mask for its sdpa: 1 GiB of booleans at 32,768 tokens, and as many floats again in each layer.
Here every sample is one call of torch's causal kernel. B sequences, L tokens of each, H heads, d their width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

VARLEN = "varlen"


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
