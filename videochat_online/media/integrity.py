"""Signs that a file is not as its own headers say: its length, the chain of its parts, how its packets begin.

FFmpeg reads past most damage without a word. Decodes nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .source import MediaError, reading

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

MP4_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide uuid sidx mfra emsg prft meta pdin ssix pnot imda".split()
)
MP4_CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"))
MP4_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Boxes that say how many samples there are, and at which byte."""
MOST_SAMPLES_A_BYTE = 16
"""Old sound counts its uncompressed samples, of which one may take less than a byte."""
EBML_HEADER = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
MATROSKA_CLUSTER = b"\x1f\x43\xb6\x75"
MATROSKA_ELEMENTS = frozenset(
    bytes.fromhex(name)
    for name in (
        *("1a45dfa3", "18538067", "114d9b74", "1549a966", "1654ae6b", "1f43b675", "1c53bb6b", "1254c367", "1043a770"),
        *("1941a469", "ec", "bf", "e7", "a3", "a0", "a7", "ab", "af", "5854"),
    )
)
"""What may stand in a file, its segment and its clusters (RFC 9559)."""
FLV_TAGS = (8, 9, 18)
START_CODED = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")


def damage_check(stream: VideoStream) -> Callable[[Packet], bool]:
    """What tells of a packet of this stream whether its first bytes, or its units' lengths, make no sense."""
    codec, head = stream.codec_context.name, stream.codec_context.extradata or b""
    if codec in ("h264", "hevc") and head[:1] == b"\1" and len(head) > 22:  # ISO/IEC 14496-15, 5.3.3 and 8.3.3
        width = (head[4 if codec == "h264" else 21] & 3) + 1
        return lambda packet: not _has_whole_units(memoryview(packet), width)
    if codec in START_CODED:
        return lambda packet: packet.size > 8 and bytes(memoryview(packet)[:4]).find(b"\0\0\1") < 0
    if codec == "vp9":
        return lambda packet: memoryview(packet)[0] >> 6 != 2
    return lambda packet: False


def _has_whole_units(data: memoryview, width: int) -> bool:
    """Whether the packet is units, each behind its length in `width` bytes."""
    place = 0
    while place + width < len(data):
        length = int.from_bytes(data[place : place + width], "big")
        place += width + length
        if length == 0:
            return False
    return place == len(data)


def missing_bytes(path: Path) -> str | None:
    """What to say of a file that is shorter than its own headers say: FFmpeg takes such a cut for the file's end.

    MediaError where an MP4 file claims samples that it has no bytes for: FFmpeg would make room for all of them.
    """
    with reading(path, "cannot be read", "a video file", errors=OSError), path.open("rb") as file:
        expected, claimed, actual = declared_size(file), _num_samples(file), file.seek(0, os.SEEK_END)
    if claimed > MOST_SAMPLES_A_BYTE * actual:
        raise MediaError.about(path, f"claims {claimed:,} samples in {actual:,} bytes", "an undamaged header")
    if expected is None or actual >= expected:
        return None
    return f"is cut off at {actual:,} bytes; expected {expected:,} bytes by its own headers"


def broken_at(path: Path) -> int | None:
    """The byte at which the chain of parts of a Matroska, fragmented MP4 or FLV file breaks; None where it does not."""
    with reading(path, "cannot be read", "a video file", errors=OSError), path.open("rb") as file:
        start, size = file.read(8), file.seek(0, os.SEEK_END)
        place = size
        if start[4:] in MP4_BOXES and any(kind == b"moof" for kind, _, _ in _boxes(file, 0, size)):
            place = _mp4_size(file, size)  # of the others, whole ones may end with anything
        elif start[:4] == EBML_HEADER:
            place = _matroska_chain(file, size)
        elif start[:3] == b"FLV":
            place = _flv_chain(file, size)
    return None if place == size else min(place, size)


def declared_size(file: BinaryIO) -> int | None:
    """Bytes the file must have by its own headers; None where they do not say."""
    actual = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(2 * 192)
    for length, place in ((188, 0), (192, 4)):  # a transport stream is packets of one length
        if start[place : place + 1] == start[place + length : place + length + 1] == b"G":
            return -(-actual // length) * length
    if start[4:8] in MP4_BOXES:
        return _mp4_size(file, actual)
    if start[:4] == EBML_HEADER:
        return _matroska_size(file)
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return 8 + int.from_bytes(start[4:8], "little")
    return None


def _boxes(file: BinaryIO, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, end) of each box in this part of an MP4 file; the last may reach past it."""
    while place + 8 <= stop:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: to the end of the file, whatever that is
            break
        yield kind, file.tell(), place + size
        place += size


def _mp4_size(file: BinaryIO, actual: int) -> int:
    """End of the last top-level box that is known (ISO/IEC 14496-12, 4.2)."""
    known = takewhile(lambda box: box[0] in MP4_BOXES, _boxes(file, 0, actual))
    return max((end for _, _, end in known), default=0)


def _num_samples(file: BinaryIO) -> int:
    """Samples that an MP4 file claims to hold; 0 for other files."""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    parts, total = [(0, size)] if file.read(4) in MP4_BOXES else [], 0
    while parts:
        place, stop = parts.pop()
        for kind, content, end in _boxes(file, place, stop):
            if kind in MP4_COUNTS:
                file.seek(content + MP4_COUNTS[kind])
                total += int.from_bytes(file.read(4), "big")
            elif kind in MP4_CONTAINERS:
                parts.append((content, min(end, stop)))
    return total


def _matroska_chain(file: BinaryIO, size: int) -> int:
    """Where the elements of the file, its segment and its clusters end, or something else stands."""
    place = 0
    while place < size:
        file.seek(place)
        first = file.read(1)
        name, length = first + file.read(8 - first[0].bit_length()), _ebml_length(file)
        is_entered = name in (MATROSKA_SEGMENT, MATROSKA_CLUSTER)
        if name not in MATROSKA_ELEMENTS or (length is None and not is_entered):
            return place
        place = file.tell() + (0 if is_entered else length or 0)
    return place


def _matroska_size(file: BinaryIO) -> int | None:
    """End of the segment that follows the EBML header (RFC 8794, RFC 9559)."""
    file.seek(len(EBML_HEADER))
    header = _ebml_length(file)
    if header is None:
        return None
    file.seek(header, os.SEEK_CUR)
    length = _ebml_length(file) if file.read(4) == MATROSKA_SEGMENT else None
    return None if length is None else file.tell() + length


def _ebml_length(file: BinaryIO) -> int | None:
    """A length of 1 to 8 bytes; the zeros before its first 1 bit count the bytes that follow. All ones: unknown."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    num_more = 8 - first[0].bit_length()
    most = (1 << 7 * (num_more + 1)) - 1
    value = int.from_bytes(first + file.read(num_more), "big") & most
    return None if value == most else value


def _flv_chain(file: BinaryIO, size: int) -> int:
    """Where the tags end, or one is not followed by its length (Adobe, Video File Format 10.1, annex E)."""
    place = 13
    while place < size:
        file.seek(place)
        head = file.read(11)
        length = int.from_bytes(head[1:4], "big") + 11
        file.seek(place + length)
        if head[0] & 0x1F not in FLV_TAGS or int.from_bytes(file.read(4), "big") != length:
            return place
        place += length + 4
    return place
