"""Files that once ended a whole run, written with PyAV and PIL and then changed; for the tests of every layer."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
from PIL import Image

GBK_TITLE = "中文标题".encode("gbk")
"""No UTF-8, as in many Chinese collections."""


def write_video(
    path: Path, *, codec: str = "mpeg4", num_frames: int = 20, fps: int = 4, title: str = "T" * len(GBK_TITLE)
) -> Path:
    """A 64x48 clip whose frame n is grey n * 8."""
    import av

    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(num_frames):
            picture = np.full((48, 64, 3), number * 8 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def with_gbk_title(path: Path, **details: int) -> Path:
    """A whole video with a title that is not UTF-8."""
    data = write_video(path, **details).read_bytes()
    assert data.count(b"T" * len(GBK_TITLE)) == 1
    path.write_bytes(data.replace(b"T" * len(GBK_TITLE), GBK_TITLE))
    return path


def with_unknown_codec(path: Path, **details: int) -> Path:
    """A video whose codec is called zz9z."""
    data = write_video(path, codec="libx264" if path.suffix == ".mp4" else "mpeg4", **details).read_bytes()
    names = (b"avc1", b"FMP4", b"V_MPEG4/ISO/ASP")  # in mp4, avi and mkv
    for name in names:
        data = data.replace(name, b"zz9z" if len(name) == 4 else b"V_ZZ9Z4/ISO/ASP")
    path.write_bytes(data)
    return path


def with_damaged_second_page(path: Path) -> Path:
    """A TIFF of two pages; PIL raises TypeError at the second, which does not say how wide it is."""
    pages = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (num_tags,) = struct.unpack_from("<H", data, first)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * num_tags)
    assert struct.unpack_from("<H", data, second + 2) == (0x100,), "the first tag is the width"
    struct.pack_into("<H", data, second + 2, 0xFF)
    path.write_bytes(data)
    return path


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut off, overwritten, or with a piece missing, doubled or blanked."""
    changed, place = bytearray(data), rng.randrange(len(data))
    kind, length = rng.choice(["cut", "bytes", "head", "blank", "missing", "double"]), rng.randrange(1, 120)
    if kind == "cut":
        del changed[max(1, place) :]
    elif kind == "missing":
        del changed[place : place + length]
    elif kind == "double":
        changed[place:place] = changed[place : place + length]
    elif kind == "blank":
        changed[place : place + length] = bytes(len(changed[place : place + length]))
    else:
        for _ in range(rng.randrange(1, 12)):
            changed[rng.randrange(len(data) if kind == "bytes" else min(400, len(data)))] = rng.randrange(256)
    return bytes(changed)
