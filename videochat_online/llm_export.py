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

COMMAND = """written: {folder}; start vLLM, in an environment of its own, with

python -m vllm.entrypoints.openai.api_server --model {quoted} \\
  --served-model-name {name} --enable-prompt-embeds --enable-prompt-tokens-details \\
  --generation-config vllm --max-model-len {most} --host 127.0.0.1 --port 8000"""


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
    """Write the folder, whole or not at all. ValueError for a model that an engine cannot run."""
    from transformers.utils.logging import disable_progress_bar

    from .model.engine import served_name
    from .model.language_model import steady_positions
    from .model.weights import adapter_folder, find_checkpoint, load_facts, load_pretrained, own_layout
    from .processing import load_tokenizer

    if options.folder.exists():
        raise ValueError(f"{options.folder} is there already: name a folder that is not")
    if adapter_folder(options.model, None, {}):  # its export would have the name of the model without it
        raise ValueError(f"{options.model} is an adapter: an engine runs a model's own weights; merge it first")
    disable_progress_bar()
    config = own_layout(load_facts(options.model), options.model)
    model: Any = load_pretrained(options.model, device="cpu", dtype=config.dtype or "auto")  # as it is stored
    staged = options.folder.with_name(f".{options.folder.name}.staged")
    staged.mkdir(parents=True, exist_ok=True)
    try:
        as_others_know_it(model.language_model).save_pretrained(staged)
        load_tokenizer(options.model).save_pretrained(staged)
        flush_tree(staged)
        replace_folder(staged, options.folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    name, most = served_name(find_checkpoint(options.model)), steady_positions(config.llm_config)
    print(COMMAND.format(folder=options.folder, quoted=shlex.quote(str(options.folder)), name=name, most=most))
    return 0


def as_others_know_it(language_model: PreTrainedModel) -> PreTrainedModel:
    """The language model as a class and config of transformers alone: InternLM2 as the Llama that it is, and dynamic
    NTK, which vLLM has for all lengths or for none, as plain factors up to the trained length."""
    import torch
    import transformers

    config: Any = copy.deepcopy(language_model.config)
    if config.model_type == "internlm2":
        values = {key: value for key, value in config.to_dict().items() if key != "model_type"}
        config = transformers.LlamaConfig(**values)
    if config.rope_parameters["rope_type"] == "dynamic":
        config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"]}
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(language_model.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = transformers.GenerationConfig.from_model_config(config)
    return plain
