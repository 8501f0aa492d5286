"""A checkpoint's name -> the model, on its device, in its dtype. One clear error for everything that can be wrong.

Finds the folder (or fetches it from the hub), refuses what could run code, leaves reading to transformers.
"""

from __future__ import annotations

import copy
import logging
import pickle
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.initialization import no_init_weights

from ..config import BYTES_OF
from ..extras import hub_errors_named, require
from ..files import SHIPPED_MODELS
from ..model_config import VideoChatOnlineConfig
from .backbone import Backbone, Facts, HeldFacts
from .backbones.families import FAMILIES, PICTURE_SETTINGS, UNBUILDABLE, empty_held, held_facts, load_held
from .backbones.held import HeldModel
from .engine import Engine, VideoChatAtEngine
from .stored import (
    ADAPTER_CONFIG,
    PICKLED,
    StoredTensors,
    apply_adapter,
    base_of,
    check_config_sizes,
    read_object,
    weight_files,
)
from .videochat import CheckpointError, VideoChatOnline, one_line, only_said

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NO_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja")
"""Files of a checkpoint beside its weights: configuration and tokenizer."""
FETCHED = (*NO_WEIGHTS, "*.safetensors")
TABLE = re.compile(r"^(?!.*CONVERSION).*LOAD REPORT", re.DOTALL)
NF4_BLOCK = 64
"""Weights of a row that share a scale."""
ENOUGH = 10**8
"""Values: a model that is larger than its files by more than this, and by a multiple, is not the one in them."""
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Options that go to huggingface_hub's snapshot_download."""


def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    attn_implementation: str = "auto",
    quantization_config: Any = None,
    quantize: str = "none",
    device_map: Any = None,
    adapter: str | Path | None = None,
    allow_pickle: bool = False,
    read: bool = True,
    engine: Engine | None = None,
    **hub: Any,
) -> Backbone:
    """The network of `load_model`, in evaluation mode; the arguments are explained there. `hub` holds HUB_OPTIONS.

    Without `read`, and without quantization: see `set_aside`. A device map takes the place of `device`. With `engine`
    the language model runs there, and its layers are not loaded. Raises EngineError for an engine that cannot be used,
    CheckpointError for anything wrong with the checkpoint, ValueError for a device that is not there, ImportError for
    a package that is not installed.
    """
    if device_map is not None and device != "auto":
        raise ValueError(f"give a device or a device_map, not both: device={device!r}, device_map={device_map!r}")
    if not read and quantization_config is None and quantize == "none":
        return set_aside(load_facts(name, **hub), choose_dtype(dtype, on_cpu=True), attn_implementation)
    # 1. what is there, and whether it fits together, from headers alone
    folder = find_checkpoint(name, allow_pickle=allow_pickle, **hub)
    facts = _facts(folder)
    tensors = _stored(folder, facts, allow_pickle)
    # 2. where it goes, and as what
    target = choose_device(device)
    number = choose_dtype(dtype, on_cpu=target.type == "cpu")
    if quantize != "none":
        quantization_config = quantization(quantize, facts, number, on_cpu=target.type == "cpu")
    if device_map is None and (target.type != "cpu" or quantization_config is not None):
        device_map = {"": target}
    attention = None if attn_implementation == "auto" else attn_implementation
    options: dict[str, Any] = {"dtype": number, "attn_implementation": attention, "device_map": device_map}
    options["use_safetensors"] = None if allow_pickle else True
    options |= {} if quantization_config is None else {"quantization_config": quantization_config}
    # 3. the network, with its adapter
    chosen = adapter_folder(name, adapter, hub)
    if engine is not None and (chosen or tensors is not None or quantization_config is not None):
        what = "an engine runs the model as it lies in its folder"
        raise CheckpointError(f"{name}: {what}: without an adapter, quantization or another layout of the weights")
    model = _read(folder, facts, tensors, options, engine)
    return _checked(model, folder, chosen, merge=quantization_config is None)


def _stored(folder: Path, facts: Facts, allow_pickle: bool) -> dict[str, torch.Tensor] | None:
    """Tensors under the model's own names, where transformers would not find them there by itself; else None.

    Raises CheckpointError for files that cannot be this model's.
    """
    files = weight_files(folder, allow_pickle)
    if files[0].suffix != ".safetensors":
        return None
    stored, config = StoredTensors(files), read_object(folder / "config.json")
    if "quantization_config" not in config:
        stored.check_types(folder)
    expected = sum(weight.numel() for part in without_weights(facts).parts.values() for weight in part.parameters())
    if expected > max(4 * stored.num_values, stored.num_values + ENOUGH):
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of {expected:,} parameters, and the weight files hold "
            f"{stored.num_values:,}: they are not of one model"
        )
    has_adapter = (folder / ADAPTER_CONFIG).is_file()
    if has_adapter:
        log.warning("%s also holds an adapter, which is not applied: --lora %s applies it", folder, folder)
    # Not from the folder where an adapter lies in it: transformers would apply it without a word.
    return stored.plain(config) if stored.are_wrapped or has_adapter else None


