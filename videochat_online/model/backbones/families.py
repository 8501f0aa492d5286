"""Which families there are: the `model_type` of config.json -> the adapter, and how transformers' object is loaded."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..backbone import HeldFacts
from ..videochat import CheckpointError, check_keys, only_said
from .held import HeldModel
from .internvl_hf import InternVLHF
from .llava_onevision import LlavaOneVision
from .qwen_vl import Qwen3VL, Qwen25VL
from .smolvlm import SmolVLM

log = logging.getLogger(__name__)

FAMILIES: dict[str, type[HeldModel]] = {
    "internvl": InternVLHF,
    "qwen3_vl": Qwen3VL,
    "qwen3_vl_moe": Qwen3VL,
    "qwen2_5_vl": Qwen25VL,
    "smolvlm": SmolVLM,
    "llava_onevision": LlavaOneVision,
}
UNBUILDABLE = (
    StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RuntimeError, LookupError,
)  # fmt: skip
"""What transformers and torch raise for a config.json whose values do not go together."""
PICTURE_SETTINGS = ("processor_config.json", "preprocessor_config.json")
"""Where an image processor's settings may stand: transformers 5 nests them in the first."""


def held_facts(folder: Path, model_type: str, settings: dict[str, Any]) -> HeldFacts:
    """The facts of a checkpoint's folder, whose image processor has `settings`. Raises CheckpointError."""
    try:
        # its warnings are of marks beyond the vocabulary, which is ours to say
        with only_said("transformers.configuration_utils", lambda record: record.levelno >= logging.ERROR):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return FAMILIES[model_type].read_facts(config, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except UNBUILDABLE as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'config.json'} does not describe a {model_type} model: {why}") from error


def load_held(source: Path | None, folder: Path, facts: HeldFacts, **options: Any) -> HeldModel:
    """transformers' object of `folder`, in its adapter. `options` are those of from_pretrained.

    Tensors come from `source`, the folder, or where it is None from options["state_dict"].

    Raises CheckpointError where a tensor of the model is missing or has another shape. Tensors that it has no place for
    are named in a warning.
    """
    # Its class, not AutoModel: that one looks for an adapter in the folder, and applies it without a word.
    own_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(facts.own)]
    loaded: Any = own_class.from_pretrained(
        source,
        config=facts.own,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    held, info = loaded
    check_keys(str(folder), {**info, "unexpected_keys": ()})
    if unused := sorted(info["unexpected_keys"]):
        log.warning("%s holds %d tensors that its model does not use: %s", folder, len(unused), ", ".join(unused[:3]))
    return FAMILIES[facts.model_type](held, facts)


def empty_held(facts: HeldFacts, **options: Any) -> HeldModel:
    """The model without weights: to be called under torch's meta device, or without initialising."""
    held = AutoModelForImageTextToText.from_config(copy.deepcopy(facts.own), **options)
    held.tie_weights()
    return FAMILIES[facts.model_type](held, facts)
