"""The one place where PyAV opens anything to read: a file, an address, or bytes as they come; and its video stream.

What a container says about itself in words (title, author) is nobody's business here: it may be in any encoding.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .source import MediaError, T, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream


def open_container(
    place: Any, name: object, what: str, expected: str, *, options: dict[str, str], timeout: Any = None
) -> InputContainer:
    """`place`: a path, an address or a readable object, called `name`; MediaError "`what`; expected `expected`".

    `options` are FFmpeg's for the container; `timeout` seconds (open, read). ImportError where PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video needs PyAV: pip install av") from error

    with reading(name, what, expected):
        # Not options=, unlike container_options=: PyAV 15 then crashes on FLV and MPEG-PS.
        return av.open(place, container_options=options, timeout=timeout, metadata_errors="replace")


def video_stream(container: InputContainer, name: object, expected: str, *, num_threads: int = 0) -> VideoStream:
    """The first video stream, ready to decode; MediaError where there is none, or none that FFmpeg can decode."""
    from av.stream import Disposition

    with reading(name, "holds no video", expected):
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        what = "has sound but no video" if container.streams.audio else "holds no video"
        raise MediaError.about(name, what, expected)
    # PyAV's types do not say that there is no context for a codec that FFmpeg does not know.
    stream = next((stream for stream in streams if stream.codec_context is not None), None)
    if stream is None:
        what = f"its codec {_codec_tag(streams[0], name, expected)} is unknown to FFmpeg"
        raise MediaError.about(name, what, "a codec that it decodes")
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = num_threads
    return stream


def to_the_end(items: Iterable[T]) -> Iterator[T]:
    """Packets or frames as PyAV gives them, to the last.

    Where a stream begins late (sound in an FLV recording), PyAV 15 raises IndexError behind the last one.
    """
    try:
        yield from items
    except IndexError:
        return


def _codec_tag(stream: Stream, name: object, expected: str) -> str:
    """Four letters, quoted. PyAV shows them only of codecs it knows, so they are copied to a stream of such a one."""
    import av
    from av.bitstream import BitStreamFilterContext

    with reading(name, "its codec has no name", expected), av.open(io.BytesIO(), "w", format="matroska") as scratch:
        copy = scratch.add_stream("mpeg4", rate=1)
        BitStreamFilterContext("null", stream, copy)
        tag = copy.codec_context.codec_tag.rstrip("\0")
    return repr(tag) if tag else "(it has no name)"
