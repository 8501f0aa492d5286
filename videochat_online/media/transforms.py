"""Pictures to tensors: PIL-equal bicubic resize plus normalisation in one pass, and dynamic tiles of still images.

Knows neither files nor models: a size, a mean and a deviation are all it needs.
Letters: T frames, H W pixels, 3 RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..config import is_same_shape
from ..pixels import IMAGENET_MEAN, IMAGENET_STD, Channels, scale_and_shift
from .picture import rgb_array

Picture = Image.Image | np.ndarray
"""A PIL image of any mode, or uint8 (H, W, 3) RGB."""

Size = tuple[int, int]
"""Height and width, pixels."""
FILTERS = ("bicubic", "bilinear", "lanczos")


@dataclass(frozen=True)
class FrameTransform:
    """Resize to (size, size) as PIL's filter does, scale to 0..1, subtract `mean`, divide by `std`.

    Asked for a `Size` instead, it keeps a picture's shape: one of another shape stands whole between black bars.

    The resize runs on the bytes as they come from the decoder, channels last, where torch has a vectorised
    antialiasing kernel with PIL's arithmetic: 99 bytes of 100 are PIL's, the others differ by 1, rarely by 2.
    `videochat-online bench stream` measures it against PIL and numpy.
    """

    size: int
    """Side of the square output, pixels."""
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    filter: str = "bicubic"
    """bicubic, bilinear or lanczos; the last is PIL's own, for which torch has no kernel."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"FrameTransform.size must be a number of pixels >= 1, got {self.size!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need 3 numbers, std > 0, got mean={self.mean}, std={self.std}")
        if self.filter not in FILTERS:
            raise ValueError(f"FrameTransform.filter must be one of {', '.join(FILTERS)}, got {self.filter!r}")

    def __call__(self, frame: Picture) -> torch.Tensor:
        """float32 (3, size, size). ValueError for anything but a picture."""
        return self.batch([frame])[0]

    def batch(self, frames: Sequence[Picture], size: Size | None = None) -> torch.Tensor:
        """float32 (T, 3, size, size), or (T, 3, H, W) where a size is given; the frames may differ in size."""
        scale, shift = self._scale_and_shift
        out = torch.empty(len(frames), 3, *(size or (self.size, self.size)))
        for row, frame in zip(out, frames, strict=True):  # frame by frame: each stays in the processor's cache
            shown = _framed(_pixels(frame), size, self.filter) if size else self.bytes_of(frame)
            row.copy_(shown).mul_(scale).add_(shift)
        return out

    def smaller(self, pixels: torch.Tensor, size: Size) -> torch.Tensor:
        """Transformed pictures (T, 3, H, W) at another size, as if their bytes had been resized, wherever they are.

        (With bicubic for lanczos, for which torch has no kernel.)
        """
        if pixels.shape[2:] == size:
            return pixels
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        filter = "bicubic" if self.filter == "lanczos" else self.filter
        resized = F.interpolate(pixels * std + mean, size=size, mode=filter, antialias=True)
        return ((255 * resized).round_().clamp_(0, 255) / 255 - mean) / std

    def resize(self, frame: Picture) -> np.ndarray:
        """The first step alone: uint8 (size, size, 3). Transforming it gives what transforming the frame does.

        The encoder takes the bytes as well: training sends a quarter as much to the device, which normalises them.
        """
        return np.ascontiguousarray(self.bytes_of(frame).permute(1, 2, 0).numpy())

    def bytes_of(self, frame: Picture) -> torch.Tensor:
        """The same as uint8 (3, size, size), over the frame's own bytes where it has this size."""
        return _resized(_pixels(frame), (self.size, self.size), self.filter)

    @cached_property
    def _scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        return scale_and_shift(self.mean, self.std)


def tile_grid(width: int, height: int, *, size: int, min_num: int = 1, max_num: int = 12) -> tuple[int, int]:
    """(cols, rows), min_num <= cols * rows <= max_num, whose shape is nearest to width / height.

    Of equally near grids the one with more tiles wins as long as the image has more than half its pixels.

    >>> tile_grid(800, 600, size=448)
    (4, 3)
    """
    if min(width, height, size, min_num) < 1 or max_num < min_num:
        got = f"{width}x{height}, size={size}, min_num={min_num}, max_num={max_num}"
        raise ValueError(f"a grid needs positive sizes and 1 <= min_num <= max_num, got {got}")
    sides = range(1, max_num + 1)
    grids = [(cols, rows) for cols in sides for rows in sides if min_num <= cols * rows <= max_num]
    best, nearest = (1, 1), float("inf")
    for cols, rows in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)):
        distance = abs(width / height - cols / rows)
        is_filled = width * height > 0.5 * size * size * cols * rows
        if distance < nearest or (distance == nearest and is_filled):
            best, nearest = (cols, rows), distance
    return best


def dynamic_tiles(
    image: Image.Image, *, size: int, min_num: int = 1, max_num: int = 12, use_thumbnail: bool = True
) -> list[Image.Image]:
    """The image cut into size x size tiles, row by row, and after more than one tile the whole image as the last.

    The image is stretched to the grid of `tile_grid` first (bicubic).
    """
    cols, rows = tile_grid(*image.size, size=size, min_num=min_num, max_num=max_num)
    stretched = image.resize((cols * size, rows * size), Image.Resampling.BICUBIC)
    corners = [(col * size, row * size) for row in range(rows) for col in range(cols)]
    tiles = [stretched.crop((left, top, left + size, top + size)) for left, top in corners]
    if use_thumbnail and len(tiles) > 1:
        tiles.append(image.resize((size, size), Image.Resampling.BICUBIC))
    return tiles


def _pixels(frame: Picture) -> torch.Tensor:
    """uint8 (3, H, W) over the frame's own bytes: channels last in memory."""
    writable = np.require(rgb_array(frame), requirements=["C", "W"])  # torch does not take read-only memory
    return torch.from_numpy(writable).permute(2, 0, 1)


def _resized(pixels: torch.Tensor, size: Size, filter: str) -> torch.Tensor:
    """(3, H, W) -> (3, *size), uint8."""
    if pixels.shape[1:] == size:
        return pixels
    if filter == "lanczos":
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        return _pixels(picture.resize(size[::-1], Image.Resampling.LANCZOS))
    return F.interpolate(pixels[None], size=size, mode=filter, antialias=True)[0]


def _framed(pixels: torch.Tensor, size: Size, filter: str) -> torch.Tensor:
    """(3, H, W) -> (3, *size), uint8: stretched where it nearly has this shape, else whole between black bars."""
    (height, width), (rows, columns) = pixels.shape[1:], size
    if is_same_shape(width / height, columns / rows):
        return _resized(pixels, size, filter)
    scale = min(rows / height, columns / width)
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    bars = (left, columns - inner[1] - left, top, rows - inner[0] - top)
    return F.pad(_resized(pixels, inner, filter), bars)
