"""SmolVLM2 and SmolVLM: small models for laptops. Pooling stands before the projection, which is one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..backbone import map_rows
from ..videochat import as_weights_of
from .held import HeldModel, as_maps, pixels_of, square


class SmolVLM(HeldModel):
    """`SmolVLMForConditionalGeneration`."""

    TEMPLATE = "smolvlm"

    @classmethod
    def shape(cls, config: PreTrainedConfig) -> tuple[int, int, int]:
        vision, scale = config.vision_config, config.scale_factor
        size = square(vision, "image_size")
        return size, size // square(vision, "patch_size") // scale, vision.hidden_size * scale**2

    @property
    def vision_model(self) -> nn.Module:
        return self.held.model.vision_model

    @property
    def connector(self) -> nn.Module:
        return self.held.model.connector

    @property
    def text_model(self) -> nn.Module:
        return self.held.model.text_model

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pixels, patch = pixels_of(self, pixel_values), square(self.config.own.vision_config, "patch_size")
        num, _, height, width = pixels.shape
        whole = torch.ones(num, height // patch, width // patch, dtype=torch.bool, device=pixels.device)
        features = self.vision_model(pixel_values=pixels, patch_attention_mask=whole).last_hidden_state
        return as_maps(
            self.held.model.connector.pixel_shuffle(features, self.config.own.scale_factor), self.config.grid
        )

    def project(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = map_rows(features) or [torch.zeros(0, self.config.feature_size)]
        return self.held.model.connector.modality_projection(as_weights_of(self.connector, torch.cat(rows)))
