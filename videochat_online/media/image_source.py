"""Frames that are images already: a folder or a list of pictures, an animated gif, one still image.

Nothing here is video; PIL reads everything, one picture at a time.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from PIL import Image

from .picture import MAX_PIXELS, begin_image, upright_rgb
from .shards import read_member, shard_of
from .source import A_WHOLE_IMAGE, MediaError, VideoReader, check_file, check_fps, reading

IMAGE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm"),
        *(".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
OTHER_PICTURES = frozenset(
    (
        *(".arw", ".cr2", ".dds", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif", ".ico", ".j2c", ".jpc"),
        *(".jxl", ".jxr", ".nef", ".pcx", ".psd", ".qoi", ".raw", ".sgi", ".svg", ".tga", ".wmf", ".xbm", ".xpm"),
    )
)
"""Suffixes of pictures that are not read. In a folder of frames they are an error: without them, later times shift."""
A_FOLDER = f"a folder of images ({' '.join(sorted(IMAGE_SUFFIXES))})"
AN_IMAGE = "an image file"
ANIMATIONS = re.compile(rb"GIF8|RIFF....WEBP|....ftypavi[fs]", re.DOTALL)
"""How files begin that are animations (or stills), whatever their names say."""
SHORTEST_DELAY = 20
"""Milliseconds; a gif's shorter (mostly zero) delays mean `USUAL_DELAY`, as in browsers and FFmpeg."""
USUAL_DELAY = 100
MAX_FRAMES = 10_000
"""Of an animation."""
MAX_ANIMATED_PIXELS = 2**30
"""Of all its frames together: opening decodes them once."""

ImageSource = str | os.PathLike[str] | Image.Image


def open_image(path: str | os.PathLike[str], *, strict: bool = False) -> Image.Image:
    """The image of a file as RGB: see `picture.upright_rgb`. MediaError also where it is missing or empty."""
    path = Path(path)
    in_shard = shard_of(path) is not None
    if not in_shard:
        check_file(path, AN_IMAGE)
    with begin_image(io.BytesIO(read_member(path)) if in_shard else path, path) as image:
        return upright_rgb(image, path, strict=strict)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts 1, 2, 10 as people do.

    >>> sorted(["10.jpg", "2.jpg", "1.jpg"], key=natural_key)
    ['1.jpg', '2.jpg', '10.jpg']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def images_of_folder(folder: Path) -> list[Path]:
    """The folder's image files in natural order, hidden files left out.

    MediaError if there are none, or pictures of a kind that is not read.
    """
    with reading(folder, "cannot be read", A_FOLDER, errors=OSError):
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    unread = sorted(path.name for path in files if path.suffix.lower() in OTHER_PICTURES)
    if unread:
        what = f"holds {len(unread)} pictures that cannot be read ({shorten(', '.join(unread), 200)})"
        raise MediaError.about(folder, what, A_FOLDER)
    paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise MediaError.about(folder, "holds no images", A_FOLDER)
    return sorted(paths, key=lambda path: (natural_key(path.name), path.name))


class ImageListReader(VideoReader):
    """Images `fps` a second apart. A file is opened when its frame is read; `size` (W, H) resizes (bicubic)."""

    def __init__(
        self,
        name: str,
        images: Sequence[ImageSource],
        *,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
        strict: bool = False,
    ) -> None:
        """`fps`: 1 where it is not said. MediaError for what is no list of images, ValueError for such a rate."""
        kinds, expected = (str, os.PathLike, Image.Image), "a path, or a list of image paths or PIL images"
        if not isinstance(images, Sequence) or any(not isinstance(image, kinds) for image in images):
            raise MediaError.about(name, f"cannot read {images!r:.80}", expected)
        if not images:
            raise MediaError.about(name, "holds no images", "at least one image")
        fps = 1.0 if fps is None else fps
        check_fps(fps)
        self._images, self._resize_to, self._strict = images, size, strict
        times = np.arange(len(images)) / fps
        first = size or self._load(0).size
        super().__init__(name, times, fps=float(fps), duration=len(images) / fps, size=first)

    def _load(self, index: int) -> Image.Image:
        image = self._images[index]
        if isinstance(image, Image.Image):
            return upright_rgb(image, strict=self._strict)
        return open_image(image, strict=self._strict)

    def _image(self, index: int) -> np.ndarray:
        try:
            image = self._load(index)
        except MediaError as error:
            raise MediaError(f"{self.name}: frame {index} cannot be read: {error}") from error
        return _as_array(image, self._resize_to)


