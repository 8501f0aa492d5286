"""The language model's side of a session: a prompt and its frames in, answers and scores out, on top of what is cached.

Knows no stream and takes no lock; the session calls it under its own.

N positions of a prompt, D the language model's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..model.memory_bank import MemoryFrame
from ..model_config import max_positions
from .answering import Answer, generate_answer
from .cache import PromptCache, position_bytes, position_keys
from .options import OptionTree, takes_mask

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor
    from ..prompt.render import Rendered


class LanguageSide:
    """Holds what one session's prompts have in common: keys and values of the last one, and projected frames."""

    def __init__(
        self,
        model: VideoChatOnline,
        processor: Processor,
        *,
        reuse_cache: bool,
        max_cache_bytes: int | None = None,
        max_prompt_tokens: int | None = None,
    ) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be >= 1, got {max_prompt_tokens}")
        self.model, self.processor, self.reuse_cache = model, processor, reuse_cache
        taken = max_positions(model.config.llm_config)
        self.max_positions = min(taken, max_prompt_tokens or taken)
        """Of a prompt with its answer, at most."""
        self.cache = PromptCache(model, max_positions=self.max_positions, max_bytes=max_cache_bytes)
        self.reset()

    def reset(self) -> None:
        self.cache.reset()
        self._tokens: dict[tuple[int, int, int], torch.Tensor] = {}  # projected frames of the last prompt, by identity

    @property
    def num_bytes(self) -> int:
        """Of keys, values and projected frames that are kept for the next question."""
        return self.cache.num_bytes + sum(rows.numel() * rows.element_size() for rows in self._tokens.values())

    @property
    def max_bytes(self) -> int:
        """Of keys and values at most, whatever is asked."""
        return self.cache.max_positions * position_bytes(self.model) if self.reuse_cache else 0

    @torch.no_grad()
    def embed(self, rendered: Rendered, frames: Sequence[MemoryFrame]) -> torch.Tensor:
        """Prompt and its frames -> input embeddings (1, N, D). Frames of the last prompt are not projected again."""
        ids = torch.tensor([rendered.ids], device=self.model.device)
        known = self._tokens
        new = [frame for frame in frames if frame.identity not in known]
        if new:
            rows = self.model.project([frame.features for frame in new])
            pieces = rows.split([frame.num_tokens for frame in new])
            projected = {frame.identity: piece.clone() for frame, piece in zip(new, pieces, strict=True)}
            known = {**known, **projected}
        shown = {frame.identity: known[frame.identity] for frame in frames}
        self._tokens = shown if self.reuse_cache else {}  # replaced, never changed: another thread may be counting it
        return self.model.embed(ids, torch.cat(list(shown.values())) if frames else None)

    def answer(self, rendered: Rendered, frames: Sequence[MemoryFrame], *, started: float, **generation: Any) -> Answer:
        """Generate on top of what the cache holds of the prompt. `started`: when the question came (perf_counter)."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        one_sequence = generation.get("num_beams", 1) == 1 and generation.get("num_return_sequences", 1) == 1
        if not (self.reuse_cache and one_sequence):
            return generate_answer(self.model, self.processor, embeds, started=started, **generation)
        cached = self.cache.prepare(keys, embeds)
        try:
            answer = generate_answer(
                self.model, self.processor, embeds, started=started, past_key_values=self.cache.kv, **generation
            )
        except BaseException:
            self.cache.reset()  # nobody knows how far it got
            raise
        self.cache.extended([*keys, *answer.ids[:-1]])  # the last token was never fed back
        self.cache.trim()
        answer.cached_tokens = cached
        return answer

    def prefill(
        self, rendered: Rendered, frames: Sequence[MemoryFrame], until: int, *, stop: Callable[[], bool]
    ) -> int | None:
        """Bring the cache up to position `until` of the prompt; None where `stop` ended it before.

        Returns the positions computed: 0 also where another question could not use them (dynamic NTK past its line).
        """
        if not self.reuse_cache:
            return 0
        until = min(until, self.cache.max_positions)
        keys, num_positions = position_keys(rendered, frames)[:until], len(rendered.ids)
        if self.cache.holds(keys, num_positions) or not self.cache.would_serve(num_positions):
            return 0
        embeds = self.embed(rendered, frames)[:, :until]
        computed = self.cache.fill(keys, embeds, num_positions=num_positions, stop=stop)
        return computed if len(self.cache) == until else None

    @torch.no_grad()
    def score(self, rendered: Rendered, frames: Sequence[MemoryFrame], options: Sequence[str]) -> list[float]:
        """Log-probability of each option as the whole answer, end mark included."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        answers = [self.processor.answer_ids(option) for option in options]
        if not self.reuse_cache:
            return [self._score_alone(embeds, ids) for ids in answers]
        try:
            return self._score_cached(keys, embeds, answers)
        finally:
            self.cache.trim()

    def _score_cached(self, keys: Sequence[Any], embeds: torch.Tensor, answers: list[list[int]]) -> list[float]:
        """Of all answers behind one prompt, all together where the model takes a mask for it."""
        self.cache.fill(keys[:-1], embeds[:, :-1])
        tree, longest = OptionTree.of(answers), len(keys) + max(map(len, answers))
        if self.cache.can_go_on(longest - len(keys)) and takes_mask(self.model.config.llm_config, longest):
            return tree.scores(self._peek(embeds, tree.spoken, tree))
        return [self._score_behind(embeds, ids) for ids in answers]

    def _score_behind(self, prompt: torch.Tensor, ids: list[int]) -> float:
        """Of one answer behind the prompt's embeddings (1, N, D), of which the cache holds all but the last."""
        if not self.cache.can_go_on(len(ids)):
            return self._score_alone(prompt, ids)
        return OptionTree.of([ids]).scores(self._peek(prompt, ids[:-1]))[0]

    def _score_alone(self, prompt: torch.Tensor, ids: list[int]) -> float:
        """Of one answer, from an empty cache."""
        embeds = torch.cat([prompt, self._spoken(ids[:-1])], dim=1)
        return OptionTree.of([ids]).scores(self.model(inputs_embeds=embeds, logits_to_keep=len(ids)).logits[0])[0]

    def _peek(self, prompt: torch.Tensor, ids: list[int], tree: OptionTree | None = None) -> torch.Tensor:
        """Logits of the prompt's last position and of `ids` behind it, which stay out of the cache."""
        return self.cache.peek(torch.cat([prompt[:, -1:], self._spoken(ids)], dim=1), tree)

    def _spoken(self, ids: list[int]) -> torch.Tensor:
        return self.model.embed(torch.tensor([ids], dtype=torch.long, device=self.model.device), None)
