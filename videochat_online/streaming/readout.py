"""Readouts: several questions put behind one cached prompt, each with its answer opened, and cropped off again.

The cache then stands where idle prefill leaves it, so that the next question finds it as it would without them. Works
on a session's language side, under that session's lock. N prompts, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..model.memory_bank import MemoryFrame
from .cache import OptionTree, num_common, position_keys, takes_mask
from .language import LanguageSide, lengthened
from .standing import Readout

if TYPE_CHECKING:
    from ..prompt.render import Rendered


class _Reading:
    """What all prompts of one readout have in common."""

    def __init__(self, language: LanguageSide, frames: Sequence[MemoryFrame], seconds: float) -> None:
        self.language, self.model, self.frames, self.seconds = language, language.model, frames, seconds
        # what both answers begin with is read out as part of the question; then they differ by one id
        yes, no = (language.processor.answer_ids(answer) for answer in ("Yes", "No"))
        fork = num_common(yes, no)
        self.before, self.yes, self.no = yes[:fork], yes[fork], no[fork]

    def embeds(self, some: Sequence[int]) -> torch.Tensor:
        """Ids -> (1, N, E)."""
        return self.model.embed(torch.tensor([list(some)], dtype=torch.long, device=self.model.device))

    def readout(self, logits: torch.Tensor, expect: str) -> Readout:
        """Of those (V,) behind a prompt."""
        margin = float(logits[self.yes]) - float(logits[self.no])
        return Readout(self.seconds, margin if expect == "Yes" else -margin)

    def cold(self, prompt: Rendered) -> torch.Tensor:
        """Logits (1, V) behind a whole prompt, from an empty cache."""
        whole = torch.cat([self.language.embed(prompt, self.frames), self.embeds(self.before)], dim=1)
        own = self.language.positions(prompt, self.frames)
        placed = {} if own is None else {"position_ids": lengthened(own, len(self.before))}
        return self.model(inputs_embeds=whole, logits_to_keep=1, **placed).logits[0]


@torch.no_grad()
def read_out(
    language: LanguageSide,
    prompts: Sequence[Rendered],
    frames: Sequence[MemoryFrame],
    expected: Sequence[str],
    *,
    seconds: float,
    shared: int,
    usual_length: int,
    stop: Callable[[], bool],
) -> tuple[list[Readout], int] | None:
    """What the model thinks of N prompts that have their first `shared` positions, and all `frames`, in common, and how
    many positions were computed for it, those of new frames included.

    `expected`: Yes or No, of each. `usual_length`: of the prompt that idle work prefills for. None where `stop` ended
    it before; what is done of the common beginning by then counts.
    """
    reading, cache, model = _Reading(language, frames, seconds), language.cache, language.model
    suffixes = [(*prompt.ids[shared:], *reading.before) for prompt in prompts]
    positions = language.positions(prompts[0], frames)
    try:
        # 1. the common beginning into the cache
        computed, keys = 0, position_keys(prompts[0], frames)[:shared]
        cached = language.reuse_cache and cache.would_serve(usual_length)
        if cached:
            if not (len(cache) == shared and cache.holds(keys, usual_length)):
                common = language.embed(prompts[0], frames)[:, :shared]
                computed = cache.fill(keys, common, positions, num_positions=usual_length, stop=stop)
            if len(cache) < shared:
                return None
            cached = all(cache.can_continue(len(suffix)) for suffix in suffixes)
        # 2. all suffixes behind it together, where the model takes a mask for it
        if cached and takes_mask(model.config.llm_config, shared + max(map(len, suffixes))):
            tree = OptionTree.behind(suffixes)
            logits = cache.peek(reading.embeds(tree.spoken), tree, positions)
            places = [tree.nodes[suffix] for suffix in suffixes]
            return list(map(reading.readout, logits[places], expected)), computed + len(tree.nodes)
        # 3. else one by one: behind the cached beginning, or where that cannot be, from an empty cache
        readouts = []
        for prompt, suffix, expect in zip(prompts, suffixes, expected, strict=True):
            if stop():
                return None
            logits = cache.peek(reading.embeds(suffix), positions=positions) if cached else reading.cold(prompt)
            readouts.append(reading.readout(logits[-1], expect))
            computed += len(suffix) if cached else shared + len(suffix)
        return readouts, computed
    finally:
        cache.trim()
