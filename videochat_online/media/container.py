"""The one place where PyAV opens anything to read (a file, an address, bytes as they come), and the video stream in it.

Titles and other texts of a container are never read: their encoding is unknown.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .picture import MAX_PIXELS
from .source import MediaError, T, check_file, each, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

A_VIDEO = "a video file"
UNDAMAGED = "an undamaged file"
MOST_OUT_OF_ORDER = 16
"""Frames."""
NOT_VIDEO_FORMATS = ("tty", "_pipe", "image2")
"""FFmpeg draws text files as video and opens still images as one-frame videos; neither is meant here."""
MJPEG_SUFFIXES = (".mjpeg", ".mjpg")
"""FFmpeg takes a file of large JPEGs, one behind another, for a still image."""
CODECS_THAT_SKIP = ("h264", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9")
"""Codecs whose frames say whether others need them. HEVC's say it of one temporal layer only."""


def open_container(
    place: Any,
    name: object,
    what: str,
    expected: str,
    *,
    options: dict[str, str],
    timeout: Any = None,
    kind: str | None = None,
) -> InputContainer:
    """`place`: a path, an address or a readable object, called `name`; MediaError "`what`; expected `expected`".

    `options` are FFmpeg's for the container; `timeout` seconds (open, read); `kind`: FFmpeg's name of the format where
    it is known.
    """
    import av

    with reading(name, what, expected):
        # Not options=, unlike container_options=: PyAV 15 then crashes on FLV and MPEG-PS.
        return av.open(place, format=kind, container_options=options, timeout=timeout, metadata_errors="replace")


def video_stream(container: InputContainer, name: object, expected: str, *, num_threads: int = 0) -> VideoStream:
    """FFmpeg's best video stream, ready to decode; of those it cannot decode, and cover pictures, none.

    MediaError where there is none, or where its pictures have more than MAX_PIXELS pixels.
    """
    from av.stream import Disposition

    with reading(name, "holds no video", expected):
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        best = container.streams.best("video")
    if not streams:
        what = "has sound but no video" if container.streams.audio else "holds no video"
        raise MediaError.about(name, what, expected)
    streams.sort(key=lambda stream: best is None or stream.index != best.index)
    # PyAV's types do not say that there is no context for a codec that FFmpeg does not know.
    stream = next((stream for stream in streams if stream.codec_context is not None), None)
    if stream is None:
        what = f"its codec {_codec_tag(streams[0], name, expected)} is unknown to FFmpeg"
        raise MediaError.about(name, what, "a codec that it decodes")
    if stream.width * stream.height > MAX_PIXELS:
        what = f"has pictures of {stream.width}x{stream.height}"
        raise MediaError.about(name, what, f"at most {MAX_PIXELS:,} pixels")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = num_threads
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change within the stream
    return stream


def open_stream(path: Path, *, num_threads: int = 0) -> tuple[InputContainer, VideoStream]:
    """The opened container and its video stream, ready to decode. MediaError where there is none."""
    check_file(path, A_VIDEO)
    # A playlist may name other files, not the network.
    options = {"protocol_whitelist": "file"}
    kind = "mjpeg" if path.suffix.lower() in MJPEG_SUFFIXES else None
    what = "is not a video, or cut off before its index"
    container = open_container(str(path), path, what, A_VIDEO, options=options, kind=kind)
    try:
        if any(name in container.format.name for name in NOT_VIDEO_FORMATS):
            raise MediaError.about(path, "holds no video", A_VIDEO)
        return container, video_stream(container, path, A_VIDEO, num_threads=num_threads)
    except MediaError:
        container.close()
        raise


def to_the_end(items: Iterable[T]) -> Iterator[T]:
    """Packets or frames as PyAV gives them, to the last.

    Where a stream begins late (sound in an FLV recording), PyAV 15 raises IndexError behind the last one.
    """
    try:
        yield from items
    except IndexError:
        return


def decoded(
    container: InputContainer,
    stream: VideoStream,
    name: object,
    what: str | Callable[[], str],
    *,
    skip_damage: bool,
    has_sought: bool = False,
    is_wanted: Callable[[Packet], bool] = lambda packet: True,
) -> Iterator[VideoFrame]:
    """Frames as they come from the decoder, to the last. What cannot be decoded: a MediaError, or left out.

    With one thread, what is left out is what FFmpeg's own programs leave out, and nothing more. `has_sought`: wait for
    a keyframe. A seek in a transport stream may end behind the one looked for, and HEVC makes up what it lacks then.
    A frame that is not wanted may come all the same: it is skipped only where no other frame is made from it.
    """

    def frames_of(packet: Packet | None) -> list[VideoFrame]:
        """None: what the decoder still holds."""
        try:
            with reading(name, what, UNDAMAGED):
                return stream.codec_context.decode(packet)
        except MediaError:
            if not skip_damage:
                raise
        return []

    can_skip = stream.codec_context.name in CODECS_THAT_SKIP
    try:
        for packet in each(to_the_end(container.demux(stream)), name, what, UNDAMAGED):
            if has_sought and not packet.is_keyframe:
                continue
            has_sought = False
            if can_skip:
                stream.codec_context.skip_frame = "DEFAULT" if is_wanted(packet) else "NONREF"
            yield from frames_of(packet)
    except MediaError:  # the container is damaged here
        if not skip_damage:
            raise
        yield from frames_of(None)


def in_order(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames by their times: behind damage, some come out of the decoder late. Those without a time are left out."""
    waiting: list[tuple[int, int, VideoFrame]] = []
    for count, frame in enumerate(frames):
        if frame.pts is not None:
            heapq.heappush(waiting, (frame.pts, count, frame))
        if len(waiting) > MOST_OUT_OF_ORDER:
            yield heapq.heappop(waiting)[2]
    yield from (frame for _, _, frame in sorted(waiting))


def _codec_tag(stream: Stream, name: object, expected: str) -> str:
    """Four letters, quoted. PyAV shows them only of codecs it knows, so they are copied to a stream of such a one."""
    import av
    from av.bitstream import BitStreamFilterContext

    with reading(name, "its codec has no name", expected), av.open(io.BytesIO(), "w", format="matroska") as scratch:
        copy = scratch.add_stream("mpeg4", rate=1)
        BitStreamFilterContext("null", stream, copy)
        tag = copy.codec_context.codec_tag.rstrip("\0")
    return repr(tag) if tag else "(it has no name)"
