"""The one way in: a video file, a gif, a folder or list of images -> frames with their seconds.

Picks the kind of the source and its decoder: PyAV, or decord where a user asked for it. Streams that have no end are in
live.py. Of a video file, numbers and times come from the shared index. PyAV seeks to the nearest keyframe before a gap
and decodes forward otherwise; its pictures pass through the filter chain that decord uses (turn upright, scale
bilinear, RGB by the file's own colour space), so they are equal bit by bit.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..extras import require
from .container import UNDAMAGED, decoded, in_order, open_stream
from .image_source import ImageListReader, ImageSource, images_of_folder, open_image, open_image_file
from .picture import FrameConverter, Steps, has_alpha, upright_steps
from .shards import copied, goes_with, shard_of
from .source import Frame, MediaError, MediaWarning, VideoReader, check_size, reading, warn
from .video_index import VideoIndex, first_frame, index_video

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Decoder", "Frame", "MediaError", "VideoReader", "check_decoder", "open_image", "open_video"]

Decoder = Literal["pyav", "decord"]
FOR_DECORD = "a file that decord reads; decoder='pyav' (--decoder pyav) reads more"
DECORD_FORMATS = ("mp4", "matroska", "avi", "flv")
"""Containers (FFmpeg's names) in which decord finds the frame asked for; in MPEG streams it is off by some."""
TURNS_OF_DECORD: tuple[Steps, ...] = (
    (),
    (("transpose", "clock"),),
    (("transpose", "cclock"),),
    (("hflip", ""), ("vflip", "")),
)
NO_GUESSED_FRAMES = 1e-9
"""decord fills frames it cannot decode with their neighbours; with this share of them allowed it fails instead."""


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


# ---- decoders of video files ----------------------------------------------------------------------------------------


class _FileReader(VideoReader):
    """`size` (W, H) scales while decoding."""

    def __init__(self, index: VideoIndex, size: tuple[int, int] | None) -> None:
        facts = {"fps": index.fps, "duration": index.duration, "start_offset": index.start_offset}
        super().__init__(str(index.path), index.timestamps, size=size or index.size, **facts)
        self._index = index

    @property
    def ends(self) -> np.ndarray:
        return self._index.ends


@dataclass
class _Target:
    """The frame that is looked for at the moment."""

    index: int = 0


class PyavReader(_FileReader):
    """Through PyAV; holds one container and the decoder's own few frames. `num_threads` 0: FFmpeg's own choice.

    A frame that turns out to be undecodable: `read` gives the one before it in its place, iteration leaves it out, with
    one warning a reader; a MediaError where `strict`.
    """

    def __init__(
        self, index: VideoIndex, *, size: tuple[int, int] | None = None, num_threads: int = 0, strict: bool = False
    ) -> None:
        super().__init__(index, size)
        self._num_threads, self._strict = num_threads, strict
        self._skips_damage = index.is_damaged
        self._target = _Target()
        self._stream: VideoStream | None
        self._frames: Iterator[VideoFrame]
        self._position: int
        """Number of the frame that the decoder gives next, where nothing is damaged."""
        self._nearest: VideoFrame | None = None
        """The last frame that came before one that was looked for in vain, else the first behind it."""
        self._stands_in = False
        """Whether the frame given last is another than the one asked for."""
        self._restart()
        shown = self.size
        self._to_rgb: FrameConverter | None = FrameConverter(self.name, lambda _: shown)
        self._process = os.getpid()

    def __del__(self) -> None:
        """Close what was not closed; PyAV's own objects would wait for the garbage collector."""
        if vars(self).get("_process") == os.getpid():
            self.close()

    def _release(self) -> None:
        """End the threads of decoder and filters with their objects, to which nothing else may refer.

        A process that is forked later, and frees what it inherits, would wait for ever for threads it does not have.
        """
        self._container.close()
        self._frames, self._stream, self._nearest, self._to_rgb = iter([]), None, None, None

    def _image(self, index: int) -> np.ndarray:
        assert self._to_rgb is not None, "a closed reader is not read"
        return self._to_rgb(self._decoded(index))

    def __iter__(self) -> Iterator[Frame]:
        return (frame for frame in super().__iter__() if not self._stands_in)

    def _decoded(self, index: int) -> VideoFrame:
        """Frame `index`; in a damaged file, where there is none, the one that a player would still show."""
        self._stands_in = False
        try:
            return self._exactly(index)
        except MediaError as error:
            if self._strict:
                raise
            if not self._skips_damage:
                self._skips_damage = True
                problem = str(error).removeprefix(f"{self.name}: ")
                warn(self.name, f"{problem}; such frames are left out, or the ones before them read")
                self._go_to(0)
                return self._decoded(index)
            if self._nearest is None:
                raise
            self._stands_in = True
            return self._nearest

    def _exactly(self, index: int) -> VideoFrame:
        """Frame `index`: forward from where the decoder stands, else from a keyframe, else from the one before."""
        starts = self._starts(index)
        is_ahead = starts[0] <= self._position <= index  # forward is the shortest way
        self._nearest = None
        try:
            if is_ahead and (frame := self._decode_to(index)) is not None:
                return frame
            for start in starts:
                self._go_to(start)
                if (frame := self._decode_to(index)) is not None:
                    return frame
        except MediaError:
            self._position = self.num_frames  # nothing more comes from here: the next read seeks
            raise
        what = f"frame {index} cannot be decoded (no frame with its time comes out of the decoder)"
        raise MediaError.about(self.name, what, UNDAMAGED)

    def _starts(self, index: int) -> list[int]:
        """Where to decode from to reach `index`: the nearest keyframe, the one before it, behind damage the first."""
        if not self._index.times.has_times:
            return [0]
        keyframes = self._index.times.keyframes
        end = int(np.searchsorted(keyframes, index, side="right"))
        nearest = keyframes[max(end - 2, 0) : end][::-1].tolist()
        return [*nearest, 0] if self._skips_damage else nearest

    def _go_to(self, start: int) -> None:
        """Let the decoder start again at keyframe `start`."""
        if start == 0:
            self._container.close()
            self._restart()
            return
        with reading(self.name, f"frame {start} cannot be reached", UNDAMAGED):
            self._container.seek(int(self._index.times.stamps[start]), stream=self._stream)
        self._frames, self._position = self._decode(has_sought=True), start

    def _restart(self) -> None:
        num_threads = 1 if self._skips_damage else self._num_threads
        self._container, self._stream = open_stream(self._index.path, num_threads=num_threads)
        self._frames, self._position = self._decode(has_sought=False), 0

    def _decode(self, *, has_sought: bool) -> Iterator[VideoFrame]:
        times, target, skip_damage = self._index.times, self._target, self._skips_damage
        assert self._stream is not None, "a closed reader is not read"

        def what() -> str:
            return f"frame {target.index} cannot be decoded"

        def is_wanted(packet: Packet) -> bool:
            """Nothing behind the frame that is looked for is left out: it may be looked for next."""
            is_sound = times.has_times and not skip_damage and packet.pts is not None
            return not is_sound or packet.pts >= times.stamps[target.index]

        place = (self._container, self._stream, self.name)
        frames = decoded(*place, what, skip_damage=skip_damage, has_sought=has_sought, is_wanted=is_wanted)
        return in_order(frames) if skip_damage and times.has_times else frames

    def _decode_to(self, index: int) -> VideoFrame | None:
        """The frame `index`, or None if the decoder passes it by."""
        self._target.index = index
        for frame in self._frames:
            number = self._number(frame)
            if number is None:
                continue
            self._position = number + 1
            if number == index:
                return frame
            if number < index or self._nearest is None:
                self._nearest = frame
            if number > index:
                return None
        self._position = self.num_frames
        return None

    def _number(self, frame: VideoFrame) -> int | None:
        """Which frame of the index this is; None for one that the index leaves out."""
        return self._index.times.number_of(frame.pts) if self._index.times.has_times else self._position


class DecordReader(_FileReader):
    """Through decord, which leaves its global bridge as it is. MediaError for what it would read otherwise than PyAV.

    Known limits: on some damaged files (an AVI, for one) decord aborts the whole process (std::bad_alloc), and before
    damage in a file it fails some frames early, because it decodes ahead.
    """

    def __init__(self, index: VideoIndex, *, size: tuple[int, int] | None = None, num_threads: int = 0) -> None:
        import decord  # after PyAV, which the index has loaded: else decord's libvpx takes the place of PyAV's own

        super().__init__(index, size)
        self._refuse_where(index.is_damaged, "it is damaged")
        with open_stream(index.path)[0] as container:
            kind, num_tracks = container.format.name, len(container.streams.video)
        self._refuse_where(num_tracks > 1, f"it picks a track of its own where there are {num_tracks}")
        self._refuse_where(not any(name in kind for name in DECORD_FORMATS), f"it seeks inexactly in {kind} files")
        first = first_frame(index.path)
        self._refuse_where(has_alpha(first), "its pictures are transparent")
        self._refuse_where(upright_steps(first) not in TURNS_OF_DECORD, "its pictures are mirrored or stand askew")
        is_odd = index.times.has_open_groups or not index.times.has_times
        self._refuse_where(is_odd, "it miscounts frames where groups of pictures are open or have no times")
        decord.logging.set_level(decord.logging.QUIET)
        width, height = size or (-1, -1)
        with reading(self.name, "decord cannot read it", FOR_DECORD):
            self._decoder: Any = decord.VideoReader(
                self.name, width=width, height=height, num_threads=num_threads, fault_tol=NO_GUESSED_FRAMES
            )
            num_found = len(self._decoder)
        self._refuse_where(num_found != len(self), f"it counts {num_found} frames, the container holds {len(self)}")

    def _refuse_where(self, is_so: bool, why: str) -> None:
        if is_so:
            raise MediaError.about(self.name, f"decord cannot read it ({why})", FOR_DECORD)

    def _release(self) -> None:
        self._decoder = None

    def _image(self, index: int) -> np.ndarray:
        with reading(self.name, f"frame {index} cannot be decoded by decord", FOR_DECORD):
            picture = self._decoder[index]
            image = picture.asnumpy() if hasattr(picture, "asnumpy") else np.asarray(picture)
        width, height = self.size  # it takes the padding of narrow pictures for channels
        self._refuse_where(image.shape != (height, width, 3), f"it gives frame {index} the shape {image.shape}")
        return image
