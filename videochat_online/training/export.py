"""The trained model as a folder that `load_model` and others' programs read: public layout, LoRA merged, tokenizer.

Pairs trained above a quantized model are merged into its weights as they were before that, read again. With --export
adapter the folder holds what was trained alone.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files import flush_tree, replace_folder
from ..model_config import VideoChatOnlineConfig
from .checkpoints import full_disk_named
from .configuration import TrainingConfig
from .distributed import uses_bf16
from .log import LOG_FILE
from .parts import ADAPTER, LENGTHS, PAIR_A, lora_config, merge_lora
from .state import TrainState, sampled

if TYPE_CHECKING:
    from ..model.backbone import Roles

FOLDER = "model"
ADAPTER_FILE = "adapter_model.safetensors"
STAGING = ".saving-model"


def export(state: TrainState, config: TrainingConfig) -> Path:
    """Write a run's model into its folder model/, whole or not at all. For all processes together.

    Raises ValueError where the disk takes no more and where nothing was learned.
    """
    folder, weights = config.run_folder / FOLDER, state.weights()
    if state.accelerator.is_main_process:
        auto = "bfloat16" if uses_bf16(config) else "float32"
        dtype = getattr(torch, auto if config.export_dtype == "auto" else config.export_dtype)
        check_weights_changed(state.begun, weights, config, dtype)
        # 1. what is written: merged weights as a model, or those that were trained
        trained = {name: weights[name].detach().cpu() for name in state.trained}
        is_adapter = config.export == "adapter"
        whole = None if is_adapter else merged_model(state.model, weights, trained, config, dtype)
        # 2. its files, under the published keys, which transformers writes
        staged = config.run_folder / STAGING
        with full_disk_named(folder, config.run_folder, staged):
            shutil.rmtree(staged, ignore_errors=True)
            if whole is None:
                staged.mkdir()
                write_adapter(
                    staged, {name: weight.to(dtype) for name, weight in trained.items()}, config, state.model.roles
                )
            else:
                whole.save_pretrained(staged)
            if state.processor is not None:
                state.processor.save_pretrained(staged)
            flush_tree(staged)
            replace_folder(staged, folder)
    state.accelerator.wait_for_everyone()
    return folder


def merged_model(
    model: Any,
    weights: dict[str, torch.Tensor],
    trained: dict[str, torch.Tensor],
    config: TrainingConfig,
    dtype: torch.dtype,
) -> Any:
    """A model like `model` of merged weights on the CPU, without the note on what it began as."""
    from transformers.integrations import unset_hf_deepspeed_config

    from ..model.backbone import TRAINED_HERE
    from ..model.backbones.trained import as_module
    from ..model.weights import load_pretrained, without_weights

    if config.quantize != "none":
        base = as_module(load_pretrained(config.model, device="cpu", dtype="float32"))
        weights = {**base.state_dict(), **trained}
    weights = {key: weight.to("cpu", dtype) for key, weight in merge_lora(weights, config, model.roles.vision).items()}
    model_config = copy.deepcopy(model.config)
    if isinstance(model_config, VideoChatOnlineConfig):
        model_config.note = None
    else:
        setattr(model_config.own, TRAINED_HERE, "squares, averaged")
    unset_hf_deepspeed_config()  # with ZeRO-3 transformers would share even these out, which is for all processes
    plain = as_module(without_weights(model_config))
    plain.load_state_dict(weights, strict=True, assign=True)
    plain.tie_weights()
    return plain.to(dtype)  # buffers too


def check_weights_changed(
    begun: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], config: TrainingConfig, dtype: torch.dtype
) -> None:
    """Raise ValueError where no weight is another than before, in the type they are written in, or one is no number.

    Args:
        begun: values that were `sampled` before the first step of the run's first life.
    """
    log = f"{config.run_folder / LOG_FILE} has the losses"
    for name in begun:
        if not bool(weights[name].isfinite().all()):
            raise ValueError(f"no model is written: the trained {name} holds values that are not numbers; {log}")
    ended = sampled({name: weights[name] for name in begun})
    if all(torch.equal(ended[name].to(dtype), values.to(dtype)) for name, values in begun.items()):
        rate = f"--learning-rate {config.learning_rate:g}"
        raise ValueError(f"no model is written: training changed no weight ({rate}); {log}")


def write_adapter(folder: Path, weights: Mapping[str, torch.Tensor], config: TrainingConfig, roles: Roles) -> None:
    """Write LoRA pairs and the connector as `peft.PeftModel.from_pretrained` reads them.

    Args:
        weights: those that train, under the model's own keys, in the dtype they are written in.
    """
    from safetensors.torch import save_file

    pairs = [key.removesuffix(f"{PAIR_A}weight") for key in weights if PAIR_A in key]
    part = {name: config.part("vision" if name.startswith(f"{roles.vision}.") else "llm")[1] for name in pairs}
    rank, alpha = part[pairs[-1]]
    lora_config(
        config,
        [rank, alpha],
        pairs,
        base_model_name_or_path=config.model,
        inference_mode=True,
        rank_pattern={name: int(numbers[0]) for name, numbers in part.items() if numbers[0] != rank},
        alpha_pattern={name: numbers[1] for name, numbers in part.items() if numbers[1] != alpha},
        modules_to_save=list(roles.connector) if config.connector == "full" else None,
    ).save_pretrained(str(folder))
    save_file({peft_key(key): weight.contiguous() for key, weight in weights.items()}, folder / ADAPTER_FILE)


def peft_key(key: str) -> str:
    """A trained weight's name in an adapter's file."""
    short = key.replace(f"{LENGTHS}weight", LENGTHS.removesuffix(f".{ADAPTER}."))
    return f"base_model.model.{short.replace(f'.{ADAPTER}.', '.')}"
