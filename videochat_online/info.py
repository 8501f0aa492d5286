"""`videochat-online info`: what a model is made of, read from its config alone (weights are not loaded)."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .config import BYTES_OF, MemoryConfig, stream_grid

if TYPE_CHECKING:
    from .model.backbone import Facts


def add_info_command(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="print a model's parts, parameters, memory and token counts",
        description="Print parts, parameters, memory and token counts of a model; only its config.json is read.",
    )
    parser.add_argument("model", nargs="?", default="pocket", help="'pocket', a folder, or a hub id")
    parser.add_argument("--json", action="store_true", help="print json instead of tables")
    parser.set_defaults(run=run_info)


def run_info(options: argparse.Namespace) -> int:
    from .model.weights import load_facts

    facts = model_facts(load_facts(options.model))
    print(json.dumps(facts, indent=1, ensure_ascii=False) if options.json else facts_as_text(options.model, facts))
    return 0


def model_facts(config: Facts) -> dict[str, Any]:
    """Counts of a model built on the meta device: no memory is used, whatever its size."""
    from .model.backbone import memory_on
    from .model.weights import quantized_layers, without_weights

    network = without_weights(config)
    parts = network.parts
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    vision, llm, memory = config.vision_config, config.llm_config, memory_on(config)
    layers = getattr(vision, "num_hidden_layers", None) or vision.depth
    patch = max(vision.patch_size) if isinstance(vision.patch_size, (list, tuple)) else vision.patch_size
    num_patches = (config.image_size // patch) ** 2
    encoder = parameters[next(iter(parts))]
    total, small = sum(parameters.values()), sum(layer.weight.numel() for layer in quantized_layers(network).values())
    heads = getattr(llm, "num_key_value_heads", None) or llm.num_attention_heads
    head_size = getattr(llm, "head_dim", None) or llm.hidden_size // llm.num_attention_heads
    return {
        "parameters": {**parameters, "total": total},
        "bytes": {
            "float32": 4 * total, "bfloat16": 2 * total,
            **{kind: round(2 * (total - small) + BYTES_OF[kind] * small) for kind in ("int8", "nf4")},
        },
        # products of weights and of attention, over all patches of a frame
        "encoder_flops": 2 * encoder * num_patches + 4 * layers * vision.hidden_size * num_patches**2,
        "vision": {
            "layers": layers, "width": vision.hidden_size, "image_size": config.image_size,
            "patch_size": patch, "grid": config.grid,
            "channels": config.feature_size,
        },
        "language": {
            "type": llm.model_type, "layers": llm.num_hidden_layers, "width": llm.hidden_size,
            "vocabulary": llm.vocab_size,
        },
        "template": config.template,
        "any_shape": config.any_shape,
        "small_frames": config.small_frames,
        "memory": [
            {"level": k, **asdict(level), "tokens_per_frame": level.num_tokens}
            for k, level in enumerate(memory.levels)
        ],
        "memory_tokens": memory.max_tokens,
        "memory_values": memory.max_cells * config.feature_size,
        "memory_16_9": _oblong(config, memory) if config.any_shape else None,
        "kv_cache_values_per_token": 2 * llm.num_hidden_layers * heads * head_size,
        "note": config.note,
    }  # fmt: skip


def _oblong(config: Facts, memory: MemoryConfig) -> dict[str, Any]:
    """What a camera of 16:9 costs: [rows, columns] of each level's maps, and tokens at most."""
    grids = memory.grids_on(stream_grid(9, 16, config.grid), config.grid)
    tokens = sum(level.capacity * h * w for level, (h, w) in zip(memory.levels, grids, strict=True))
    return {"grids": [list(grid) for grid in grids], "tokens": tokens}


def facts_as_text(name: str, facts: dict[str, Any]) -> str:
    vision, language = facts["vision"], facts["language"]
    lines = [name, "", "part             parameters"]
    lines += [f"{part:16} {count:>13,}" for part, count in facts["parameters"].items()]
    sizes = {kind: size / 1e9 for kind, size in facts["bytes"].items()}
    lines += [
        f"weights: {sizes['bfloat16']:.3f} GB in bfloat16, {sizes['float32']:.3f} GB in float32; with --quantize int8 "
        f"{sizes['int8']:.3f}, nf4 {sizes['nf4']:.3f}",
        "",
        f"vision    {vision['layers']} layers of {vision['width']}; squares of {vision['image_size']} px"
        f"{', or pictures of another shape and less area,' * facts['any_shape']} in patches of "
        f"{vision['patch_size']}; gives {vision['grid']}x{vision['grid']} maps of {vision['channels']} channels",
        f"language  {language['type']}, {language['layers']} layers of {language['width']}, {language['vocabulary']:,} "
        f"words; template {facts['template']}",
        "",
        "level  grid   every  capacity  tokens a frame",
    ]
    lines += [
        f"{row['level']:5}  {row['grid']:>2}x{row['grid']:<2}  {row['every']:5}  {row['capacity']:8}  "
        f"{row['tokens_per_frame']:14}"
        for row in facts["memory"]
    ]
    small = "pooled: averaged maps, which VideoChat-Online was trained on; the encoder takes pictures of one size"
    lines.append("")
    if oblong := facts["memory_16_9"]:
        shown = ", ".join(f"{rows}x{columns}" for rows, columns in oblong["grids"])
        lines.append(f"16:9 camera: maps of {shown}, at most {oblong['tokens']} visual tokens; squares cost the most")
        small = "encoded as smaller pictures, which the family was trained on (or --small-frames pooled)"
    lines.append(f"small frames: {small}")
    values, cache = facts["memory_values"], facts["kv_cache_values_per_token"]
    lines += [
        f"memory: at most {facts['memory_tokens']} visual tokens, {values * 4 / 2**20:.2f} MiB in float32, "
        f"{values * 2 / 2**20:.2f} MiB in bfloat16",
        f"KV cache: {cache * 2 / 1024:.1f} KiB a token in bfloat16, "
        f"{cache * 2 * facts['memory_tokens'] / 2**20:.1f} MiB for a full memory",
        f"a frame: {facts['vision']['grid'] ** 2} tokens whole, {facts['encoder_flops'] / 1e9:,.1f} GFLOP to encode, "
        f"so {1e12 / facts['encoder_flops']:,.1f} frames a second for each TFLOP/s that a device reaches",
        "docs/models.md compares models by what they need",
    ]
    return "\n".join(lines + ([f"note: {facts['note']}"] if facts["note"] else []))
