"""The media of one sample, opened: how they are laid out within a limit, and their pictures when asked for.

Video and still images behind one interface, so that a sample too long for the model can be laid out smaller.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ..media.readers import VideoReader, open_image, open_video
from ..media.transforms import Picture, dynamic_tiles, tile_grid
from ..model_config import VideoChatOnlineConfig
from .footage import Footage, open_footage, show
from .layout import Layout, lay_out_frames, lay_out_images
from .registry import DataSet
from .sample import Sample
from .settings import DataSettings

JPEG_QUALITIES = (75, 100)
"""Lowest and highest of augmentation, InternVL's."""


@dataclass(frozen=True)
class Prepared:
    """A layout, and how to get its pictures in order."""

    layout: Layout
    read: Callable[[], Iterator[Picture]]


class Material(Protocol):
    """Opened media."""

    @property
    def limit(self) -> int:
        """Pictures the settings allow: frames of a video, tiles of all still images together."""

    def prepare(self, limit: int) -> Prepared:
        """Laid out with at most `limit` pictures (and one of each still image at least). Decodes no video."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Film:
    """A video."""

    sample: Sample
    footage: Footage
    config: VideoChatOnlineConfig
    settings: DataSettings
    seed: str

    @property
    def limit(self) -> int:
        return self.settings.num_frames

    def prepare(self, limit: int) -> Prepared:
        rng = random.Random(f"{self.seed}/frames")
        showing = show(self.sample, self.footage, fps=self.settings.fps, max_frames=limit, rng=rng)
        times = self.settings.frame_times
        with_times = times == "always" or (times == "online" and self.sample.kind != "video")
        layout = lay_out_frames(self.sample, showing, self.config.memory_config, with_times=with_times)
        return Prepared(layout, partial(self._read, [frame.index for group in showing.frames for frame in group]))

    def close(self) -> None:
        self.footage.reader.close()

    def _read(self, indices: Iterable[int]) -> Iterator[Picture]:
        return (frame.image for frame in self.footage.reader.read(indices))


@dataclass(frozen=True)
class Stills:
    """Still images, each cut into tiles; none for a text. Several images share the tiles, as InternVL has it."""

    sample: Sample
    images: list[Image.Image]
    config: VideoChatOnlineConfig
    max_tiles: int

    @property
    def limit(self) -> int:
        return self.max_tiles if self.config.dynamic_image_size else 1

    def prepare(self, limit: int) -> Prepared:
        each = max(1, limit // max(1, len(self.images)))
        num_tiles = [self._num_tiles(image, each) for image in self.images]
        return Prepared(lay_out_images(self.sample, num_tiles, self.config.grid), partial(self._read, each))

    def close(self) -> None:
        return None

    def _num_tiles(self, image: Image.Image, most: int) -> int:
        cols, rows = tile_grid(*image.size, size=self.config.image_size, min_num=self._fewest(most), max_num=most)
        return cols * rows + (self.config.use_thumbnail and cols * rows > 1)

    def _read(self, most: int) -> Iterator[Picture]:
        for image in self.images:
            if most == 1:
                yield image  # the transform resizes it in one step
            else:
                size, thumbnail = self.config.image_size, self.config.use_thumbnail
                fewest = self._fewest(most)
                yield from dynamic_tiles(image, size=size, min_num=fewest, max_num=most, use_thumbnail=thumbnail)

    def _fewest(self, most: int) -> int:
        return min(self.config.min_dynamic_patch, most)


def open_material(
    sample: Sample,
    data_set: DataSet,
    config: VideoChatOnlineConfig,
    settings: DataSettings,
    *,
    seed: str,
    open_file: Callable[[Path], VideoReader] = open_video,
) -> Material:
    """Open the media of `sample`; `seed` decides its random choices. MediaError, SampleError: what is wrong."""
    if sample.video is not None:
        footage = open_footage(sample, data_set.data_root, open_file)
        return Film(sample, footage, config, settings, seed)
    images = [open_image(data_set.data_root / name) for name in sample.images]
    max_tiles = data_set.max_dynamic_patch or settings.max_dynamic_patch or config.max_dynamic_patch
    return Stills(sample, images, config, max_tiles)


def augment(pictures: Iterable[Picture], seed: str) -> Iterator[Picture]:
    """Each picture as a JPEG of a random quality would show it."""
    rng = random.Random(f"{seed}/augment")
    for picture in pictures:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=rng.randint(*JPEG_QUALITIES))
        yield np.asarray(Image.open(file).convert("RGB"))
