"""Media as they come: what training replaces and counts, `data check --decode` lists; what plays is in no report."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.odd_media import with_gbk_title, with_unknown_codec, write_video
from videochat_online.data.check import check_lists
from videochat_online.data.settings import DataSettings

from .conftest import grey, talk


def with_two_tracks(path: Path) -> Path:
    """Two tracks of pictures, of different sizes."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=4) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(8):
            for stream in streams:
                picture = np.asarray(grey(number, (stream.width, stream.height)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


def with_zero_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def changing_its_size(path: Path) -> Path:
    """Two transport streams, one behind the other: 64 x 48, then 32 x 32."""
    first = write_video(path.with_name("first.ts"), codec="mpeg2video", fps=25).read_bytes()
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(20):
            picture = np.asarray(grey(number, (32, 32)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(first + path.read_bytes())
    return path


def picture_bomb(path: Path) -> Path:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""
    grey(1).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def long_gif(path: Path) -> Path:
    """100,000 frames of one pixel."""
    head = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff"
    frame = b"!\xf9\4\0\n\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    path.write_bytes(head + frame * 100_000 + b";")
    return path


def folder_with_a_broken_frame(path: Path) -> Path:
    path.mkdir()
    for number in range(4):
        grey(number).save(path / f"{number}.png")
    (path / "2.png").write_bytes((path / "2.png").read_bytes()[:50])
    return path


def web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>" * 20)


def playlist(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:5,\nvideo.mp4\n#EXT-X-ENDLIST\n")


CASES: dict[str, tuple[Any, str | None]] = {
    "codec.mp4": (with_unknown_codec, "its codec 'zz9z' is unknown"),
    "title.mp4": (with_gbk_title, None),
    "tracks.mp4": (with_two_tracks, None),
    "changes.ts": (changing_its_size, None),
    "zero.avi": (with_zero_frames, "has zero frames"),
    "bomb.png": (picture_bomb, "pixels"),
    "long.gif": (long_gif, "frames"),
    "folder": (folder_with_a_broken_frame, "2.png: cannot be converted to RGB"),
    "page.mp4": (web_page, "expected a video file"),
    "list.m3u8": (playlist, "expected a video file"),
}


@pytest.fixture(scope="module")
def bad_media(media: Path) -> Path:
    for name, (make, _) in CASES.items():
        make(media / name)
    return media


def test_what_cannot_be_shown_is_in_the_report(make_dataset: Any, tmp_path: Path, bad_media: Path):
    field = {name: "image" if name == "bomb.png" else "video" for name in CASES}
    rows = [{field[name]: name, "conversations": talk("Q", "A")} for name in CASES]
    named = list(CASES)
    dataset = make_dataset([*rows, {"conversations": talk("Q", "A")}], max_failed_share=1)
    used = [dataset[number].source[1] for number in range(len(rows))]
    report = check_lists([str(tmp_path / "list.json")], num_workers=2, decode=DataSettings())
    found = {problem.row: problem.message for problem in report.problems}
    for number, (name, (_, message)) in enumerate(CASES.items()):
        assert (used[number] == number) == (message is None), name
        assert (message or "") in found.get(number, ""), name
        assert (number in found) == (message is not None), name
    assert len(report.problems) == len(found)
    assert [named[one.row or 0] for one in report.warnings] == ["changes.ts"], "its last frame is lost where it ends"
