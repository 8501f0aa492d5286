"""A checkpoint's name -> the model, on its device, in its dtype. One clear error for everything that can be wrong.

Finds the folder (or fetches it from the hub), refuses what could run code, leaves reading to transformers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers.initialization import no_init_weights

from ..files import SHIPPED_MODELS
from ..model_config import VideoChatOnlineConfig
from .backbone import Backbone, Facts, HeldFacts
from .backbones.families import FAMILIES, PICTURE_SETTINGS, empty_held, held_facts, load_held
from .videochat import CheckpointError, VideoChatOnline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Files of a checkpoint beside its weights: configuration and tokenizer."""
FETCHED = (*NO_WEIGHTS, "*.safetensors")
PICKLED = "pytorch_model*.bin"
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Options that go to huggingface_hub's snapshot_download."""


def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "auto",
    quantization_config: Any = None,
    device_map: Any = None,
    allow_pickle: bool = False,
    read: bool = True,
    **hub: Any,
) -> Backbone:
    """The network of `load_model`, in evaluation mode; the arguments are explained there. `hub` holds HUB_OPTIONS.

    Without `read`, and without quantization: see `set_aside`. A device map takes the place of `device`. Raises
    CheckpointError for anything wrong with the checkpoint, ValueError for a device that is not there, ImportError for
    a package that is not installed.
    """
    if device_map is not None and device != "auto":
        raise ValueError(f"give a device or a device_map, not both: device={device!r}, device_map={device_map!r}")
    if not read and quantization_config is None:
        return set_aside(load_facts(name, **hub), choose_dtype(dtype, on_cpu=True), attn_implementation)
    folder = find_checkpoint(name, allow_pickle=allow_pickle, **hub)
    facts = _facts(folder)
    target = choose_device(device)
    if device_map is None and target.type != "cpu":
        device_map = {"": target}
    options: dict[str, Any] = {} if quantization_config is None else {"quantization_config": quantization_config}
    options |= {
        "dtype": choose_dtype(dtype, on_cpu=device_map is None),
        "attn_implementation": None if attn_implementation == "auto" else attn_implementation,
        "device_map": device_map,
        "use_safetensors": None if allow_pickle else True,
    }
    try:
        with _without_report():
            if isinstance(facts, HeldFacts):
                return load_held(folder, facts, **options)
            return VideoChatOnline.from_pretrained(folder, **options)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {error}") from error


def set_aside(config: Facts, dtype: torch.dtype | str, attn_implementation: str = "auto") -> Backbone:
    """A network on the CPU for weights that another process will hand over: no file is read, no memory touched yet."""
    attention = {} if attn_implementation == "auto" else {"attn_implementation": attn_implementation}
    with no_init_weights():  # not on the meta device, where buffers that are computed would be lost
        if isinstance(config, HeldFacts):
            return empty_held(config, dtype=dtype, **attention)
        model = VideoChatOnline._from_config(config, dtype=dtype, **attention)
    model.tie_weights()
    return model.eval()


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of missing and unexpected tensors: our error names them."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_news(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "LOAD REPORT" not in text or "CONVERSION" in text

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def without_weights(facts: Facts) -> Backbone:
    """The network on the meta device: its shapes, whatever its size, and no memory."""
    with torch.device("meta"):
        if isinstance(facts, HeldFacts):
            return empty_held(facts)
        return VideoChatOnline(facts)


def choose_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is the first GPU there is, else the CPU. ValueError where it is not there."""
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"unknown device {device!r}, expected auto, cpu, cuda, cuda:1, mps, ...") from error
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for CUDA
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {str(device)!r} cannot be used here ({reason}), expected auto or cpu") from error
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype, *, on_cpu: bool) -> torch.dtype | str:
    """What transformers should load as; its "auto" is the dtype in config.json, else that of the tensors.

    Ours is float32 on the CPU, where half precision is many times slower.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if on_cpu else "auto"
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}, expected auto or one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def load_facts(name: str | Path, **hub: Any) -> Facts:
    """What config.json of a folder or hub id says; of a repository no weights are fetched. Raises CheckpointError."""
    return _facts(find_folder(name, ["config.json", *PICTURE_SETTINGS], hub))


