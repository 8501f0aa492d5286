"""Sequence parallelism: a few processes share each sequence, a part of its positions each. By DeepSpeed's Ulysses.

Each of them embeds the whole sequence; the language model sees its own part, and in attention they exchange positions
for heads (ALST, arXiv 2506.13996). Gradients add up over parts as they do over samples, so that any strategy serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from ..model_config import has_length_dependent_rope
from .distributed import join_deepspeed, rank

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline


class SequenceParts:
    """The part of each sequence that is this process's; (B, N) as the data has it, B = 1."""

    def __init__(self, size: int) -> None:
        """Of `size` processes; 1: sequences stay whole."""
        self.size, self.number, self.longest = size, rank() % size, 0

    def part(self, values: torch.Tensor, fill: float = 0, more: int = 0) -> torch.Tensor:
        """(B, N, ...) -> (B, n, ...): this part, filled up to the same length on all, and `more` columns behind it."""
        if self.size == 1:
            return values
        each = -(-values.shape[1] // self.size)
        end = each * self.size + more - values.shape[1]
        filled = pad(values, (*[0, 0] * (values.ndim - 2), 0, end), value=fill)
        return filled[:, each * self.number : each * (self.number + 1) + more]

    def share(self, model: VideoChatOnline) -> None:
        """Make the language model, when it trains, see its part only. Raises ValueError for heads that do not divide.

        After the process group was made, and once in a process: transformers' attention is replaced for all models.
        """
        if self.size == 1:
            return
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        join_deepspeed()
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        llm, name = model.language_model, str(model.language_model.config._attn_implementation)
        alone, ours = ALL_ATTENTION_FUNCTIONS[name], {id(module) for module in llm.modules()}
        options = {"seq_length_is_variable": True, "disable_in_eval": True}
        UlyssesSPAttentionHF.register_with_transformers(llm, name, self.size, micro_batch_size=1, **options)
        shared = ALL_ATTENTION_FUNCTIONS[name]
        ALL_ATTENTION_FUNCTIONS[name] = lambda module, *values, **named: (shared if id(module) in ours else alone)(
            module, *values, **named
        )  # the encoder's pictures stay whole
        llm.model.register_forward_pre_hook(self._cut, with_kwargs=True)
        if has_length_dependent_rope(model.config.llm_config):
            rope: Any = llm.model.rotary_emb
            rope.register_forward_pre_hook(self._with_longest, with_kwargs=True)
            rope.register_forward_hook(lambda module, _, found: self._without_longest(module, found))

    def _cut(self, llm: torch.nn.Module, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if not llm.training:
            return None
        embeds, positions = named["inputs_embeds"], named.get("position_ids")
        if positions is None:
            positions = torch.arange(embeds.shape[1] + self.size, device=embeds.device)[None]
            positions = positions[:, : -(-embeds.shape[1] // self.size) * self.size]
        self.longest = int(positions.max())
        return args, {**named, "inputs_embeds": self.part(embeds), "position_ids": self.part(positions)}

    def _with_longest(self, rope: torch.nn.Module, args: Any, named: dict[str, Any]) -> Any:
        """LongRoPE takes its factors by the longest position, of the whole sequence: that stands behind each part."""
        if not rope.training:
            return None
        return args, {**named, "position_ids": pad(named["position_ids"], (0, 1), value=self.longest)}

    @staticmethod
    def _without_longest(rope: torch.nn.Module, found: tuple[torch.Tensor, ...]) -> Any:
        return tuple(one[:, :-1] for one in found) if rope.training else None
