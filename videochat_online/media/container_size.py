"""How long a video file says it is, from the sizes written in its own headers: tells a cut-off file from a whole one.

A few bytes are read, nothing is decoded. Knows MP4/MOV boxes, Matroska/WebM segments and RIFF/AVI;
anything else, and recordings of unknown length, say nothing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

MP4_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"mfra")
)
EBML_HEADER = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"


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
    """End of the last top-level box that can be told (ISO/IEC 14496-12, 4.2)."""
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