def load_config(name: str | Path, **hub: Any) -> VideoChatOnlineConfig:
    """As `load_facts`, for what needs a model of our own layout."""
    facts = load_facts(name, **hub)
    if not isinstance(facts, VideoChatOnlineConfig):
        own = VideoChatOnlineConfig.model_type
        raise CheckpointError(f"{name} is a model of type {facts.model_type!r}, expected {own!r} here")
    return facts


def _facts(folder: Path) -> Facts:
    model_type = _model_type(folder)
    if model_type not in FAMILIES:
        return VideoChatOnlineConfig.from_pretrained(folder)
    found = [_read_json(folder / name) for name in PICTURE_SETTINGS if (folder / name).is_file()]
    settings = [values.get("image_processor", values) for values in found]
    if not settings:
        raise CheckpointError(f"{folder} does not say how pictures are prepared: expected {PICTURE_SETTINGS[-1]}")
    return held_facts(folder, model_type, next((each for each in settings if "image_mean" in each), settings[0]))


def find_checkpoint(name: str | Path, *, allow_pickle: bool = False, **hub: Any) -> Path:
    """The folder of a checkpoint: `name` itself, or the local copy of a hub repository, fetched where needed.

    Raises CheckpointError, saying what was tried, unless it holds a config.json of ours and weights.
    """
    folder = find_folder(name, [*FETCHED, PICKLED] if allow_pickle else FETCHED, hub)
    _model_type(folder)
    _check_weight_files(folder, allow_pickle)
    return folder


def find_folder(name: str | Path, patterns: Sequence[str], hub: dict[str, Any]) -> Path:
    """A model that ships, else a folder of that name, else a hub repository's files that match `patterns`.

    What was fetched before is used offline. Raises ValueError for a misspelt name, CheckpointError where nothing is
    found.
    """
    if unknown := sorted(set(hub) - set(HUB_OPTIONS)):
        raise TypeError(f"unknown options {', '.join(unknown)}; for the hub there are {', '.join(HUB_OPTIONS)}")
    if str(name) in SHIPPED_MODELS:
        return SHIPPED_MODELS[str(name)]
    near = get_close_matches(str(name), SHIPPED_MODELS, n=1)
    if near and not Path(name).exists():
        raise ValueError(f"no model {str(name)!r}; did you mean {near[0]!r}, which ships with the package?")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    tried = f"no model {str(name)!r}: {folder.absolute()} is not a folder"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise CheckpointError(f"{tried}, and a hub id has the form owner/name")
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns), **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        why = " ".join(str(error).split())  # the hub's own errors go over several lines
        raise CheckpointError(f"{tried}, and the hub (or its local copy) gave no such repository: {why}") from error


def _model_type(folder: Path) -> str:
    """Of config.json. Raises CheckpointError, which names the types that there are, for any other."""
    file, known = folder / "config.json", (VideoChatOnlineConfig.model_type, *FAMILIES)
    if not file.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it holds no config.json")
    model_type = _read_json(file).get("model_type")
    if model_type not in known:
        expected = ", ".join(map(repr, known))
        raise CheckpointError(f"{file} describes a model of type {model_type!r}, expected one of {expected}")
    return str(model_type)


def _check_weight_files(folder: Path, allow_pickle: bool) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = set(_read_json(index).get("weight_map", {}).values())
        if not shards:
            raise CheckpointError(f"{index} names no weight files: it has no weight_map")
        if absent := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise CheckpointError(f"{folder} lacks {len(absent)} of {len(shards)} weight files: {', '.join(absent)}")
        return
    pickled = sorted(file.name for file in folder.glob(PICKLED))
    if not pickled:
        raise CheckpointError(f"{folder} holds no weights (model.safetensors, or its shards with an index)")
    if not allow_pickle:
        raise CheckpointError(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run code when they are read; "
            "convert them to safetensors, or pass allow_pickle=True (they are then read with weights_only)"
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, expected a JSON object")
    return values
