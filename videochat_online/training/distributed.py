"""From our settings to transformers' TrainingArguments: how many processes, who holds what, which number format.

torchrun tells each process its place through the environment (WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, ...).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import lacks
from ..shipped import shipped
from .arguments import STRATEGIES, SettingError, TrainingConfig

if TYPE_CHECKING:
    from transformers import TrainingArguments


def world_size() -> int:
    """Processes of this run, as torchrun has it; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def uses_cpu(config: TrainingConfig) -> bool:
    import torch

    return config.cpu or not torch.cuda.is_available()


def uses_bf16(config: TrainingConfig) -> bool:
    """Whether the run computes in bfloat16. `auto` never does on the CPU, where bfloat16 is very slow."""
    import torch

    if config.precision == "auto":
        return not uses_cpu(config) and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def zero_stage(config: TrainingConfig) -> int:
    """The ZeRO stage of --strategy; 0 without DeepSpeed."""
    if config.strategy in ("ddp", "fsdp"):
        return 0
    return int(deepspeed_settings(config)["zero_optimization"]["stage"])


def deepspeed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The DeepSpeed file of --strategy. Raises SettingError where there is none or it sets no ZeRO stage."""
    named = config.strategy in STRATEGIES
    path = shipped(f"shell/deepspeed/{config.strategy}.json") if named else Path(config.strategy)
    try:
        settings = json.loads(path.read_text("utf-8"))
        settings["zero_optimization"]["stage"]
    except OSError as error:
        raise SettingError(f"--strategy {config.strategy}: {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        where = f"--strategy {config.strategy}: {path}"
        raise SettingError(f"{where} sets no zero_optimization.stage ({error!r})") from error
    return settings


def check_packages(config: TrainingConfig) -> None:
    """Raise SettingError for what the settings need and this machine lacks; for a package with its install command."""
    needed = {"tensorboard": config.tracker == "tensorboard", "wandb": config.tracker == "wandb"}
    needed["peft"] = "lora" in config.vision + config.llm
    needed["deepspeed"] = config.strategy not in ("ddp", "fsdp")
    for package, is_needed in needed.items():
        if is_needed and (problem := lacks(package)):
            raise SettingError(f"for these settings {problem}")
    if config.strategy == "fsdp" and uses_cpu(config):
        raise SettingError("--strategy fsdp needs CUDA devices: on the CPU transformers would quietly train with ddp")


def check_launcher(config: TrainingConfig) -> None:
    """Raise SettingError where processes must be started by torchrun and were not."""
    if config.strategy != "ddp" and "WORLD_SIZE" not in os.environ:
        raise SettingError(
            f"--strategy {config.strategy} needs torchrun, also for one process: "
            "torchrun --nproc-per-node N -m videochat_online.training ..."
        )


def trainer_arguments(config: TrainingConfig, accumulation: int) -> TrainingArguments:
    """The TrainingArguments of these settings; making them joins the process group under torchrun."""
    from transformers import TrainingArguments

    on_cpu = uses_cpu(config)
    if config.strategy not in ("ddp", "fsdp") and on_cpu:
        _prepare_deepspeed_on_cpu()
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    settings: dict[str, Any] = dict(
        output_dir=config.output_dir,
        seed=config.seed,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=accumulation,
        bf16=uses_bf16(config),
        use_cpu=on_cpu,
        dataloader_num_workers=config.num_workers,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=config.keep_checkpoints,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # a loss that is not a number is to be seen
        report_to="wandb" if config.tracker == "wandb" else "none",  # TensorBoard's curves are monitor.Curves
        run_name=config.run_folder.name,
        disable_tqdm=not is_main_process(),
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_backend="gloo" if on_cpu and world_size() > 1 else None,
        ddp_find_unused_parameters=False,
        **{checkpointing: config.gradient_checkpointing and config.strategy != "fsdp"},
        **{f"{checkpointing}_kwargs": {"use_reentrant": False}},
        **_sharding(config),
    )
    return TrainingArguments(**settings)


def _sharding(config: TrainingConfig) -> dict[str, Any]:
    if config.strategy == "ddp":
        return {}
    if config.strategy == "fsdp":
        settings = {"version": 2, "state_dict_type": "FULL_STATE_DICT"}  # wraps the layers the model names itself
        return {"fsdp": True, "fsdp_config": settings | {"activation_checkpointing": config.gradient_checkpointing}}
    return {"deepspeed": deepspeed_settings(config)}


def _prepare_deepspeed_on_cpu() -> None:
    """DeepSpeed's shared-memory operator would be compiled for minutes on first use; gloo does without it."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
