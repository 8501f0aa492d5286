"""Readouts: several questions put behind one cached prompt, each with its answer opened, and cropped off again.

The cache then stands where idle prefill leaves it, so that the next question finds it as it would without them. Works
on a session's language side, under that session's lock. N prompts, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..model.memory_bank import MemoryFrame
from .cache import OptionTree, num_common, position_keys, takes_mask
from .language import LanguageSide, lengthened
from .standing import Readout

if TYPE_CHECKING:
    from ..prompt.render import Rendered


@torch.no_grad()
def read_out(
    language: LanguageSide,
    prompts: Sequence[Rendered],
    frames: Sequence[MemoryFrame],
    expected: Sequence[str],
    layers: Sequence[int],
    *,
    seconds: float,
    shared: int,
    usual_length: int,
    stop: Callable[[], bool],
) -> tuple[list[Readout], int] | None:
    """What the model thinks of N prompts that have their first `shared` positions, and all `frames`, in common, and how
    many positions were computed for it, those of new frames included.

    `expected`: Yes or No, of each. `layers`: L whose outputs are wanted. `usual_length`: of the prompt that idle work
    prefills for. None where `stop` ended it before; what is done of the common beginning by then counts.
    """
    # what both answers begin with is read out as part of the question; then they differ by one id
    ids = {answer: language.processor.answer_ids(answer) for answer in ("Yes", "No")}
    fork = num_common(ids["Yes"], ids["No"])
    before = ids["Yes"][:fork]
    cache, model = language.cache, language.model
    suffixes = [(*prompt.ids[shared:], *before) for prompt in prompts]
    positions = language.positions(prompts[0], frames)
    wanted: dict[str, Any] = {"output_hidden_states": True} if layers else {}

    def embeds(some: Sequence[int]) -> torch.Tensor:
        return model.embed(torch.tensor([list(some)], dtype=torch.long, device=model.device))

    def read(done: Any, expect: str, place: int = -1) -> Readout:
        hidden = [done.hidden_states[k][0, place].float().cpu() for k in layers]
        yes, no = (float(done.logits[0, place, ids[answer][fork]]) for answer in ("Yes", "No"))
        return Readout(seconds, yes - no if expect == "Yes" else no - yes, torch.stack(hidden) if hidden else None)

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
            cached = all(cache.can_continue(len(suffix)) for suffix in suffixes)
        # 2. all suffixes behind it together, where the model takes a mask for it
        if cached and takes_mask(model.config.llm_config, shared + max(map(len, suffixes))):
            tree = OptionTree.behind(suffixes)
            done = cache.look(embeds(tree.spoken), tree, positions, **wanted)
            places = [tree.nodes[suffix] for suffix in suffixes]
            return list(map(read, [done] * len(places), expected, places)), computed + len(tree.nodes)
        # 3. else one by one: behind the cached beginning, or where that cannot be, from an empty cache
        readouts = []
        for prompt, suffix, expect in zip(prompts, suffixes, expected, strict=True):
            if stop():
                return None
            done = cache.look(embeds(suffix), positions=positions, **wanted) if cached else cold(prompt)
            readouts.append(read(done, expect))
            computed += len(suffix) if cached else shared + len(suffix)
        return readouts, computed
    finally:
        cache.trim()
