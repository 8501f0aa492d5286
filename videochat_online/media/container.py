"""The one place where PyAV opens anything to read (a file, an address, bytes as they come), and the video stream in it.

Also whether a file is as long as its own headers say. Titles and other texts of a container are never read: their
encoding is unknown.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .source import MediaError, T, check_file, reading

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

A_VIDEO = "a video file"
NOT_VIDEO_FORMATS = ("tty", "_pipe", "image2")
"""FFmpeg draws text files as video and opens still images as one-frame videos; neither is meant here."""
MP4_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"mfra")
)
EBML_HEADER = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"


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
    it is known. ImportError where PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video needs PyAV: pip install av") from error

    with reading(name, what, expected):
        # Not options=, unlike container_options=: PyAV 15 then crashes on FLV and MPEG-PS.
        return av.open(place, format=kind, container_options=options, timeout=timeout, metadata_errors="replace")


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


def open_stream(path: Path, *, num_threads: int = 0) -> tuple[InputContainer, VideoStream]:
    """The opened container and its first video stream, ready to decode. MediaError where there is none."""
    check_file(path, A_VIDEO)
    # A playlist may name other files, not the network.
    options = {"protocol_whitelist": "file"}
    container = open_container(str(path), path, "is not a video, or cut off before its index", A_VIDEO, options=options)
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


def _codec_tag(stream: Stream, name: object, expected: str) -> str:
    """Four letters, quoted. PyAV shows them only of codecs it knows, so they are copied to a stream of such a one."""
    import av
    from av.bitstream import BitStreamFilterContext

    with reading(name, "its codec has no name", expected), av.open(io.BytesIO(), "w", format="matroska") as scratch:
        copy = scratch.add_stream("mpeg4", rate=1)
        BitStreamFilterContext("null", stream, copy)
        tag = copy.codec_context.codec_tag.rstrip("\0")
    return repr(tag) if tag else "(it has no name)"


def check_whole(path: Path) -> None:
    """MediaError where the file is shorter than its own headers say: FFmpeg takes such a cut for the file's end."""
    with reading(path, "cannot be read", A_VIDEO, errors=OSError):
        expected, actual = declared_size(path), path.stat().st_size
    if expected is not None and actual < expected:
        raise MediaError.about(path, f"is cut off at {actual:,} bytes", f"{expected:,} bytes by its own headers")


def declared_size(path: Path) -> int | None:
    """Bytes the file must have by its own headers; None where they do not say."""
    with path.open("rb") as file:
        start = file.read(12)
        if start[4:8] in MP4_BOXES:
            return _mp4_size(file, path.stat().st_size)
        if start[:4] == EBML_HEADER:
            return _matroska_size(file)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            return 8 + int(struct.unpack("<I", start[4:8])[0])
    return None


def _mp4_size(file: BinaryIO, actual: int) -> int:
    """End of the last top-level box that is known (ISO/IEC 14496-12, 4.2)."""
    end = 0
    while end + 8 <= actual:
        file.seek(end)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind not in MP4_BOXES:
            break
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: to the end of the file, whatever that is
            break
        end += size
    return end


def _matroska_size(file: BinaryIO) -> int | None:
    """End of the segment that follows the EBML header (RFC 8794, RFC 9559)."""
    file.seek(len(EBML_HEADER))
    header = _ebml_length(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(4) != MATROSKA_SEGMENT:
        return None
    length = _ebml_length(file)
    return None if length is None else file.tell() + length


def _ebml_length(file: BinaryIO) -> int | None:
    """A length of 1 to 8 bytes; the zeros before its first 1 bit count the bytes that follow. All ones: unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    bits = 7 * (num_more + 1)
    value = int.from_bytes(first + file.read(num_more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
