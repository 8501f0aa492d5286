"""Which families of other people's models there are, by the `model_type` of config.json, and how they are loaded.

A family's adapter says how its pictures become maps and maps become rows; held.py does the rest.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ...config import PUBLISHED_GRID
from ..backbone import HeldFacts
from ..videochat import CheckpointError, as_weights_of, check_keys, one_line, only_said
from .held import HeldModel, as_maps, pixels_of, square


class InternVLHF(HeldModel):
    """`InternVLForConditionalGeneration`: InternVL3 and 3.5, also their mixture-of-experts models.

    The same network as ours by other names: pooling stands before the connector, as in VideoChat-Online's training.
    """

    TEMPLATE = "internvl-hf"
    LAYERS = "encoder.layer"

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        vision = config.vision_config
        size, ratio = square(vision, "image_size"), config.downsample_ratio
        return size, int(size // square(vision, "patch_size") * ratio), int(vision.hidden_size / ratio**2)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        config, pixels = self.config.own, pixels_of(self, pixel_values)
        layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
        seen = self.vision_model(pixel_values=pixels, output_hidden_states=layer != -1)
        features = seen.last_hidden_state if layer == -1 else seen.hidden_states[layer]
        features = features[:, 1:] if strategy == "default" else features
        side = round(features.shape[1] ** 0.5)
        whole = features.reshape(len(features), side, side, -1)
        return as_maps(self.held.model.pixel_shuffle(whole, scale_factor=config.downsample_ratio), self.config.grid)

    def to_text(self, rows: torch.Tensor) -> torch.Tensor:
        return self.connector(as_weights_of(self.connector, rows))


class LlavaOneVision(HeldModel):
    """`LlavaOnevisionForConditionalGeneration`. Frames are shown as those of a video: projected, and halved to 14 x 14.

    Its own video ends with one newline token behind the last frame; a stream has no last frame, so there is none.
    """

    TEMPLATE = "llava-onevision"
    IDLE = ("post_layernorm", "head")

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        vision = config.vision_config
        size = square(vision, "image_size")
        side = size // square(vision, "patch_size")
        return size, -(-side // 2), config.get_text_config().hidden_size

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        config = self.config.own
        states = self.vision_model(pixels_of(self, pixel_values), output_hidden_states=True).hidden_states
        layers = config.vision_feature_layer
        chosen = [layers] if isinstance(layers, int) else layers
        features = torch.cat([states[layer] for layer in chosen], dim=-1)
        features = features[:, 1:] if config.vision_feature_select_strategy == "default" else features
        return as_maps(self.held.model.apply_pooling(self.connector(features)), self.config.grid)


class SmolVLM(HeldModel):
    """`SmolVLMForConditionalGeneration`: pooling stands before the projection, which is one matrix."""

    TEMPLATE = "smolvlm"
    PARTS = ("vision_model", "connector", "text_model")

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        vision, scale = config.vision_config, config.scale_factor
        size = square(vision, "image_size")
        return size, size // square(vision, "patch_size") // scale, vision.hidden_size * scale**2

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pixels, patch = pixels_of(self, pixel_values), square(self.config.own.vision_config, "patch_size")
        num, _, height, width = pixels.shape
        whole = torch.ones(num, height // patch, width // patch, dtype=torch.bool, device=pixels.device)
        features = self.vision_model(pixel_values=pixels, patch_attention_mask=whole).last_hidden_state
        return as_maps(
            self.held.model.connector.pixel_shuffle(features, self.config.own.scale_factor), self.config.grid
        )

    def to_text(self, rows: torch.Tensor) -> torch.Tensor:
        return self.held.model.connector.modality_projection(as_weights_of(self.connector, rows))


class Qwen3VL(HeldModel):
    """`Qwen3VLForConditionalGeneration`, `Qwen3VLMoeForConditionalGeneration`: positions in three directions (M-RoPE).

    Frames are shown as pictures: a patch of two moments is made of one frame twice, as the family does with a picture.
    Maps are taken behind the merger; the deepstack features of earlier layers stand behind them.
    """

    TEMPLATE = "qwen3-vl"
    ANY_SHAPE = True
    PARTS = ("visual", "", "language_model")
    LAYERS = "blocks"

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        """These encoders take any size; pictures are made so large that a square one's map has the published grid."""
        vision = config.vision_config
        size = square(vision, "patch_size") * vision.spatial_merge_size * PUBLISHED_GRID
        num_deep = len(getattr(vision, "deepstack_visual_indexes", None) or ())
        return size, PUBLISHED_GRID, config.get_text_config().hidden_size * (1 + num_deep)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        vision = self.config.own.vision_config
        patch, merge, moments = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        patches = patches_of(pixels_of(self, pixel_values), patch, merge, moments)
        num, height, width = len(pixel_values), pixel_values.shape[2] // patch, pixel_values.shape[3] // patch
        grids = torch.tensor([[1, height, width]] * num, device=patches.device)
        seen = self.vision_model(patches, grid_thw=grids)
        rows = torch.cat([seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())], dim=-1)
        return rows.view(num, height // merge, width // merge, -1).permute(0, 3, 1, 2)  # (T, C, h, w)

    def connector_names(self) -> tuple[str, ...]:
        deep = len(getattr(self.vision_model, "deepstack_merger_list", ()))
        return "model.visual.merger", *(f"model.visual.deepstack_merger_list.{number}" for number in range(deep))

    @staticmethod
    def positions(num: int, spans: Sequence[tuple[int, int]], grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(4, 1, num). Row 0 counts tokens. Text advances the others (time, height, width) by 1; a picture of (h, w)
        tokens that begins at p takes (p, p + row, p + column), and what follows it goes on at p + max(h, w)."""
        rows = torch.arange(num).repeat(4, 1)
        done = at = 0  # tokens placed, and the position of the next
        for (start, num_tokens), (height, width) in zip(spans, grids, strict=True):
            rows[1:, done:start] = torch.arange(at, at + start - done)
            at, done = at + start - done, start + num_tokens
            cells = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
            rows[1, start:done] = at
            rows[2:, start:done] = at + cells
            at += max(height, width)
        rows[1:, done:] = torch.arange(at, at + num - done)
        return rows[:, None]


class Qwen25VL(Qwen3VL):
    """`Qwen2_5_VLForConditionalGeneration`: no deepstack, another template."""

    TEMPLATE = "qwen2.5-vl"


def patches_of(pixels: torch.Tensor, patch: int, merge: int, moments: int) -> torch.Tensor:
    """(T, 3, H, W) -> (T * patches, 3 * moments * patch * patch), the patches of one merged token behind each other."""
    num, colours, height, width = pixels.shape
    blocks = pixels.view(num, colours, height // patch // merge, merge, patch, width // patch // merge, merge, patch)
    ordered = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (T, h, w, merge, merge, 3, patch, patch)
    twice = ordered.unsqueeze(6).expand(*[-1] * 6, moments, -1, -1)
    return twice.reshape(-1, colours * moments * patch * patch)


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
        what = f"{folder / 'config.json'} does not describe a {model_type} model"
        raise CheckpointError(f"{what}: {one_line(error)}") from error


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
