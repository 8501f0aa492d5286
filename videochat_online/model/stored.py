"""What lies in a checkpoint's folder: weight files, the sizes in config.json, tensors under wrapped names, adapters.

Everything is checked before memory is taken: names and sizes come from headers. An adapter (the package peft's layout)
is applied only where it was asked for by name. Builds no network, knows no family.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..extras import require
from .videochat import CheckpointError, one_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SINGLE, PICKLED = "model.safetensors", "pytorch_model*.bin"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SIZE = re.compile(
    r"(?!dynamic_|use_|do_|is_|has_)(.*_)?(size|dim|heads|depth|experts|channels)|(num|max)\w*_(layers|embeddings)"
)
"""Keys of a config.json that say how large something is."""
NEEDED = re.compile(
    r"(spatial_|temporal_)?(hidden|vocab|intermediate|patch|merge|image)_size|num_hidden_layers|depth|num_(\w+_)?heads|\w+_channels"
)
"""Those of which there is at least one."""
MOST_LAYERS, MOST = 1000, 2**24
"""Larger numbers are no model's; the product of those that pass is compared with the weights that are there."""
FLOATS = ("F64", "F32", "F16", "BF16")
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+")
"""What data parallelism, torch.compile and peft put before a tensor's name."""
WRAPPED_PART = re.compile(r"^(vision_model|language_model)\.base_model\.model\.")
"""Parts that InternVL's training gives to peft one by one."""
PAIR = re.compile(r"(.+)\.lora_(A|B)\.(?:\w+\.)?weight")
INTERNVL_SCALE = 2.0
"""alpha / rank of the pairs that InternVL's own training leaves unmerged: its alpha is twice the rank."""
RANKS = {"vision_model": "use_backbone_lora", "language_model": "use_llm_lora"}
"""Part -> the key of InternVL's config.json that holds the rank of its pairs."""


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, expected a JSON object")
    return values


def check_config_sizes(values: dict[str, Any], file: Path, path: str = "") -> None:
    """Raise CheckpointError for a size that is no whole number, or that no model has."""
    for key, value in values.items():
        if isinstance(value, dict):
            check_config_sizes(value, file, f"{path}{key}.")
        elif value is not None and SIZE.fullmatch(key):
            most = MOST_LAYERS if key.endswith(("layers", "depth")) else MOST
            least = 1 if NEEDED.fullmatch(key) else 0
            for number in value if isinstance(value, list) else [value]:
                if type(number) is not int or not least <= number <= most:
                    expected = f"a whole number from {least} to {most}"
                    raise CheckpointError(f"{file}: {path}{key} is {value!r}, expected {expected}")


def weight_files(folder: Path, allow_pickle: bool = False) -> list[Path]:
    """The files that hold a checkpoint's weights. Raises CheckpointError, saying what is there and what is not."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (index := folder / INDICES[0]).is_file():
        return _shards(index)
    pickled = sorted(folder.glob(PICKLED))
    if not pickled:
        raise CheckpointError(f"{folder} holds no weights (model.safetensors, or its shards with an index)")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({', '.join(file.name for file in pickled)}), which can run code "
            "when they are read; convert them to safetensors, or pass allow_pickle=True (they are then read with "
            "weights_only)"
        )
    index = folder / INDICES[1]
    return _shards(index) if index.is_file() else pickled


def _shards(index: Path) -> list[Path]:
    """The files that an index names. A name leads nowhere but into its folder: it may come from anybody."""
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{index} names no weight files: it has no weight_map")
    folder = index.parent
    shards = sorted(set(map(str, named.values())))
    for shard in shards:
        # Links are followed: a hub's local copy keeps files and index in one place elsewhere.
        places = (folder.resolve(), index.resolve().parent)
        if not any((folder / shard).resolve().is_relative_to(place) for place in places):
            raise CheckpointError(f"{index} names a weight file outside its folder: {shard!r}; put the file into it")
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise CheckpointError(f"{folder} lacks {len(absent)} of {len(shards)} weight files: {', '.join(absent)}")
    return [folder / shard for shard in shards]


class StoredTensors:
    """Names and shapes of all tensors in safetensors files, from their headers. `CheckpointError` for what is wrong."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.shapes: dict[str, list[int]] = {}
        self.types: dict[str, str] = {}
        self._file_of: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  it is no mapping
                        if name in self._file_of:
                            raise CheckpointError(f"tensor {name} stands in {self._file_of[name]} and in {file}")
                        part = opened.get_slice(name)
                        self.shapes[name], self.types[name] = part.get_shape(), part.get_dtype()
                        self._file_of[name] = file
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"cannot read {file}: {error}; it may be cut off: fetch it again") from error

    @property
    def num_values(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def are_wrapped(self) -> bool:
        """Whether other programs put something around the model's own names."""
        return any(plain_name(name) != name or PAIR.fullmatch(name) for name in self.shapes)

    def check_types(self, folder: Path) -> None:
        """Raise CheckpointError where weights are no floating-point numbers, as those of a quantized checkpoint."""
        held = [name for name in self.types if name.endswith((".weight", ".bias"))]  # not tables of positions
        odd = sorted(name for name in held if self.types[name] not in FLOATS)
        if odd:
            raise CheckpointError(
                f"{folder} holds {len(odd)} tensors of type {self.types[odd[0]]} ({odd[0]}, ...), and its config.json "
                "has no quantization_config that says how to read them: take the checkpoint that is not quantized"
            )

    def plain(self, config: dict[str, Any]) -> dict[str, torch.Tensor]:
        """All tensors under the model's own names, InternVL's pairs added to their weights. Mapped, not read, until
        used. CheckpointError where two get one name, and for pairs whose scale `config` (config.json) does not say."""
        found: dict[str, torch.Tensor] = {}
        for file in dict.fromkeys(self._file_of.values()):
            for name, tensor in load_file(file).items():
                if (plain := plain_name(name)) in found:
                    raise CheckpointError(f"{file}: {name} is stored a second time, as {plain}")
                found[plain] = tensor
        pairs = {(match[1], match[2]): name for name in found if (match := PAIR.fullmatch(name))}
        for (stem, side), name in pairs.items():
            if side == "A":
                down, up = found.pop(name), found.pop(pairs.get((stem, "B"), ""), None)
                weight = found.get(f"{stem}.weight")
                rank = config.get(RANKS.get(stem.split(".")[0], ""))
                if up is None or weight is None or rank != len(down):
                    raise CheckpointError(
                        f"{file.parent} holds LoRA pairs that are not merged ({name}), and its config.json does "
                        "not say their rank (use_llm_lora, use_backbone_lora): merge them where they were trained"
                    )
                found[f"{stem}.weight"] = (weight.float() + INTERNVL_SCALE * (up.float() @ down.float())).to(
                    weight.dtype
                )
        return found


def plain_name(name: str) -> str:
    """A tensor's name without what wrappers put before it and, where pairs stand beside a layer, into it."""
    return WRAPPED_PART.sub(r"\1.", WRAPPERS.sub("", name)).replace(".base_layer.", ".")


# ---- adapters -------------------------------------------------------------------------------------------------------


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
        raise CheckpointError(f"the adapter {folder} does not fit this model: {one_line(error)}") from error
    if odd := sorted([*result.missing_keys, *result.unexpected_keys]):
        raise CheckpointError(
            f"the adapter {folder} does not fit this model: {len(result.missing_keys)} of its tensors are missing, "
            f"{len(result.unexpected_keys)} have no place ({odd[0]}, ...)"
        )
    with torch.no_grad():
        if merge:
            adapted.merge_and_unload(safe_merge=False)
    network.eval()
