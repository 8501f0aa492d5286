"""The one formula from bytes to the numbers that the encoder takes. Knows neither pictures nor networks."""

from __future__ import annotations

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]


def scale_and_shift(mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (3, 1, 1) each: normalised = byte * scale + shift, in this order."""
    means, deviations = torch.tensor([mean, std], dtype=torch.float64).view(2, 3, 1, 1)
    return (1 / (255 * deviations)).float(), (-means / deviations).float()


def normalised(pixels: torch.Tensor, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> torch.Tensor:
    """uint8 (T, 3, H, W) -> float32, computed where the bytes are: bit for bit what FrameTransform gives."""
    scale, shift = (numbers.to(pixels.device, non_blocking=True) for numbers in scale_and_shift(mean, std))
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(shift)
