"""InternVL3 and 3.5 in transformers' own layout (`-hf`), also their mixture-of-experts models.

The same network as ours by other names: pooling stands before the connector, as in VideoChat-Online's training.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from ..videochat import as_weights_of
from .held import HeldModel, as_maps, pixels_of, square


class InternVLHF(HeldModel):
    """`InternVLForConditionalGeneration`."""

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
