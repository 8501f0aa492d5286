"""Qwen2.5-VL and Qwen3-VL, also its mixture-of-experts models: positions in three directions (M-RoPE).

Frames are shown as pictures: a patch of two moments is made of one frame twice, as the family does with a picture.
Maps are taken behind the merger, and for Qwen3-VL the deepstack features of earlier layers stand behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig

from ...config import PUBLISHED_GRID
from .held import HeldModel, pixels_of, square


class Qwen3VL(HeldModel):
    """`Qwen3VLForConditionalGeneration`, `Qwen3VLMoeForConditionalGeneration`."""

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
