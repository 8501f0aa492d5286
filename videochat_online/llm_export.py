"""`videochat-online export-llm`: a model's language model alone, as a folder that vLLM's server loads."""

from __future__ import annotations

import argparse
import copy
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import flush_tree, replace_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_export_command(commands: Any) -> None:
    parser = commands.add_parser(
        "export-llm",
        help="write a model's language model for vLLM (serve, chat and eval with --engine vllm)",
        description="Write a model's language model, and its tokenizer, as a folder that vLLM's server loads. Prints "
        "the command that starts it; serve, chat and eval reach it with --engine vllm.",
        epilog="example: videochat-online export-llm pocket pocket-llm",
    )
    parser.add_argument("model", help="'pocket', a folder, or a hub id, of InternVL's own layout")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write; it must not be there yet")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> int:
    """Write the folder, whole or not at all. ValueError for a model that vLLM would compute differently."""
    from .model.engine import engine_positions, served_name
    from .model.weights import find_checkpoint, load_facts, load_pretrained, own_layout
    from .processing import load_tokenizer

    # 1. what is exported, in the type it is stored in
    if options.folder.exists():
        raise ValueError(f"{options.folder} is there already: name a folder that is not")
    config = own_layout(load_facts(options.model), options.model)
    model: Any = load_pretrained(options.model, device="cpu", dtype=config.dtype or "auto")
    # 2. its files
    options.folder.parent.mkdir(parents=True, exist_ok=True)
    staged = options.folder.with_name(f".{options.folder.name}.staged")
    try:
        as_others_know_it(model.language_model).save_pretrained(staged)
        load_tokenizer(options.model).save_pretrained(staged)
        flush_tree(staged)
        replace_folder(staged, options.folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    # 3. how it is started
    most, name = engine_positions(config.llm_config), served_name(find_checkpoint(options.model))
    print(f"written: {options.folder}; start vLLM, in an environment of its own, with\n")
    print(f"python -m vllm.entrypoints.openai.api_server --model {shlex.quote(str(options.folder))} \\")
    print(f"  --served-model-name {name} --enable-prompt-embeds --enable-prompt-tokens-details \\")
    print(f"  --generation-config vllm --max-model-len {most} --host 127.0.0.1 --port 8000")
    return 0


def as_others_know_it(language_model: PreTrainedModel) -> PreTrainedModel:
    """The language model as a class and config of transformers alone: InternLM2 as the Llama that it is, and dynamic
    NTK, which vLLM has for all lengths or for none, as plain factors up to the trained length."""
    import torch
    import transformers

    config = copy.deepcopy(language_model.config)
    rope = config.rope_parameters
    if config.model_type == "internlm2":
        values = config.to_dict()
        values.pop("model_type")
        config = transformers.LlamaConfig(**values)
    if rope["rope_type"] == "dynamic":
        config.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    kind: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        plain = kind.from_config(config)
    plain.load_state_dict(language_model.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = transformers.GenerationConfig.from_model_config(config)
    return plain
