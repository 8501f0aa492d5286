"""An adapter in the layout of the package peft: the folder that holds it, and putting it into a network.

Applied only where it was asked for by name. Knows no family: which of a network's layers it changes, it says itself.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..extras import require
from .stored import INDICES, SINGLE, read_object
from .videochat import CheckpointError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def base_of(folder: Path) -> str | None:
    """The model that an adapter's folder names; None for a folder that holds a model, or no adapter.

    Raises CheckpointError where the adapter names none.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file() or any((folder / name).is_file() for name in (SINGLE, *INDICES)):
        return None
    base = read_object(file).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise CheckpointError(
            f"{folder} is an adapter that does not name its model: give that with --model and the adapter with --lora"
        )
    return base


def apply_adapter(network: Any, folder: Path, *, merge: bool) -> None:
    """Put the adapter in `folder` into `network`, in place; with `merge` into its weights, else beside them.

    Beside quantized weights it stays beside: that is what it was trained with. Raises CheckpointError where it is not
    whole or does not fit, ImportError with the install command where peft is missing.
    """
    require("peft")
    from peft import PeftConfig, PeftModel

    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} holds no {ADAPTER_WEIGHTS}; pickled adapters are not read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names in transformers that peft still uses
            config: Any = PeftConfig.from_pretrained(str(folder))
            if config.is_prompt_learning:
                raise CheckpointError(
                    f"{folder} is an adapter of type {config.peft_type.value}, which cannot be merged"
                )
            if getattr(network, "is_loaded_in_8bit", False) and getattr(config, "use_dora", False):
                raise CheckpointError(f"{folder}: DoRA beside weights of 8 bits is not supported: take nf4, or none")
            config.inference_mode = True
            adapted: Any = PeftModel(network, config)
            result = adapted.load_adapter(str(folder), "default", torch_device=str(network.device))
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the adapter {folder} does not fit this model: {' '.join(str(error).split())}"
        ) from error
    if odd := sorted([*result.missing_keys, *result.unexpected_keys]):
        raise CheckpointError(
            f"the adapter {folder} does not fit this model: {len(result.missing_keys)} of its tensors are missing, "
            f"{len(result.unexpected_keys)} have no place ({odd[0]}, ...)"
        )
    with torch.no_grad():
        if merge:
            adapted.merge_and_unload(safe_merge=False)
    network.eval()
