"""Readouts: several questions put behind one cached prompt, each with its answer opened, and cropped off again.

The cache then stands where idle prefill leaves it, so that the next question finds it as it would without them. Works
on a session's language side, under that session's lock. N prompts, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..model.memory_bank import MemoryFrame
from .cache import OptionTree, position_keys, takes_mask
from .language import LanguageSide, lengthened

if TYPE_CHECKING:
    from ..processing import Processor
    from ..prompt.render import Rendered


@dataclass(frozen=True)
class YesNo:
    """How a model begins the answers Yes and No."""

    before: tuple[int, ...]
    """Ids that both begin with; they are read out as part of the question."""
    ids: dict[str, int]
    """Answer -> the id by which it differs."""

    @classmethod
    def of(cls, processor: Processor) -> YesNo:
        yes, no = processor.answer_ids("Yes"), processor.answer_ids("No")
        place = next(number for number, pair in enumerate(zip(yes, no, strict=False)) if pair[0] != pair[1])
        return cls(tuple(yes[:place]), {"Yes": yes[place], "No": no[place]})

    def margin(self, logits: torch.Tensor, expect: str) -> float:
        """log P(`expect`) - log P(the other), of logits (V,)."""
        yes, no = float(logits[self.ids["Yes"]]), float(logits[self.ids["No"]])
        return yes - no if expect == "Yes" else no - yes


@dataclass(frozen=True)
class Glance:
    """What came out of one look at the cache."""

    logits: torch.Tensor
    """(N, V) behind each prompt's last position, float32."""
    hidden: list[torch.Tensor | None]
    """(L, D) of each there, where layers were wanted."""
    num_positions: int
    """Computed for it, those of new frames included."""

    @classmethod
    def of(cls, outputs: Sequence[Any], at: Sequence[int], layers: Sequence[int], num_positions: int) -> Glance:
        """Of the model's outputs, one for each prompt, at these positions of them."""
        places = list(zip(outputs, at, strict=True))
        logits = torch.stack([one.logits[0, place] for one, place in places]).float()
        hidden: list[torch.Tensor | None] = [None] * len(places)
        if layers:
            hidden = [torch.stack([one.hidden_states[k][0, at].float().cpu() for k in layers]) for one, at in places]
        return cls(logits, hidden, num_positions)


@torch.no_grad()
def read_out(
    language: LanguageSide,
    prompts: Sequence[Rendered],
    frames: Sequence[MemoryFrame],
    before: Sequence[int],
    layers: Sequence[int],
    *,
    shared: int,
    usual_length: int,
    stop: Callable[[], bool],
) -> Glance | None:
    """What stands behind N prompts that have their first `shared` positions, and all `frames`, in common.

    `before`: ids behind each. `layers`: L whose outputs are wanted. `usual_length`: of the prompt that idle prefill
    computes for. None where `stop` ended it before; what is done of the common beginning by then counts.
    """
    cache, model = language.cache, language.model
    suffixes = [(*prompt.ids[shared:], *before) for prompt in prompts]
    positions = language.positions(prompts[0], frames)
    wanted: dict[str, Any] = {"output_hidden_states": True} if layers else {}
    try:
        # 1. the common beginning into the cache
        computed, keys = 0, position_keys(prompts[0], frames)[:shared]
        cached = language.reuse_cache and cache.would_serve(usual_length)
        if cached:
            if not (len(cache) == shared and cache.holds(keys, usual_length)):
                embeds = language.embed(prompts[0], frames)[:, :shared]
                computed = cache.fill(keys, embeds, positions, num_positions=usual_length, stop=stop)
            if len(cache) < shared:
                return None
            cached = all(cache.can_continue(len(ids)) for ids in suffixes)
        # 2. all suffixes behind it together, where the model takes a mask for it
        if cached and takes_mask(model.config.llm_config, shared + max(map(len, suffixes))):
            tree = OptionTree.behind(suffixes)
            done = cache.look(_embeds(language, tree.spoken), tree, positions, **wanted)
            at = [tree.nodes[ids] for ids in suffixes]
            return Glance.of([done] * len(at), at, layers, computed + len(tree.nodes))
        # 3. else one by one: behind the cached beginning, or where that cannot be, from an empty cache
        rows = []
        for prompt, ids in zip(prompts, suffixes, strict=True):
            if stop():
                return None
            behind = cached and cache.look(_embeds(language, ids), positions=positions, **wanted)
            rows.append(behind or _cold(language, prompt, frames, before, wanted))
            computed += len(ids) if cached else shared + len(ids)
        return Glance.of(rows, [-1] * len(rows), layers, computed)
    finally:
        cache.trim()


def _cold(
    language: LanguageSide,
    prompt: Rendered,
    frames: Sequence[MemoryFrame],
    before: Sequence[int],
    wanted: dict[str, bool],
) -> Any:
    """What the model gives without any cache."""
    whole = torch.cat([language.embed(prompt, frames), _embeds(language, before)], dim=1)
    positions = language.positions(prompt, frames)
    placed = {} if positions is None else {"position_ids": lengthened(positions, len(before))}
    return language.model(inputs_embeds=whole, logits_to_keep=1, **placed, **wanted)


def _embeds(language: LanguageSide, ids: Sequence[int]) -> torch.Tensor:
    """(1, M, E) of text."""
    return language.model.embed(torch.tensor([list(ids)], dtype=torch.long, device=language.model.device))