class AnimationReader(VideoReader):
    """An image file whose frames have their own delays (gif, webp, png, avif), or pages (tiff).

    The frames are built on one another: going back starts again from the first.
    """

    def __init__(self, path: Path, *, size: tuple[int, int] | None = None) -> None:
        self._path, self._file, self._resize_to = path, begin_image(path, path), size
        # A PNG may begin with a still for programs that know no animation.
        self._first = int(bool(self._file.info.get("default_image")))
        try:
            times, duration = self._times(path)
            upright = self._frame(path, 0).size
        except MediaError:
            self._file.close()
            raise
        super().__init__(str(path), times, fps=len(times) / duration, duration=duration, size=size or upright)

    def _times(self, path: Path) -> tuple[np.ndarray, float]:
        """Seconds: float64 (num_frames,), when each frame begins; and when the last one ends."""
        delays: list[float] = []
        said: list[Any] = []
        num_pixels = 0
        for number in count():
            with reading(path, "is broken", A_WHOLE_IMAGE):
                try:
                    self._file.seek(self._first + number)
                except EOFError:
                    break
                self._file.load()
                delay, time = (self._file.info.get(name) for name in ("duration", "timestamp"))
            shortest = SHORTEST_DELAY if self._file.format == "GIF" else 1
            # a damaged file says anything
            delays.append(delay if isinstance(delay, int | float) and shortest <= delay < math.inf else USUAL_DELAY)
            said.append(time)
            num_pixels += self._file.width * self._file.height
            if len(delays) > MAX_FRAMES or num_pixels > MAX_ANIMATED_PIXELS:
                what = f"has more than {len(delays) - 1:,} frames of {self._file.width}x{self._file.height} pixels"
                most = f"at most {MAX_FRAMES:,} frames and {MAX_ANIMATED_PIXELS:,} pixels in all"
                raise MediaError.about(path, what, most)
        if not delays:
            raise MediaError.about(path, "has zero frames", "an animation with at least one")
        times = np.cumsum([0.0, *delays[:-1]])
        if all(isinstance(time, int | float) for time in said) and (np.diff(said) > 0).all() and said[0] == 0:
            times = np.array(said, dtype=np.float64)  # avif: delays are rounded, times are not added up of them
        return times / 1000, float(times[-1] + delays[-1]) / 1000

    def _release(self) -> None:
        self._file.close()

    def _frame(self, name: object, index: int) -> Image.Image:
        if self._first + index < self._file.tell():  # PIL fails to go back within a PNG
            self._file.close()
            self._file = begin_image(self._path, self._path)
        with reading(name, f"frame {index} cannot be decoded", A_WHOLE_IMAGE):
            self._file.seek(self._first + index)
            self._file.load()
        return upright_rgb(self._file, name)

    def _image(self, index: int) -> np.ndarray:
        return _as_array(self._frame(self.name, index), self._resize_to)


def open_image_file(
    path: Path, *, size: tuple[int, int] | None = None, strict: bool = False
) -> AnimationReader | ImageListReader | None:
    """The frames of an animation, or the one frame of a still image.

    None where the file is neither by its name, nor begins like an animation. MediaError where it holds no image.
    """
    is_named = path.suffix.lower() in IMAGE_SUFFIXES
    expected = AN_IMAGE if is_named else "a video file"
    check_file(path, expected)
    with reading(path, "cannot be read", expected, errors=OSError), path.open("rb") as file:
        if not is_named and not ANIMATIONS.match(file.read(12)):
            return None
    with begin_image(path, path) as image, reading(path, "is broken", A_WHOLE_IMAGE):
        # Several pictures in a JPEG are no animation: the others are views, depths or previews of the first.
        is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if (is_animated or not is_named) and image.width * image.height > MAX_PIXELS:
        raise MediaError.about(path, f"has pictures of {image.width}x{image.height}", f"at most {MAX_PIXELS:,} pixels")
    if is_animated:
        return AnimationReader(path, size=size)
    return ImageListReader(str(path), [path], size=size, strict=strict)


def _as_array(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 (H, W, 3), the caller's own copy."""
    return np.array(image if size is None else image.resize(size, Image.Resampling.BICUBIC))
