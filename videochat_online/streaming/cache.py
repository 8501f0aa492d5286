"""Reuse of the language model's work from one prompt to the next: only what changed is prefilled again.

A prompt is compared with the one before position by position: a text token by its id, an image token by which frame it
shows at which level. The keys and values of the longest common beginning stay, the rest is cropped away, so an answer
equals one from an empty cache. Knows no text and no stream; one session owns it, under that session's lock.

N positions of a prompt, D the language model's width.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from ..model.language_model import factor_set
from ..model.memory_bank import MemoryFrame

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline
    from ..prompt.render import Rendered
    from .options import OptionTree

CHUNK = 256
"""Positions prefilled at once in idle time: between two chunks a question may step in."""


def position_keys(rendered: Rendered, frames: Sequence[MemoryFrame]) -> list[Hashable]:
    """One key a position: the token id, or for an image token what identifies the frame as it is held now."""
    keys: list[Hashable] = list(rendered.ids)
    for (start, num_tokens), frame in zip(rendered.image_spans, frames, strict=True):
        keys[start : start + num_tokens] = [frame.identity] * num_tokens
    return keys


class PromptCache:
    """Keys and values of the last prompt, and which positions they stand for."""

    def __init__(self, model: VideoChatOnline) -> None:
        self.model = model
        self.reset()

    def reset(self) -> None:
        self.kv = DynamicCache()
        self.keys: list[Hashable] = []
        self._factors: int | None = None  # rotary factor set the cached keys were made with

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Bytes of the cached keys and values."""
        tensors = [getattr(layer, name, None) for layer in self.kv.layers for name in ("keys", "values")]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def keep_common(self, keys: Sequence[Hashable]) -> int:
        """Crop to the longest common beginning with `keys`; returns its length, at most len(keys) - 1.

        (One position is always left to compute: without it there would be no logits.) Keys made with other rotary
        factors than this prompt needs (LongRoPE, dynamic NTK) are not kept at all.
        """
        if self.keys and self._factors != factor_set(self.model.config.llm_config, len(keys)):
            self.reset()
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.keys, keys[:-1], strict=False)))
        if not common:
            self.reset()
        elif common < len(self.keys):
            self.kv.crop(common - len(self.keys))  # negative: how many to take away
            self.keys = self.keys[:common]
        return common

    def extended(self, keys: Sequence[Hashable]) -> None:
        """Record that the cache now stands for `keys`.

        Where it holds another number of positions (an option of `generate` went around it), it is emptied instead.
        """
        if self.kv.get_seq_length() != len(keys):
            self.reset()
            return
        self.keys = list(keys)
        self._factors = factor_set(self.model.config.llm_config, len(keys))

    @torch.no_grad()
    def fill(self, keys: Sequence[Hashable], embeds: torch.Tensor, stop: threading.Event | None = None) -> int:
        """Bring the cache up to `keys` (N), given all their embeddings (1, N, D); returns the positions computed.

        Works in chunks and ends early when `stop` is set; what is done by then counts.
        """
        if list(keys) == self.keys:
            return 0
        begin = done = self.keep_common(keys)
        while done < len(keys) and not (stop and stop.is_set()):
            until = min(done + CHUNK, len(keys))
            if self.keys and self._factors != factor_set(self.model.config.llm_config, until):
                self.reset()
                begin = done = 0
                until = len(keys)  # past the line in one go: each chunk must see one factor set
            positions = torch.arange(done, until, device=embeds.device)[None]
            self.model(
                inputs_embeds=embeds[:, done:until],
                position_ids=positions,
                past_key_values=self.kv,
                use_cache=True,
                logits_to_keep=1,
            )
            self.extended(keys[:until])
            done = until
        return done - begin

    def can_go_on(self, more: int) -> bool:
        """Whether `more` positions behind the cached ones take the same rotary factors."""
        return self._factors == factor_set(self.model.config.llm_config, len(self.keys) + more)

    @torch.no_grad()
    def peek(self, embeds: torch.Tensor, tree: OptionTree | None = None) -> torch.Tensor:
        """Logits (M, vocabulary) of (1, M, D) put behind what is cached; the cache stays as it is.

        `tree`: the M positions are not one text but several that share beginnings.
        """
        num_cached, num_new = len(self.keys), embeds.shape[1]
        mask = None
        positions = torch.arange(num_cached, num_cached + num_new)[None]
        if tree is not None:
            positions, mask = tree.positions(num_cached), tree.mask(num_cached, embeds.dtype).to(embeds.device)
        try:
            done = self.model(
                inputs_embeds=embeds,
                position_ids=positions.to(embeds.device),
                attention_mask=mask,
                past_key_values=self.kv,
                use_cache=True,
            )
        except BaseException:
            self.reset()  # nobody knows how far it got
            raise
        self.kv.crop(-num_new)
        return done.logits[0]
