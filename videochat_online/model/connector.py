"""From the encoder's channels to the language model's: pixel shuffle, then two linear layers.

N maps of (w, h) positions and c channels; D is the language model's width.
Source: InternVL 1.5, arXiv 2404.16821, section 3.1.
"""

from __future__ import annotations

import torch
from torch import nn

from ..model_config import VideoChatOnlineConfig


def pixel_shuffle(x: torch.Tensor, scale: float = 0.5, version: str = "v2") -> torch.Tensor:
    """Move neighbouring positions into the channels: (N, w, h, c) -> (N, w * scale, h * scale, c / scale**2).

    "v1" gives the map transposed, as the first InternVL models were trained. Raises ValueError for a map that does
    not divide into blocks, or an unknown version.
    """
    if version not in ("v1", "v2"):
        raise ValueError(f"unknown pixel shuffle {version!r}, expected v1 or v2")
    num, width, height, channels = x.shape
    block = round(1 / scale)
    if width % block or height % block:
        raise ValueError(f"a {width}x{height} map does not divide into blocks of {block}x{block} (scale {scale})")
    x = x.reshape(num, width // block, block, height // block, block, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(num, width // block, height // block, block * block * channels)
    return x if version == "v2" else x.transpose(1, 2)


def build_connector(config: VideoChatOnlineConfig) -> nn.Sequential:
    """`mlp1`: (num_tokens, C) -> (num_tokens, D), C the encoder's channels after the pixel shuffle."""
    channels, width = config.feature_size, config.llm_config.hidden_size
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
