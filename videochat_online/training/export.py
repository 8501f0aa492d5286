"""The trained model as a folder that `load_model` and others' programs read: public layout, LoRA merged, tokenizer; and
with its card on the hub (--push-to-hub).

Pairs trained above a quantized model are merged into its weights as they were before that, read again. With --export
adapter the folder holds what was trained alone.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from safetensors.torch import save_file

from .. import __version__
from ..data.settings import SettingError
from ..extras import hub_errors_named
from ..files import flush_tree, replace_folder
from ..model.backbone import TRAINED_HERE, Roles
from ..model.backbones.held import as_module
from ..model.weights import load_pretrained, without_weights
from ..model_config import VideoChatOnlineConfig
from .checkpoints import full_disk_named
from .configuration import TrainingConfig
from .distributed import uses_bf16
from .log import LOG_FILE
from .parts import ADAPTER, LENGTHS, PAIR_A, lora_config, merge_lora
from .state import TrainState, sampled

FOLDER = "model"
ADAPTER_FILE = "adapter_model.safetensors"
STAGING = ".saving-model"
LOCAL = ("output_dir", "data", "frame_cache", "model", "resume")
"""Settings that would tell others the folders of this machine."""
CARD = """# {name}

{kind}, trained from `{base}` with videochat-online {version}.

Data sets, each as often as its list repeats it: {sets}.
Steps: {steps}. Mean loss of the run: {loss:.4f}. Settings that differ from the defaults:

```json
{settings}
```
"""


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
    short = {key: key.replace(f"{LENGTHS}weight", LENGTHS.removesuffix(f".{ADAPTER}.")) for key in weights}
    names = {key: f"base_model.model.{one.replace(f'.{ADAPTER}.', '.')}" for key, one in short.items()}  # peft's
    save_file({names[key]: weight.contiguous() for key, weight in weights.items()}, folder / ADAPTER_FILE)


def check_hub(config: TrainingConfig, *, create: bool = False) -> None:
    """Raise SettingError where the model could not be pushed: no token; with `create` the repository is made too."""
    if config.push_to_hub and get_token() is None:
        raise SettingError(f"--push-to-hub {config.push_to_hub}: there is no token: set HF_TOKEN, or `hf auth login`")
    if config.push_to_hub and create:
        with _errors_named(config):
            HfApi().create_repo(config.push_to_hub, private=config.private, exist_ok=True)
            HfApi().auth_check(config.push_to_hub, write=True)  # the call above passes where it is there already


def push(
    folder: Path, config: TrainingConfig, sets: dict[str, dict[str, Any]], num_steps: int, mean_loss: float
) -> str:
    """Write the card of the model in `folder` and upload all of it; gives its address. Raises SettingError."""
    usual = TrainingConfig().to_dict()
    settings = {name: one for name, one in config.to_dict().items() if one != usual[name] and name not in LOCAL}
    is_on_hub = "/" in config.model and not Path(config.model).exists()
    base = config.model if is_on_hub else Path(config.model).name
    data = ModelCardData(
        base_model=base if is_on_hub else None, pipeline_tag="video-text-to-text", library_name="videochat-online"
    )
    text = CARD.format(
        name=config.push_to_hub.split("/")[1],
        base=base,
        version=__version__,
        kind="An adapter" if config.export == "adapter" else "A model",
        sets=", ".join(f"{name} (x {one['repeat_time']})" for name, one in sets.items()),
        steps=num_steps,
        loss=mean_loss,
        settings=json.dumps(settings, indent=1, ensure_ascii=False),
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
    with _errors_named(config, f"; the model is in {folder}: `hf upload {config.push_to_hub} {folder}` tries again"):
        return str(HfApi().upload_folder(repo_id=config.push_to_hub, folder_path=folder).repo_url)


def _errors_named(config: TrainingConfig, more: str = "") -> AbstractContextManager[None]:
    return hub_errors_named(f"--push-to-hub {config.push_to_hub}: the hub refused", SettingError, more)
