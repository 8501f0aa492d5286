"""`videochat-online tiny-model FAMILY DIR`: a random model of a family's real structure, a few hundred kilobytes.

It says nonsense, but everything that the real model runs through is there: its class of transformers, its layout on
disk, its tokens and its prompt. The tests stand on these folders, and a user can try commands before a download.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 8192, "initializer_range": 0.2,
    "bos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 8, "initializer_range": 0.2,
}  # fmt: skip
QWEN_VISION = {
    "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4, "out_hidden_size": 64,
    "initializer_range": 0.2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "internvl": (
        "internvl-hf",
        {
            "vision_config": {**SIGLIP, "layer_scale_init_value": 0.5, "attention_bias": True},
            "text_config": {
                "model_type": "qwen2",
                **TEXT,
                "rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 2.0},
            },
        },
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "resample": 3,
            **IMAGENET,
            "size": {"height": 64, "width": 64},
        },
    ),
    "qwen3_vl": (
        "qwen3-vl",
        {
            "vision_config": {**QWEN_VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
            "text_config": {**TEXT, "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        },
        {"image_processor_type": "Qwen2VLImageProcessor", **HALF, "patch_size": 4, "merge_size": 2},
    ),
    "qwen3_vl_moe": (
        "qwen3-vl",
        {
            "vision_config": {**QWEN_VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
            "text_config": {
                **TEXT,
                **MOE,
                "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
            },
        },
        {"image_processor_type": "Qwen2VLImageProcessor", **HALF, "patch_size": 4, "merge_size": 2},
    ),
    "qwen2_5_vl": (
        "qwen2.5-vl",
        {
            "vision_config": {**QWEN_VISION, "window_size": 32, "fullatt_block_indexes": [1]},
            "text_config": {**TEXT, "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2]}},
        },
        {"image_processor_type": "Qwen2VLImageProcessor", **CLIP, "patch_size": 4, "merge_size": 2},
    ),
    "smolvlm": (
        "smolvlm",
        {
            "vision_config": SIGLIP,
            "text_config": {"model_type": "llama", **TEXT, "rope_parameters": ROPE},
            "scale_factor": 2,
        },
        {"image_processor_type": "SmolVLMImageProcessor", "resample": 1, **HALF},
    ),
    "llava_onevision": (
        "llava-onevision",
        {
            "vision_config": {"model_type": "siglip_vision_model", **SIGLIP, "vision_use_head": False},
            "text_config": {"model_type": "qwen2", **TEXT, "rope_parameters": ROPE},
        },
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "resample": 3,
            **HALF,
            "size": {"height": 64, "width": 64},
        },
    ),
}
"""model_type -> name of its template, config.json, and the image processor's settings."""


def add_tiny_model_command(commands: Any) -> None:
    parser = commands.add_parser(
        "tiny-model",
        help="write a random model of another family's structure, to try commands without a download",
        description="Write a random model with the real structure of a family of transformers' models. Its answers "
        "mean nothing; loading, memory, prompts and speed of the program around it can be tried.",
        epilog="example: videochat-online tiny-model qwen3_vl tiny-qwen && videochat-online info tiny-qwen",
    )
    parser.add_argument("family", choices=sorted(FAMILIES), metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("folder", type=Path, metavar="DIR", help="new or empty")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the random weights")
    parser.add_argument("--width", type=int, default=64, metavar="D", help="of the language model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=3, metavar="L", help="of the language model")
    what = "side of a picture, a multiple of 64, where the family has a fixed one; more pixels, more tokens a frame"
    parser.add_argument("--pixels", type=int, default=64, metavar="PX", help=what)
    parser.set_defaults(run=run_tiny_model)


def run_tiny_model(options: argparse.Namespace) -> int:
    if options.folder.exists() and any(options.folder.iterdir()):
        raise ValueError(f"{options.folder} is not empty: give a new folder")
    for name in ("width", "pixels"):
        if not 64 <= (value := getattr(options, name)) <= 8192 or value % 64:
            raise ValueError(f"--{name} must be a multiple of 64, up to 8192, got {value}")
    if not 1 <= options.layers <= 100:
        raise ValueError(f"--layers must be from 1 to 100, got {options.layers}")
    sizes = {"width": options.width, "num_layers": options.layers, "pixels": options.pixels}
    write_tiny_model(options.family, options.folder, seed=options.seed, **sizes)
    print(f"{options.folder}: a random {options.family} model; it knows nothing")
    return 0


def write_tiny_model(
    family: str, folder: Path, *, seed: int = 0, width: int = 64, num_layers: int = 3, pixels: int = 64
) -> None:
    """Weights, config.json, tokenizer and the image processor's settings into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from ..processing import load_tokenizer, save_tokenizer
    from ..prompt.messages import get_template

    # 1. the small tokenizer with this family's marks
    name, values, settings = FAMILIES[family]
    template, tokenizer = get_template(name), load_tokenizer("pocket")
    tokenizer.add_tokens([*template.marks, *template.stop_marks, "<video>"], special_tokens=True)
    tokenizer.eos_token = template.end
    # 2. the model, whose ids are that tokenizer's
    ids = dict(zip(("image_token_id", "video_token_id"), _ids(tokenizer, (template.image, "<video>")), strict=True))
    text = {**values["text_config"], "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"hidden_size": width, "intermediate_size": width * 3 // 2, "num_hidden_layers": num_layers}
    text |= {"num_attention_heads": width // 16, "num_key_value_heads": width // 32}
    text["initializer_range"] *= (64 / width) ** 0.5
    vision = dict(values["vision_config"])
    vision |= {"image_size": pixels} if "image_size" in vision else {"out_hidden_size": width}
    values, settings = {**values, "vision_config": vision}, dict(settings)
    if "size" in settings:
        settings["size"] = {"height": pixels, "width": pixels}
    if family == "llava_onevision":
        ids = {key.replace("_id", "_index"): value for key, value in ids.items()}
    config = AutoConfig.for_model(family, **{**values, **ids, "text_config": {**text, "pad_token_id": 0}})
    torch.manual_seed(seed)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    # 3. the files beside it
    save_tokenizer(tokenizer, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1))


def _ids(tokenizer: Any, marks: Sequence[str]) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(mark)) for mark in marks]
