"""Frames that are images already: a folder or a list of pictures, an animated gif, one still image.

Nothing here is video; PIL reads everything, one picture at a time.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from .picture import begin_image, upright_rgb
from .source import A_WHOLE_IMAGE, MediaError, VideoReader, check_file, reading

IMAGE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm"),
        *(".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
A_FOLDER = f"a folder of images ({' '.join(sorted(IMAGE_SUFFIXES))})"
AN_IMAGE = "an image file"
SHORTEST_DELAY = 20
"""Milliseconds; a gif's shorter (mostly zero) delays mean `USUAL_DELAY`, as in browsers and FFmpeg."""
USUAL_DELAY = 100

ImageSource = str | os.PathLike[str] | Image.Image


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image as RGB, upright and over white: see `picture.upright_rgb`.

    MediaError if it is missing, empty, broken or no image.
    """
    path = Path(path)
    check_file(path, AN_IMAGE)
    with begin_image(path, path) as image:
        return upright_rgb(image, path)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts 1, 2, 10 as people do.

    >>> sorted(["10.jpg", "2.jpg", "1.jpg"], key=natural_key)
    ['1.jpg', '2.jpg', '10.jpg']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def images_of_folder(folder: Path) -> list[Path]:
    """The folder's image files in natural order, hidden files left out. MediaError if there are none."""
    with reading(folder, "cannot be read", A_FOLDER, errors=OSError):
        paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise MediaError.about(folder, "holds no images", A_FOLDER)
    return sorted(paths, key=lambda path: (natural_key(path.name), path.name))


class ImageListReader(VideoReader):
    """Images `fps` a second apart. A file is opened when its frame is read; `size` (W, H) resizes (bicubic)."""

    def __init__(
        self, name: str, images: Sequence[ImageSource], *, fps: float = 1.0, size: tuple[int, int] | None = None
    ) -> None:
        if not images:
            raise MediaError.about(name, "holds no images", "at least one image")
        self._images = images
        self._resize_to = size
        first = size or _load(images[0]).size
        num_images = len(images)
        super().__init__(name, np.arange(num_images) / fps, fps=float(fps), duration=num_images / fps, size=first)

    def _image(self, index: int) -> np.ndarray:
        try:
            image = _load(self._images[index])
        except MediaError as error:
            raise MediaError(f"{self.name}: frame {index} cannot be read: {error}") from error
        return _as_array(image, self._resize_to)


class AnimationReader(VideoReader):
    """An image file whose frames have their own delays (gif, webp, png).

    The frames are built on one another: going back starts again from the first.
    """

    def __init__(self, path: Path, *, size: tuple[int, int] | None = None) -> None:
        self._file = begin_image(path, path)
        try:
            with reading(path, "is broken", A_WHOLE_IMAGE):
                delays = [frame.info.get("duration") for frame in ImageSequence.Iterator(self._file)]
        except MediaError:
            self._file.close()
            raise
        self._resize_to = size
        ends = np.cumsum([_delay(delay) for delay in delays], dtype=np.float64) / 1000
        times = np.concatenate([[0.0], ends[:-1]])
        duration = float(ends[-1])
        super().__init__(str(path), times, fps=len(times) / duration, duration=duration, size=size or self._file.size)

    def _release(self) -> None:
        self._file.close()

    def _image(self, index: int) -> np.ndarray:
        with reading(self.name, f"frame {index} cannot be decoded", A_WHOLE_IMAGE):
            self._file.seek(index)
            self._file.load()
        return _as_array(upright_rgb(self._file, self.name), self._resize_to)


def open_image_file(path: Path, *, size: tuple[int, int] | None = None) -> VideoReader:
    """The frames of an animation, or the one frame of a still image. MediaError if there is none."""
    open_image(path)  # says what is wrong, if anything
    with begin_image(path, path) as image, reading(path, "is broken", A_WHOLE_IMAGE):
        is_animated = getattr(image, "is_animated", False)
    return AnimationReader(path, size=size) if is_animated else ImageListReader(str(path), [path], size=size)


def _load(image: ImageSource) -> Image.Image:
    return upright_rgb(image) if isinstance(image, Image.Image) else open_image(image)


def _as_array(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 (H, W, 3), the caller's own copy."""
    return np.array(image if size is None else image.resize(size, Image.Resampling.BICUBIC))


def _delay(said: object) -> float:
    """Milliseconds a frame is shown, by what its file says: anything, where a damaged or odd file says it."""
    if isinstance(said, int | float) and SHORTEST_DELAY <= said < math.inf:
        return said
    return USUAL_DELAY
