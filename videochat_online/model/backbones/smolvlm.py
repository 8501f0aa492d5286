"""SmolVLM2 and SmolVLM: small models for laptops. Pooling stands before the projection, which is one matrix."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from ..videochat import as_weights_of
from .held import HeldModel, as_maps, pixels_of, square


class SmolVLM(HeldModel):
    """`SmolVLMForConditionalGeneration`."""

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
