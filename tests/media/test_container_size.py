"""Sizes that files declare of themselves."""

from __future__ import annotations

import io
import struct

import pytest

from videochat_online.media.integrity import declared_size

EBML = b"\x1a\x45\xdf\xa3" + b"\x84" + b"head"  # its length in one byte
SEGMENT = b"\x18\x53\x80\x67"


def box(kind: bytes, size: int) -> bytes:
    return struct.pack(">I4s", size, kind)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (box(b"ftyp", 16) + bytes(8) + box(b"mdat", 1000), 1016),
        (box(b"ftyp", 16) + bytes(8) + box(b"mdat", 1) + struct.pack(">Q", 5_000_000_000), 5_000_000_016),
        (box(b"ftyp", 16) + bytes(8) + box(b"mdat", 0) + bytes(50), 16),  # to the end, wherever that is
        (box(b"ftyp", 16) + bytes(8) + b"trailing rubbish", 16),
        (EBML + SEGMENT + b"\x90" + b"cluster", len(EBML) + 5 + 0x10),
        (EBML + SEGMENT + b"\x01" + (70_000).to_bytes(7, "big"), len(EBML) + 12 + 70_000),
        (EBML + SEGMENT + b"\x01" + b"\xff" * 7, None),  # a recording of unknown length
        (EBML + b"else", None),
        (b"RIFF" + struct.pack("<I", 500) + b"AVI ", 508),
        (b"RIFF" + struct.pack("<I", 500) + b"WAVE", None),
        (b"", None),
        (b"plain text, nothing declared", None),
    ],
)
def test_declared_sizes(content: bytes, size: int | None):
    assert declared_size(io.BytesIO(content)) == size
