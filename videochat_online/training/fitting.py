"""--memory-limit: whether a run fits the memory of a GPU, by the estimate, and which other settings would.

Settings are tried in every combination, those first that lose least: the first four only take time (--batch-size
changes the result where --loss-reduction is batch; --strategy shares out what several processes hold alike), then comes
what the weights and pairs lose, then what trains, then how much of a sample is seen.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from ..data.sampler import Lengths
from ..data.settings import SettingError, flag
from ..extras import lacks
from .configuration import TrainingConfig, size_of
from .memory import GIB, estimate, largest_load
from .parts import model_rows

if TYPE_CHECKING:
    from ..model.backbone import Facts

SHOWN = 5
"""Combinations that are listed."""
FEWEST_TOKENS, SMALL_RANK = 1024, 8
SHARES = ("ddp", "zero1", "zero2", "zero3")
"""Strategies, from the one that shares nothing on."""
Changes = dict[str, Any]


def steps_down(config: TrainingConfig, num_processes: int) -> list[list[Changes]]:
    """What may be changed of each setting, from nothing to what loses most; the settings in the same order."""
    quantize: list[Changes] = [{"quantize": "int8"}, {"quantize": "nf4"}, {"quantize": "nf4", "quantize_vision": True}]
    known = config.strategy in SHARES and num_processes > 1 and not lacks("deepspeed")
    sharing = SHARES[SHARES.index(config.strategy) + 1 :] if known else ()
    steps: list[list[Changes]] = [
        [{"frozen_dtype": "auto"}] if config.frozen_dtype != "auto" else [],
        [{"gradient_checkpointing": "all"}] if config.gradient_checkpointing != "all" else [],
        [{"batch_size": config.batch_size >> power} for power in range(1, config.batch_size.bit_length())],
        [{"strategy": more} for more in sharing],
        [{"llm": f"lora:{SMALL_RANK}"}] if config.part("llm")[1][:1] > [SMALL_RANK] else [],
        [] if config.quantize != "none" else quantize,
        [{"llm": "lora:64"}, {"llm": "lora:8"}] if config.llm == "full" and not lacks("peft") else [],
        [{"max_length": config.max_length // n} for n in (2, 4) if config.max_length // n >= FEWEST_TOKENS],
    ]
    return [[{}, *changes] for changes in steps]


def memory_problem(
    model_config: Facts, config: TrainingConfig, num_processes: int, lengths: Lengths = ()
) -> tuple[str, str | None]:
    """What to say about --memory-limit, a short table where the run does not fit; and then the problem in a line."""
    limit = size_of(config.memory_limit) or 0.0

    @cache
    def rows(llm: str, quantize: bool, quantize_vision: bool) -> Any:
        one: Any = {"llm": llm, "quantize": "nf4" if quantize else "none", "quantize_vision": quantize_vision}
        return model_rows(model_config, replace(config, lora_variant="lora", **one))

    def wanted(one: TrainingConfig) -> float:
        parts = rows(one.llm, one.quantize != "none", one.quantize_vision)
        return sum(estimate(parts, model_config, one, num_processes, largest_load(model_config, one, lengths)).values())

    needs = wanted(config)
    head = f"memory limit     {limit / GIB:.1f} GiB, "
    if needs <= limit:
        return f"{head}and {needs / GIB:.1f} GiB are estimated: the run fits", None
    steps, found, lines = steps_down(config, num_processes)[::-1], list[tuple[int, ...]](), []
    for choice in product(*(range(len(one)) for one in steps)):  # the first ones lose most, and change slowest
        if len(found) == SHOWN:
            break
        if any(all(map(operator.le, less, choice)) for less in found):
            continue  # what loses less fits already
        changes: Changes = {}
        for number, one in zip(choice[::-1], steps[::-1], strict=True):
            changes |= one[number]
        with suppress(SettingError):
            if (size := wanted(replace(config, **changes))) <= limit:
                found.append(choice)
                lines.append(f"  {size / GIB:8.2f}  {flags_of(changes)}")
    lines.insert(0, f"{head}but {needs / GIB:.1f} GiB are estimated. What would fit, the least loss first:")
    lines += [] if found else ["  nothing of this: a smaller model, or more GPUs with --strategy zero3 or fsdp"]
    problem = f"--memory-limit {config.memory_limit}: the run is estimated to want {needs / GIB:.1f} GiB on each GPU"
    return "\n".join(lines), problem


def flags_of(changes: Changes) -> str:
    """Settings as they stand on a command line."""
    return " ".join(flag(name) if value is True else f"{flag(name)} {value}" for name, value in changes.items())
