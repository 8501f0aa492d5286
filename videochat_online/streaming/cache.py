"""Reuse of the language model's work from one prompt to the next: only what changed is prefilled again.

A prompt is compared with the one before position by position: a text token by its id, an image token by which frame it
shows at which level. The keys and values of the longest common beginning stay, the rest is cropped away, so an answer
equals one from an empty cache. Behind it several possible answers can be scored in one pass. Knows no text and no
stream; one session owns it, under that session's lock.

N positions of a prompt, M of what is put behind it, E an embedding's width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from ..model.memory_bank import MemoryFrame
from ..model_config import factor_set

if TYPE_CHECKING:
    from ..model.backbone import Backbone
    from ..prompt.render import Rendered

STEP_SECONDS = 0.03
"""What one step of idle prefill should take: between two steps a question may go first."""
SMALLEST_STEP, LARGEST_STEP = 16, 2048
"""Positions."""


def position_keys(rendered: Rendered, frames: Sequence[MemoryFrame]) -> list[Hashable]:
    """One key a position: the token id, or for an image token what identifies the frame as it is held now."""
    keys: list[Hashable] = list(rendered.ids)
    for (start, num_tokens), frame in zip(rendered.image_spans, frames, strict=True):
        keys[start : start + num_tokens] = [frame.identity] * num_tokens
    return keys


def num_common(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest common beginning."""
    for position, (key, other_key) in enumerate(zip(one, other, strict=False)):
        if key != other_key:
            return position
    return min(len(one), len(other))


def position_bytes(model: Backbone) -> int:
    """Bytes of one position's keys and values."""
    llm = model.config.llm_config
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    return int(2 * llm.num_hidden_layers * llm.num_key_value_heads * head * model.dtype.itemsize)


@dataclass(frozen=True)
class OptionTree:
    """Several possible answers behind one prompt, laid out so that one pass of the language model scores all of them.

    Answers that begin alike share their beginning; each position sees the prompt and its own beginning only, so every
    answer gets the probability it would get alone. Of its M positions the first is the prompt's last.
    """

    answers: tuple[tuple[int, ...], ...]
    """Token ids, the end mark included."""
    nodes: dict[tuple[int, ...], int]
    """Beginning of an answer (without its last token, which nothing follows) -> its position in the tree."""

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> OptionTree:
        whole = tuple(tuple(ids) for ids in answers)
        nodes: dict[tuple[int, ...], int] = {(): 0}
        for ids in whole:
            for length in range(1, len(ids)):
                nodes.setdefault(ids[:length], len(nodes))
        return cls(whole, nodes)

    @classmethod
    def behind(cls, texts: Sequence[tuple[int, ...]]) -> OptionTree:
        """Whole texts that follow the cached positions, without a position of the prompt's own."""
        beginnings = (ids[:length] for ids in texts for length in range(1, len(ids) + 1))
        return cls((), {ids: number for number, ids in enumerate(dict.fromkeys(beginnings))})

    @property
    def spoken(self) -> list[int]:
        """(M - 1) ids that follow the prompt's last position."""
        return [beginning[-1] for beginning in self.nodes if beginning]

    def positions(self, num_before: int) -> torch.Tensor:
        """(1, M) position ids, for a prompt of `num_before` positions before its last."""
        first = len(next(iter(self.nodes)))
        return torch.tensor([[num_before + len(beginning) - first for beginning in self.nodes]])

    def mask(self, num_before: int, dtype: torch.dtype) -> torch.Tensor:
        """(1, 1, M, num_before + M), 0 where a position may look and the lowest number where not."""
        sees = torch.eye(len(self.nodes), dtype=torch.bool)
        for beginning, number in self.nodes.items():
            if beginning[:-1] in self.nodes and beginning:
                sees[number] |= sees[self.nodes[beginning[:-1]]]
        hidden = torch.zeros(len(sees), num_before + len(sees), dtype=dtype)
        hidden[:, num_before:].masked_fill_(~sees, torch.finfo(dtype).min)
        return hidden[None, None]

    def scores(self, logits: torch.Tensor) -> list[float]:
        """(M, vocabulary) -> log-probability of each answer, summed over its tokens."""
        rows = [self.nodes[ids[:length]] for ids in self.answers for length in range(len(ids))]
        tokens = [token for ids in self.answers for token in ids]
        log_probabilities = logits.float().log_softmax(-1)
        found = log_probabilities[torch.tensor(rows), torch.tensor(tokens)].cpu()
        return [float(part.sum()) for part in found.split([len(ids) for ids in self.answers])]