def _read(
    folder: Path, facts: Facts, tensors: dict[str, torch.Tensor] | None, options: dict[str, Any], engine: Engine | None
) -> VideoChatOnline | HeldModel:
    """The network with its weights, from the folder or from `tensors`. Raises CheckpointError."""
    source: Any = folder
    if tensors is not None:
        source, options = None, {**options, "state_dict": tensors}
        if isinstance(facts, VideoChatOnlineConfig):
            facts.use_llm_lora = facts.use_backbone_lora = 0  # merged: whoever loads what we save adds no pairs
    try:
        # all but transformers' table of missing and unexpected tensors: our error names them
        with only_said("transformers.modeling_utils", lambda one: not TABLE.search(one.getMessage())):
            if engine is not None:
                model: Any = VideoChatAtEngine.at(engine, folder, own_layout(facts, folder), **options)
            elif isinstance(facts, HeldFacts):
                model = load_held(source, folder, facts, **options)
            else:
                model = VideoChatOnline.from_pretrained(source, config=facts, **options)
            network_of(model).config.name_or_path = network_of(model).name_or_path = str(folder)
            return model
    except (SafetensorError, OSError, pickle.UnpicklingError, EOFError) as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {one_line(error)}") from error
    except NotImplementedError as error:  # torch's, of tensors that nothing was read into
        raise CheckpointError(f"{folder}: its weights are not those of the model in its config.json") from error


def _checked(model: Backbone, folder: Path, adapter: Path | None, *, merge: bool) -> Backbone:
    """The model with its adapter, all of whose weights are numbers. Raises CheckpointError."""
    if adapter:
        apply_adapter(network_of(model), adapter, merge=merge)
    check_finite(network_of(model), adapter or folder)
    return model


def check_finite(network: nn.Module, folder: Path) -> None:
    """Raise CheckpointError where a weight is no number or endless: every answer would be empty."""
    weights = {name: one for name, one in network.named_parameters() if one.is_floating_point() and not one.is_meta}
    sums = {name: weight.detach().sum(dtype=torch.float32) for name, weight in weights.items()}  # carries such values
    if odd := [name for name, total in sums.items() if not (total.isfinite() or weights[name].isfinite().all())]:
        raise CheckpointError(
            f"{folder}: {len(odd)} weights hold values that are no finite numbers ({', '.join(odd[:3])}): the "
            "training that made them went wrong, or their numbers do not fit into this --dtype"
        )


def quantization(kind: str, facts: Facts, dtype: torch.dtype | str, *, on_cpu: bool) -> Any:
    """How bitsandbytes holds the language model's linear layers: "int8" or "nf4". All else stays as it is.

    Raises ValueError for another kind and for widths that bitsandbytes cannot pack, ImportError with the command that
    installs it.
    """
    if kind not in BYTES_OF:
        raise ValueError(f"unknown quantization {kind!r}, expected one of none, {', '.join(BYTES_OF)}")
    require("bitsandbytes")
    widths = [facts.llm_config.hidden_size, facts.llm_config.intermediate_size]
    if kind == "nf4" and on_cpu and any(width % NF4_BLOCK for width in widths):
        raise ValueError(f"nf4 on the CPU needs widths that {NF4_BLOCK} divides, this model has {widths}: take int8")
    outline = without_weights(facts)
    linear = [name for name, one in network_of(outline).named_modules() if isinstance(one, nn.Linear)]
    return BitsAndBytesConfig(
        load_in_8bit=kind == "int8",
        load_in_4bit=kind == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
        llm_int8_skip_modules=sorted(set(linear) - quantized_layers(outline).keys()),
    )


def network_of(model: Any) -> Any:
    """The module of a backbone: itself, or what it holds."""
    return model if isinstance(model, nn.Module) else model.held


def quantized_layers(model: Backbone) -> dict[str, nn.Linear]:
    """The linear layers that --quantize makes small, by name: those inside the language model's layers."""
    linear = {name: one for name, one in network_of(model).named_modules() if isinstance(one, nn.Linear)}
    return {name: one for name, one in linear.items() if re.search(r"(language|text)_model\.(.+\.)?layers\.", name)}


def own_layout(facts: Facts, name: str | Path) -> VideoChatOnlineConfig:
    """`facts` of a model that an engine can run. Raises CheckpointError for one of another family."""
    if isinstance(facts, HeldFacts):
        what = f"{name} is of type {facts.model_type!r}, whose positions or pictures are more than embeddings say"
        raise CheckpointError(f"{what}: an engine runs models of type {VideoChatOnlineConfig.model_type!r}")
    return facts


