"""The language model's side of a session: a prompt and its frames in, answers and scores out, on top of what is cached.

Knows no stream and takes no lock; the session calls it under its own.

N positions of a prompt, D the language model's width.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..model.memory_bank import MemoryFrame
from .answering import Answer, generate_answer
from .cache import PromptCache, position_keys
from .options import OptionTree, takes_mask

if TYPE_CHECKING:
    from ..model.videochat import VideoChatOnline
    from ..processing import Processor
    from ..prompt.render import Rendered


class LanguageSide:
    """Holds what one session's prompts have in common: keys and values of the last one, and projected frames."""

    def __init__(self, model: VideoChatOnline, processor: Processor, *, reuse_cache: bool) -> None:
        self.model, self.processor, self.reuse_cache = model, processor, reuse_cache
        self.cache = PromptCache(model)
        self.reset()

    def reset(self) -> None:
        self.cache.reset()
        self._tokens: dict[Hashable, torch.Tensor] = {}  # projected frames of the last prompt, by identity

    @torch.no_grad()
    def embed(self, rendered: Rendered, frames: Sequence[MemoryFrame]) -> torch.Tensor:
        """Prompt and its frames -> input embeddings (1, N, D). Frames of the last prompt are not projected again."""
        ids = torch.tensor([rendered.ids], device=self.model.device)
        new = [frame for frame in frames if frame.identity not in self._tokens]
        if new:
            rows = self.model.project([frame.features for frame in new])
            pieces = rows.split([frame.num_tokens for frame in new])
            self._tokens.update(zip((frame.identity for frame in new), pieces, strict=True))
        self._tokens = {frame.identity: self._tokens[frame.identity] for frame in frames}
        return self.model.embed(ids, torch.cat(list(self._tokens.values())) if frames else None)

    def answer(self, rendered: Rendered, frames: Sequence[MemoryFrame], *, started: float, **generation: Any) -> Answer:
        """Generate on top of what the cache holds of the prompt. `started`: when the question came (perf_counter)."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        one_sequence = generation.get("num_beams", 1) == 1 and generation.get("num_return_sequences", 1) == 1
        if not (self.reuse_cache and one_sequence):
            return generate_answer(self.model, self.processor, embeds, started=started, **generation)
        cached = self.cache.keep_common(keys)
        try:
            answer = generate_answer(
                self.model, self.processor, embeds, started=started, past_key_values=self.cache.kv, **generation
            )
        except BaseException:
            self.cache.reset()  # nobody knows how far it got
            raise
        self.cache.extended([*keys, *answer.ids[:-1]])  # the last token was never fed back
        answer.cached_tokens = cached
        return answer

    def prefill(self, rendered: Rendered, frames: Sequence[MemoryFrame], *, stop: threading.Event) -> int | None:
        """Bring the cache up to the newest frame of the prompt; None where `stop` ended it before."""
        if not self.reuse_cache:
            return 0
        start, num_tokens = rendered.image_spans[-1]
        until = start + num_tokens + 1  # up to the mark behind the newest frame; then the question would begin
        keys, embeds = position_keys(rendered, frames)[:until], self.embed(rendered, frames)[:, :until]
        try:
            computed = self.cache.fill(keys, embeds, stop=stop)
        except BaseException:
            self.cache.reset()
            raise
        return computed if len(self.cache) == until else None

    @torch.no_grad()
    def score(self, rendered: Rendered, frames: Sequence[MemoryFrame], options: Sequence[str]) -> list[float]:
        """Log-probability of each option as the whole answer, end mark included."""
        keys, embeds = position_keys(rendered, frames), self.embed(rendered, frames)
        answers = [self.processor.answer_ids(option) for option in options]
        if not self.reuse_cache:
            return [self._score_alone(embeds, ids) for ids in answers]
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
