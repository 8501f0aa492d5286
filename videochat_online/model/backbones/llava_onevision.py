"""LLaVA-OneVision. Frames are shown as it shows those of a video: projected, and halved to 14 x 14 tokens.

Its own video ends with one newline token behind the last frame; a stream has no last frame, so there is none.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from .held import HeldModel, as_maps, pixels_of, square


class LlavaOneVision(HeldModel):
    """`LlavaOnevisionForConditionalGeneration`."""

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