def set_aside(config: Facts, dtype: torch.dtype | str, attn_implementation: str = "auto") -> Backbone:
    """A network on the CPU for weights that another process will hand over: no file is read, no memory touched yet."""
    attention = {} if attn_implementation == "auto" else {"attn_implementation": attn_implementation}
    with no_init_weights():  # not on the meta device, where buffers that are computed would be lost
        if isinstance(config, HeldFacts):
            return empty_held(config, dtype=dtype, **attention)
        model = VideoChatOnline._from_config(config, dtype=dtype, **attention)
    model.tie_weights()
    return model.eval()


def without_weights(facts: Facts) -> Backbone:
    """The network on the meta device: its shapes, whatever its size, and no memory. Raises CheckpointError."""
    try:
        with torch.device("meta"):
            if isinstance(facts, HeldFacts):
                return empty_held(facts)
            return VideoChatOnline(copy.deepcopy(facts))
    except UNBUILDABLE as error:
        folder = facts.own.name_or_path if isinstance(facts, HeldFacts) else facts.name_or_path
        raise CheckpointError(
            f"{folder}: config.json describes no network that can be built: {one_line(error)}"
        ) from error


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
    return _facts(find_folder(name, ["config.json", ADAPTER_CONFIG, *PICTURE_SETTINGS], hub))


def _facts(folder: Path) -> Facts:
    model_type = _model_type(folder)
    check_config_sizes(read_object(folder / "config.json"), folder / "config.json")
    if model_type not in FAMILIES:
        try:
            return VideoChatOnlineConfig.from_pretrained(folder)
        except UNBUILDABLE as error:
            raise CheckpointError(
                f"{folder / 'config.json'} describes no {model_type} model: {one_line(error)}"
            ) from error
    found = [read_object(folder / name) for name in PICTURE_SETTINGS if (folder / name).is_file()]
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
    weight_files(folder, allow_pickle)
    return folder


def find_folder(name: str | Path, patterns: Sequence[str], hub: dict[str, Any]) -> Path:
    """A model that ships, else a folder of that name, else a hub repository's files that match `patterns`.

    Of an adapter it is the folder of the model that the adapter names. What was fetched before is used offline. Raises
    ValueError for a misspelt name, CheckpointError where nothing is found.
    """
    folder = _named_folder(name, patterns, hub)
    if (base := base_of(folder)) is None:
        return folder
    what = f"{folder} is an adapter of the model {base!r}"
    hint = "give that model with --model and the adapter with --lora"
    try:
        found = _named_folder(base, patterns, {**hub, "revision": None})
    except ValueError as error:
        raise CheckpointError(f"{what}, which is not there ({error}); {hint}") from error
    if base_of(found) is not None:
        raise CheckpointError(f"{what}, which is an adapter itself; {hint}")
    return found


def adapter_folder(name: str | Path, adapter: str | Path | None, hub: dict[str, Any]) -> Path | None:
    """The folder of the adapter that is to be applied: `adapter`, else `name` where it is one; None: there is none."""
    patterns = ["adapter_*"]
    named = _named_folder(name, patterns, hub)
    own = None if base_of(named) is None else named
    if adapter is None:
        return own
    folder = _named_folder(adapter, patterns, {**hub, "revision": None})
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"--lora {adapter}: there is no {ADAPTER_CONFIG} in {folder}")
    if own is not None and not own.samefile(folder):
        raise CheckpointError(f"--model {name} is an adapter, and --lora {adapter} another: only one can be applied")
    return folder


def _named_folder(name: str | Path, patterns: Sequence[str], hub: dict[str, Any]) -> Path:
    """As `find_folder`, but an adapter is an adapter."""
    if unknown := sorted(set(hub) - set(HUB_OPTIONS)):
        raise TypeError(f"unknown options {', '.join(unknown)}; for the hub there are {', '.join(HUB_OPTIONS)}")
    if not str(name).strip():
        raise CheckpointError("no model is named: the name is empty")
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
    with hub_errors_named(f"{tried}, and the hub (or its local copy) gave no such repository", CheckpointError):
        given = {key: value for key, value in hub.items() if value is not None}
        return Path(snapshot_download(str(name), allow_patterns=list(patterns), **given))


def _model_type(folder: Path) -> str:
    """Of config.json. Raises CheckpointError, which names the types that there are, for any other."""
    file, known = folder / "config.json", (VideoChatOnlineConfig.model_type, *FAMILIES)
    if not file.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it holds no config.json")
    model_type = read_object(file).get("model_type")
    if model_type not in known:
        expected = ", ".join(map(repr, known))
        raise CheckpointError(f"{file} describes a model of type {model_type!r}, expected one of {expected}")
    return str(model_type)
