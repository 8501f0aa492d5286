"""Readouts: several questions put behind one cached prompt, each with its answer opened, and cropped off again.

The cache then stands where idle prefill leaves it, so that the next question finds it as it would without them. Works
on a session's language side, under that session's lock. N prompts, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Glance(NamedTuple):
    """What stands behind one prompt."""

    logits: torch.Tensor
    """(V,) float32."""
    hidden: torch.Tensor | None
    """(L, D), where layers were wanted."""


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
) -> tuple[list[Glance], int] | None:
    """What stands behind N prompts that have their first `shared` positions, and all `frames`, in common, and how many
    positions were computed for it, those of new frames included.

    `before`: ids behind each. `layers`: L whose outputs are wanted. `usual_length`: of the prompt that idle prefill
    computes for. None where `stop` ended it before; what is done of the common beginning by then counts.
    """
    cache, model = language.cache, language.model
    suffixes = [(*prompt.ids[shared:], *before) for prompt in prompts]
    positions = language.positions(prompts[0], frames)
    wanted: dict[str, Any] = {"output_hidden_states": True} if layers else {}

    def embeds(ids: Sequence[int]) -> torch.Tensor:
        return model.embed(torch.tensor([list(ids)], dtype=torch.long, device=model.device))

    def looked(done: Any, place: int = -1) -> Glance:
        hidden = [done.hidden_states[k][0, place].float().cpu() for k in layers]
        return Glance(done.logits[0, place].float(), torch.stack(hidden) if hidden else None)

    def cold(prompt: Rendered) -> Any:
        whole = torch.cat([language.embed(prompt, frames), embeds(before)], dim=1)
        own = language.positions(prompt, frames)
        placed = {} if own is None else {"position_ids": lengthened(own, len(before))}
        return model(inputs_embeds=whole, logits_to_keep=1, **placed, **wanted)

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
            cached = all(cache.can_continue(len(ids)) for ids in suffixes)
        # 2. all suffixes behind it together, where the model takes a mask for it
        if cached and takes_mask(model.config.llm_config, shared + max(map(len, suffixes))):
            tree = OptionTree.behind(suffixes)
            done = cache.look(embeds(tree.spoken), tree, positions, **wanted)
            return [looked(done, tree.nodes[ids]) for ids in suffixes], computed + len(tree.nodes)
        # 3. else one by one: behind the cached beginning, or where that cannot be, from an empty cache
        looks = []
        for prompt, ids in zip(prompts, suffixes, strict=True):
            if stop():
                return None
            looks.append(looked(cache.look(embeds(ids), positions=positions, **wanted) if cached else cold(prompt)))
            computed += len(ids) if cached else shared + len(ids)
        return looks, computed
    finally:
        cache.trim()
