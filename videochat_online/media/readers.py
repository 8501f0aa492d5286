"""The one way in: a video file, a gif, a folder or list of images -> frames with their seconds.

Picks the kind of the source and its decoder. Streams that have no end are in live.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ..extras import require
from .decoding import DecordReader, PyavReader
from .image_source import ImageListReader, ImageSource, images_of_folder, open_image, open_image_file
from .shards import copied, goes_with, shard_of
from .source import Frame, MediaError, MediaWarning, VideoReader, check_size, reading
from .video_index import index_video

__all__ = ["Decoder", "Frame", "MediaError", "VideoReader", "check_decoder", "open_image", "open_video"]

Decoder = Literal["pyav", "decord"]


def open_video(
    source: str | os.PathLike[str] | Sequence[ImageSource],
    *,
    decoder: Decoder = "pyav",
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    num_threads: int = 0,
    strict: bool = False,
) -> VideoReader:
    """Frames of a video file, an animation or image file, a folder of images in natural order, or a list of images.

    `decoder`: of video files. decord gives the same pictures; a file that it cannot read is a MediaError.
    `size` (W, H): decode to this size. `fps`: of a folder or a list (default 1); files have times of their own.
    `num_threads`: of the decoder, 0 = its own choice; give 1 in worker processes.
    `strict`: refuse what is damaged or cut off; else what can be decoded is read, with one MediaWarning.
    MediaError says what is wrong with a source, ValueError what is wrong with the arguments, ImportError what to
    install.
    """
    check_decoder(decoder)
    check_size(size)
    if isinstance(source, str | os.PathLike) and shard_of(Path(source)) is not None:
        return _open_member(Path(source), decoder=decoder, size=size, num_threads=num_threads, strict=strict)
    if not isinstance(source, str | os.PathLike):
        return ImageListReader("list of images", source, fps=fps, size=size, strict=strict)
    with reading(source, "cannot be looked at", "a video, or a folder of images", errors=(OSError, RuntimeError)):
        path = Path(source).expanduser().absolute()  # RuntimeError: ~user of nobody
        is_folder = path.is_dir()
    if is_folder:
        return ImageListReader(str(path), images_of_folder(path), fps=fps, size=size, strict=strict)
    if fps is not None:
        raise ValueError(f"{path}: fps={fps!r} is for folders and lists of images, a file has times of its own")
    if (images := open_image_file(path, size=size, strict=strict)) is not None:
        return images
    index = index_video(path, strict=strict)
    if decoder == "decord":
        return DecordReader(index, size=size, num_threads=num_threads)
    return PyavReader(index, size=size, num_threads=num_threads, strict=strict)


def _open_member(path: Path, **how: Any) -> VideoReader:
    """A video in a shard, by a copy that goes with the reader; errors and the reader name its place in the shard."""
    place, video = copied(path), None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", MediaWarning)
            video = open_video(place, **how)
        video.name = str(path)
    except MediaError as error:
        raise MediaError(str(error).replace(str(place), str(path))) from error
    finally:
        goes_with(place, video)
    for one in said:
        warnings.warn(str(one.message).replace(str(place), str(path)), one.category, stacklevel=3)
    return video


def check_decoder(name: str) -> None:
    """ValueError for a decoder that does not exist, ImportError for one that is not installed."""
    if name not in get_args(Decoder):
        raise ValueError(f"decoder must be one of {', '.join(get_args(Decoder))}, got {name!r}")
    if name == "decord":
        require("decord")
