"""How much memory one GPU needs for a run, by arithmetic, and which settings would fit --memory-limit.

Bytes; W processes; P weights, T of them trained.

weights      2 P with ZeRO in bf16, 4 P with ZeRO or FSDP else; ZeRO-3 and FSDP hold 1/W of that and gather what is in
             use. ddp holds 4 T, and for what is frozen 2 (P - T) in bf16, or what its bits take (parts.py)
gradients    4 T; 1/W from ZeRO-2 on and with FSDP; ddp on several processes holds them twice (its buckets), ZeRO-1 in
             bf16 those of a batch beside their sums, 6 T. Without float32 sums in its settings ZeRO in bf16 has 2 T
optimizer    Adam's two moments, 8 T; ZeRO adds its float32 copy, 12 T; 1/W with ZeRO and FSDP
casts        ddp in bf16 keeps a bf16 copy of the float32 weights in use; none with ZeRO
activations  what the backward pass reads again (arXiv 2205.05198, without the L x L attention, which SDPA and flash
             attention never store): a layer of the language model keeps for each token
                 b (2 h + 2 q + 2 kv + 3 f) + 16 h bytes, and what goes into its linear layers
             h width, q and kv widths of queries and of keys, f width of the MLP, b bytes of a number; 16 h are the
             RMS norms, which compute in float32. Into linear layers go b (2 h + f); where they are frozen nothing of
             it is kept (but with int8), and with LoRA's dropout each keeps a copy and a mask of its own. A trained
             encoder layer keeps b (10 h + f) for each patch, and as much for its linear layers; a layer below which
             nothing trains keeps nothing, so a frozen encoder only has b (2 h + 2 f) in use, before the language model
             begins. What DoRA keeps beyond LoRA is not counted.
             With gradient checkpointing each layer keeps its input, b h, and one layer at a time is computed again.
             The norm behind the last layer of the language model keeps 16 h.
logits       10 bytes a word of the vocabulary for each loss-bearing token (LOSS_SHARE of the sequence): the logits,
             their float32 copy and its gradient; of one of --loss-chunks at a time
reserve      the CUDA context, and a tenth of the rest for what the allocator cannot use

Settings that fit are tried in every combination, those first that lose least: the first four only take time
(--batch-size changes the result where --loss-reduction is batch; --strategy shares out what several processes hold
alike), then comes what the weights and pairs lose, then what trains, then how much of a sample is seen.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np

from ..config import BYTES_OF, scheduled_grids, tokens_of_grid
from ..data.sampler import Lengths
from ..data.settings import SettingError, flag
from ..extras import lacks
from ..model.backbone import Facts
from .configuration import TrainingConfig, size_of
from .distributed import deepspeed_settings, uses_bf16, zero_stage
from .parts import PartRow, frozen_dtype, model_rows, total
from .plan import counted

GIB = 2**30
LOSS_SHARE = 0.1
"""Of a sequence's tokens; frames make up most of it, and questions bear none."""
CONTEXT = 1.2e9
"""Bytes a CUDA context and its libraries take."""
GATHERED_PARAMETERS = 1e9
"""Weights that ZeRO-3 keeps gathered at most (DeepSpeed's stage3_max_live_parameters)."""
SHOWN = 5
"""Combinations that are listed."""
FEWEST_TOKENS, SMALL_RANK = 1024, 8
SHARES = ("ddp", "zero1", "zero2", "zero3")
"""Strategies, from the one that shares nothing on."""
Changes = dict[str, Any]


@dataclass(frozen=True)
class Load:
    """What one process has in hand at once."""

    num_tokens: int
    """Positions of all sequences of a batch."""
    num_pictures: int