def takes_mask(config: PreTrainedConfig, num_positions: int) -> bool:
    """Whether a mask can say to this model's attention which position sees which, over `num_positions`.

    Flash attention takes none, and a mask would replace the model's own sliding window where that begins to count.
    """
    window = getattr(config, "sliding_window", None)
    return config._attn_implementation in ("sdpa", "eager") and (window is None or num_positions <= window)


class PromptCache:
    """Keys and values of the last prompt, and which positions they stand for."""

    def __init__(self, model: Backbone, *, max_positions: int, max_bytes: int | None = None) -> None:
        """`max_positions` of the longest prompt; `max_bytes`: kept from one question to the next at most; None: all."""
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_cache_bytes must be >= 0, got {max_bytes}")
        self.model, self.max_bytes = model, max_bytes
        self.max_positions = max_positions
        if max_bytes is not None:
            self.max_positions = min(max_positions, max_bytes // position_bytes(model))
        self._step = 128
        self.reset()

    def reset(self) -> None:
        self.kv = self.model.new_cache()
        self.keys: list[Hashable] = []
        self._factors: int | None = None  # rotary factor set the cached keys were made with

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Bytes of the cached keys and values, as they are allocated."""
        tensors = [getattr(layer, name, None) for layer in self.kv.layers for name in ("keys", "values")]
        return sum(t.untyped_storage().nbytes() for t in tensors if t is not None)

    def keep_common(self, keys: Sequence[Hashable], num_positions: int | None = None) -> int:
        """Crop to the longest common beginning with `keys`; returns its length, at most len(keys) - 1.

        (One position is always left to compute: without it there would be no logits.) Keys made with other rotary
        factors than this prompt needs (LongRoPE, dynamic NTK) are not kept at all. `num_positions`: of the whole
        prompt, where `keys` are its beginning only.
        """
        if self.keys and self._factors != self._factors_of(num_positions or len(keys)):
            self.reset()
        common = self._border(keys, num_common(self.keys, keys[:-1]), -1)
        if not common:
            self.reset()
        elif common < len(self.keys):
            self.kv.crop(common - len(self.keys))  # negative: how many to take away
            self.keys = self.keys[:common]
        return common

    def _border(self, keys: Sequence[Hashable], position: int, step: int) -> int:
        """The next place from `position` on (step 1), or back (-1), where this model's cache may end."""
        while 0 < position < len(keys):
            inside = isinstance(keys[position], tuple) and keys[position - 1] == keys[position]
            if self.model.may_cut(inside_picture=inside):
                break
            position += step
        return position

    def prepare(self, keys: Sequence[Hashable], embeds: torch.Tensor, positions: torch.Tensor | None = None) -> int:
        """`keep_common`, for a prompt (1, N, E) that `generate` will continue.

        `generate` derives the factors of cached keys from their number. Where that would mislead it (a longer prompt's
        keys, cropped to before LongRoPE's line), all positions but the last are computed here.
        """
        common = self.keep_common(keys)
        if common and self._factors_of(common) != self._factors:
            self.fill(keys[:-1], embeds[:, :-1], positions, num_positions=len(keys))
        return common

    def extended(self, keys: Sequence[Hashable], num_positions: int | None = None) -> None:
        """Record that the cache now stands for `keys`, of a prompt of `num_positions`.

        Where it holds another number of positions (an option of `generate` went around it), it is emptied instead.
        """
        if self.kv.get_seq_length() != len(keys):
            self.reset()
            return
        self.keys = list(keys)
        self._factors = self._factors_of(num_positions or len(keys))

    def trim(self) -> None:
        """Give up what lies behind `max_positions`, memory and all."""
        num_held = len(self.keys)
        if num_held <= self.max_positions:
            return
        if not self.max_positions:
            self.reset()
            return
        self.kv.crop(self.max_positions - num_held)
        for layer in self.kv.layers:
            assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()  # a crop keeps the whole storage
        self.keys = self.keys[: self.max_positions]

    def lacks_much(self, num_positions: int) -> bool:
        """Whether more than one step of idle prefill is missing to so many positions."""
        return num_positions - len(self.keys) > self._step

    def holds(self, keys: Sequence[Hashable], num_positions: int) -> bool:
        """Whether `keys`, of a prompt of `num_positions`, are what the cache begins with."""
        return self.keys[: len(keys)] == list(keys) and self._factors == self._factors_of(num_positions)

    @torch.no_grad()
    def fill(
        self,
        keys: Sequence[Hashable],
        embeds: torch.Tensor,
        positions: torch.Tensor | None = None,
        *,
        num_positions: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> int:
        """Bring the cache up to `keys` (N), given their embeddings (1, N, E); returns the positions computed.

        `positions`: as the model's own `positions` gave them. `num_positions`: of the whole prompt, where these are its
        beginning only. With `stop` it works in short steps and ends early when that says so; what is done by then
        counts.
        """
        num_positions = num_positions or len(keys)
        if len(keys) == len(self.keys) and self.holds(keys, num_positions):
            return 0
        begin = done = self.keep_common(keys, num_positions)
        while done < len(keys) and not (stop and stop()):
            until = self._border(keys, min(done + self._step, len(keys)), 1) if stop else len(keys)
            started = time.perf_counter()
            try:
                self._compute(embeds[:, done:until], positions, done, num_positions)
            except BaseException:
                self.reset()  # how far it got is not known
                raise
            self.extended(keys[:until], num_positions)
            if stop:
                self._pace(until - done, started)
            done = until
        return done - begin

    def _compute(self, embeds: torch.Tensor, positions: torch.Tensor | None, begin: int, num_positions: int) -> None:
        """Append positions (1, M, E) from `begin` on, with the factors of a prompt of `num_positions`.

        The model takes its factors from the last position it is shown. Where the whole prompt takes others, a position
        from its end is shown behind these and taken away again: nothing looks ahead, so it changes only the factors.
        """
        end = begin + embeds.shape[1]
        whole = torch.arange(end, device=embeds.device)[None] if positions is None else positions
        now = whole[..., begin:end]
        borrows = self._factors_of(end) != self._factors_of(num_positions)
        if borrows:
            embeds = torch.cat([embeds, embeds[:, -1:]], dim=1)
            now = torch.cat([now, torch.full_like(now[..., :1], num_positions - 1)], dim=-1)
        self.model(inputs_embeds=embeds, position_ids=now, cache=self.kv, use_cache=True, logits_to_keep=1)
        if borrows:
            self.kv.crop(-1)

    def _pace(self, num_positions: int, started: float) -> None:
        """Adapt the step to what the last one took."""
        if self.model.device.type == "cuda":
            torch.cuda.current_stream(self.model.device).synchronize()  # else all steps are queued at once
        seconds = time.perf_counter() - started
        if num_positions == self._step and seconds < STEP_SECONDS / 2:
            self._step = min(2 * self._step, LARGEST_STEP)
        elif seconds > 2 * STEP_SECONDS:
            self._step = max(self._step // 2, SMALLEST_STEP)

    def _factors_of(self, num_positions: int) -> int:
        return factor_set(self.model.config.llm_config, num_positions)

    def would_serve(self, num_positions: int) -> bool:
        """Whether keys of a prompt of this length could be used for a longer one."""
        return self._factors_of(num_positions) == self._factors_of(num_positions + 1)

    def can_continue(self, more: int) -> bool:
        """Whether `more` positions behind the cached ones take the same rotary factors."""
        return self._factors == self._factors_of(len(self.keys) + more)

    @torch.no_grad()
    def peek(
        self, embeds: torch.Tensor, tree: OptionTree | None = None, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (M, vocabulary) of (1, M, E) put behind what is cached; the cache stays as it is.

        `tree`: the M positions are not one text but several that share beginnings. `positions`: of the whole prompt,
        whose last is the first of these; what follows it is text.
        """
        num_cached, num_new = len(self.keys), embeds.shape[1]
        mask, after = None, torch.arange(num_new)[None]
        if tree is not None:
            after, mask = tree.positions(0), tree.mask(num_cached, embeds.dtype).to(embeds.device)
        first = num_cached if positions is None else positions[..., num_cached : num_cached + 1]
        try:
            done = self.model(
                inputs_embeds=embeds,
                position_ids=after.to(embeds.device) + first,
                attention_mask=mask,
                cache=self.kv,
                use_cache=True,
            )
        except BaseException:
            self.reset()  # how far it got is not known
            raise
        self.kv.crop(-num_new)
        return done.logits[0]
