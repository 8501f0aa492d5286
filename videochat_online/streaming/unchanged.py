"""Frames that look like the one before need not go through the encoder again: they take its features.

T frames of a batch, S the side of the transformed picture, C channels and (g, g) the grid of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .encoding import FrameEncoder


class UnchangedFrames:
    """Compares each frame with the last one that was encoded. `threshold` None: every frame is encoded."""

    def __init__(self, threshold: float | None, std: Sequence[float]) -> None:
        """`threshold`: mean absolute difference over all pixels, of 255; `std` of the transform, to undo it."""
        if threshold is not None and not threshold > 0:
            raise ValueError(f"skip_below must be a difference of pixels above 0 (of 255), got {threshold!r}")
        self.threshold = threshold
        self._scale = 255 * torch.tensor(std).view(3, 1, 1)
        self.reset()

    def reset(self) -> None:
        self._pixels: torch.Tensor | None = None  # (3, S, S) of the last encoded frame
        self._features: torch.Tensor | None = None  # (1, C, g, g)

    def encode(self, pixels: torch.Tensor, encoder: FrameEncoder) -> tuple[torch.Tensor, int]:
        """Features (T, C, g, g) of pixels (T, 3, S, S), and how many frames were not encoded for them."""
        if self.threshold is None:
            return encoder.encode(pixels), 0
        pixels = encoder.arrived(pixels)
        changed, sources = self._changed(pixels)
        parts = [] if self._features is None else [self._features]
        parts += [encoder.encode(pixels[changed])] if changed else []
        return torch.cat(parts)[sources], len(pixels) - len(changed)

    def remember(self, pixels: torch.Tensor, features: torch.Tensor) -> None:
        """What the next batch is compared with; call it once the features have been taken in."""
        if self.threshold is None:
            return
        changed, _ = self._changed(pixels)
        if changed:
            self._pixels, self._features = pixels[changed[-1]].clone(), features[changed[-1] : changed[-1] + 1].clone()

    def _changed(self, pixels: torch.Tensor) -> tuple[list[int], list[int]]:
        """Frames to encode; and for each frame its place among [last encoded frame, if any] + those."""
        last, known, scale = self._pixels, int(self._pixels is not None), self._scale.to(pixels.device)
        changed: list[int] = []
        sources: list[int] = []
        for number, frame in enumerate(pixels):
            if last is None or float(((frame - last).abs() * scale).mean()) >= (self.threshold or 0.0):
                changed.append(number)
                last = frame
            sources.append(known + len(changed) - 1)
        return changed, sources