def largest_load(model_config: Facts, config: TrainingConfig, lengths: Lengths = ()) -> Load:
    """The largest batch of one process: its longest samples, or --max-length tokens where lengths are not known."""
    memory, num_frames = model_config.memory_config, config.num_frames
    film = sum(tokens_of_grid(grid) for grid in scheduled_grids(num_frames, memory.every, memory.grids))
    if config.batching == "packed":
        tokens = config.batch_size * config.max_length
        return Load(tokens // config.sequence_parallel, max(num_frames, num_frames * tokens // film))
    longest = min(int(np.max(lengths)) if len(lengths) else config.max_length, config.max_length)
    return Load(-(-config.batch_size * longest // config.sequence_parallel), config.batch_size * num_frames)


def estimate(
    rows: list[PartRow], model_config: Facts, config: TrainingConfig, num_processes: int, load: Load
) -> dict[str, float]:
    """Bytes on one GPU, by what they are for; `rows` are the model's parts with what trains of them."""
    num_parameters, num_trained = total(rows).num_parameters, total(rows).num_trained
    stage, fsdp, bf16 = zero_stage(config), config.strategy == "fsdp", uses_bf16(config)
    num_frozen = num_parameters - num_trained - total(rows).num_quantized
    size, frozen_size = 2 if stage and bf16 else 4, frozen_dtype(config).itemsize
    whole: float = size * num_parameters
    if not stage and not fsdp:
        small = BYTES_OF.get(config.quantize, 0) * total(rows).num_quantized
        whole = 4 * num_trained + frozen_size * num_frozen + small
    in_float32 = num_trained + (num_frozen if frozen_size == 4 else 0)
    weights, gradients, optimizer = (
        1 / num_processes if fsdp or stage >= first else 1.0 for first in (3, 2, 1)
    )  # the share that one process holds
    each = size
    if stage and deepspeed_settings(config).get("data_types", {}).get("grad_accum_dtype") == "fp32":
        each = 4 + size * (stage == 1 and bf16)  # ZeRO-1 keeps those of the last batch beside the sums
    buckets = 2 if not stage and not fsdp and num_processes > 1 else 1
    gathered = (2 if bf16 else 4) * min(num_parameters, GATHERED_PARAMETERS) if fsdp or stage == 3 else 0
    found = {
        "weights": whole * weights + gathered,
        "gradients": each * buckets * num_trained * gradients,
        "optimizer": (12 if stage else 8) * num_trained * optimizer,
        "casts": 2 * in_float32 if bf16 and not stage and not fsdp else 0,
        "activations": activations(model_config, config, load)[1],
        "logits": 10 * load.num_tokens * LOSS_SHARE * model_config.llm_config.vocab_size / config.loss_chunks,
    }
    return {**found, "reserve": CONTEXT * (not config.cpu) + 0.1 * sum(found.values())}


def memory_text(
    rows: list[PartRow], model_config: Facts, config: TrainingConfig, num_processes: int, load: Load
) -> str:
    """The estimate as a table, GiB."""
    sizes = estimate(rows, model_config, config, num_processes, load)
    shown = {"all": "with gradient checkpointing", "none": "without gradient checkpointing"}
    on = shown.get(config.gradient_checkpointing, f"with gradient checkpointing of {config.gradient_checkpointing}")
    off: Literal["all", "none"] = "none" if config.gradient_checkpointing == "all" else "all"
    other = activations(model_config, replace(config, gradient_checkpointing=off), load)[1]
    notes = {"activations": f"{on} ({shown[off].split()[0]}: {other / GIB:.2f})"}
    sizes["total"] = sum(sizes.values())
    head = (
        f"memory {'of each process' if config.cpu else 'on each GPU'}, estimated, GiB ({config.strategy}, "
        f"{counted(num_processes, 'process')}, {'bf16' if uses_bf16(config) else 'fp32'}; a batch of "
        f"{counted(load.num_tokens, 'token')} and {counted(load.num_pictures, 'picture')})"
    )
    lines = [f"  {name:12} {size / GIB:8.2f}  {notes.get(name, '')}".rstrip() for name, size in sizes.items()]
    return "\n".join([head, *lines])


def activations(model_config: Facts, config: TrainingConfig, load: Load) -> tuple[float, float]:
    """Bytes kept between forward and backward pass, and bytes at most: with what is in use for a single layer.

    While the encoder runs, forward or backward, nothing of the language model is kept.
    """
    llm, number_size = model_config.llm_config, 2 if uses_bf16(config) else 4
    setting = "full" if config.quantize == "int8" and config.llm == "frozen" else config.llm  # it keeps its inputs
    per_token = layer_bytes(llm, number_size, setting, config.lora_dropout)
    again = config.checkpoints_gradients("llm")
    kept, one_layer = _layers(llm.num_hidden_layers, per_token, number_size * llm.hidden_size, again)
    words = (kept + 16 * llm.hidden_size) * load.num_tokens  # with the norm behind the last layer
    pictures, one_encoder_layer = _encoder(model_config, config, load, number_size)
    return pictures + words, pictures + max(words + one_layer * load.num_tokens, one_encoder_layer)


def layer_bytes(llm: Any, number_size: int, setting: str = "full", dropout: float = 0.0) -> float:
    """Bytes one layer of the language model keeps for each token without gradient checkpointing."""
    head = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    queries, keys = head * llm.num_attention_heads, head * llm.num_key_value_heads
    of_experts = getattr(llm, "moe_intermediate_size", 0) * getattr(llm, "num_experts_per_tok", 0)
    width, inner = llm.hidden_size, of_experts or llm.intermediate_size
    num_linears = 2 if llm.model_type == "phi3" else 5  # that read the width: qkv and gate_up are one each in Phi-3
    inputs = _inputs(setting, dropout, number_size, 2 * width + inner, num_linears * width + queries + inner)
    return number_size * (2 * width + 2 * queries + 2 * keys + 3 * inner) + 16 * width + inputs


def _encoder(model_config: Facts, config: TrainingConfig, load: Load, number_size: int) -> tuple[float, float]:
    """Bytes kept, and those in use for one layer on top."""
    vision = model_config.vision_config
    width, inner, patch = vision.hidden_size, vision.intermediate_size, vision.patch_size
    side = model_config.image_size // (patch if isinstance(patch, int) else patch[0])
    num_patches, num_layers = load.num_pictures * (1 + side**2), getattr(vision, "num_hidden_layers", None)
    kind, numbers = config.part("vision")
    trained = {"frozen": 0, "last": int(numbers[0]) if numbers else 0}.get(kind, num_layers or vision.depth)
    if not trained:
        return 0, number_size * 2 * (width + inner) * num_patches
    inputs = _inputs(config.vision, config.lora_dropout, number_size, 2 * width + inner, 3 * width + inner)
    per_patch = number_size * (10 * width + inner) + inputs
    kept, once = _layers(trained, per_patch, number_size * width, config.checkpoints_gradients("vision"))
    return kept * num_patches, once * num_patches


def _inputs(setting: str, dropout: float, number_size: int, shared: int, each: int) -> float:
    """Bytes kept of what goes into a layer's linears: `shared` numbers in all, `each` where none shares its copy."""
    if setting == "frozen":
        return 0
    return (number_size + 1) * each if setting.startswith("lora") and dropout else number_size * shared


def _layers(count: int, each: float, inputs: float, again: bool) -> tuple[float, float]:
    """Bytes kept by `count` layers, and those in use for one that is computed again."""
    return (count * inputs, each) if again else (count * each, 0)


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
