"""Damaged files of every kind we read: each plays, or is refused with one MediaError, within bounds of time and memory.

Seeded, so that a count can be repeated: file number n is the same on every machine with the same encoders.
The default run takes a part; `-m slow` takes 2,000 videos and 400 pictures.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.odd_media import mutated

ROOT = Path(__file__).parents[2]
LONGEST = 60.0
"""Seconds for one file of a few kilobytes. They take milliseconds; the bound is for a machine with other work."""
MOST_MIB = 1024
FILES_PER_PROCESS = 100
"""The peak of memory is a process's, so a new one begins often."""

VIDEOS = {
    # name: (FFmpeg's name of the container, codec, its pixel format, options of the container)
    "plain.mp4": ("mp4", "libx264", "yuv420p", {}),
    "faststart.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "faststart"}),
    "fragmented.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "mpeg4.mov": ("mov", "mpeg4", "yuv420p", {}),
    "phone.3gp": ("3gp", "mpeg4", "yuv420p", {}),
    "plain.mkv": ("matroska", "libx264", "yuv420p", {}),
    "plain.webm": ("webm", "libvpx", "yuv420p", {}),
    "nine.webm": ("webm", "libvpx-vp9", "yuv420p", {}),
    "plain.avi": ("avi", "mpeg4", "yuv420p", {}),
    "mjpeg.avi": ("avi", "mjpeg", "yuvj420p", {}),
    "plain.flv": ("flv", "flv", "yuv420p", {}),
    "h264.flv": ("flv", "libx264", "yuv420p", {}),
    "plain.ts": ("mpegts", "libx264", "yuv420p", {}),
    "mpeg2.ts": ("mpegts", "mpeg2video", "yuv420p", {}),
    "plain.mpg": ("mpeg", "mpeg1video", "yuv420p", {}),
    "plain.wmv": ("asf", "wmv2", "yuv420p", {}),
    "plain.nut": ("nut", "mpeg4", "yuv420p", {}),
    "plain.mxf": ("mxf", "mpeg2video", "yuv420p", {}),
    "raw.h264": ("h264", "libx264", "yuv420p", {}),
    "raw.mjpeg": ("mjpeg", "mjpeg", "yuvj420p", {}),
    "plain.y4m": ("yuv4mpegpipe", "rawvideo", "yuv420p", {}),
    "lossless.mkv": ("matroska", "ffv1", "yuv420p", {}),
}
ANIMATIONS = ("moving.gif", "moving.webp", "moving.png", "moving.avif", "pages.tif")
STILLS = ("plain.png", "grey16.png", "alpha.png", "palette.gif", "plain.jpg", "turned.jpg", "cmyk.jpg", "plain.webp")
STILLS += ("plain.bmp", "plain.tif", "packed.tif", "float.tif")


def pictures(num: int = 12) -> list[Image.Image]:
    y, x = np.mgrid[0:48, 0:64]
    grounds = [
        np.stack([(x * 3 + n * 8) % 256, (y * 5) % 256, (x + y + n) % 256], -1).astype(np.uint8) for n in range(num)
    ]
    return [Image.fromarray(ground) for ground in grounds]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole small file of each container, by name."""
    import av

    folder = tmp_path_factory.mktemp("films")
    for name, (container_format, codec, pixels, options) in VIDEOS.items():
        with av.open(str(folder / name), "w", format=container_format, options=options) as container:
            stream = container.add_stream(codec, rate=25 if codec in ("mpeg1video", "mpeg2video") else 10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            stream.codec_context.gop_size = 5
            for number, picture in enumerate(pictures()):
                frame = av.VideoFrame.from_image(picture)
                frame.pts, frame.time_base = number, Fraction(1, int(stream.codec_context.framerate))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    first, *others = pictures(6)
    for name in ANIMATIONS:
        first.save(folder / name, save_all=True, append_images=others, duration=100)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("stills")
    (image,) = pictures(1)
    grey = np.asarray(image.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "plain.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.merge("RGBA", [*image.split(), Image.fromarray(grey)]).save(folder / "alpha.png")
    image.quantize(16).save(folder / "palette.gif")
    image.save(folder / "plain.jpg")
    image.save(folder / "turned.jpg", exif=turned)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    for name in ("plain.webp", "plain.bmp", "plain.tif"):
        image.save(folder / name)
    image.save(folder / "packed.tif", compression="tiff_lzw")
    Image.fromarray(grey.astype(np.float32) / 255).save(folder / "float.tif")
    assert {path.name for path in folder.iterdir()} == set(STILLS)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Reader:
    """Asks a worker process to read files; a new one each `FILES_PER_PROCESS` files, and after each that died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._num_read = 0

    def read(self, kind: str, path: Path) -> dict[str, object]:
        if self._process is None or self._num_read == FILES_PER_PROCESS:
            self._start()
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        self._num_read += 1
        self._process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], LONGEST)[0]:
            self.close()
            return {"outcome": "hung"}
        if line := self._process.stdout.readline():
            return json.loads(line)
        status = self._process.wait()
        self._process = None
        return {"outcome": f"ended by signal {-status}" if status < 0 else f"ended with {status}"}

    def _start(self) -> None:
        self.close()
        command = [sys.executable, str(Path(__file__).with_name("fuzz_worker.py"))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self._num_read = 0

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(kind: str, originals: dict[str, bytes], folder: Path, *, num: int, seed: int) -> Counter[str]:
    """Outcomes of `num` damaged files, which took all originals in turn. Whatever is not read or refused fails."""
    reader, outcomes, faults = Reader(), Counter[str](), []
    try:
        for name in originals:
            (folder / name).write_bytes(originals[name])
            assert reader.read(kind, folder / name)["outcome"] == "read", f"{name}, which is whole"
        names = list(originals)
        for number in range(num):
            name = names[number % len(names)]
            path = folder / f"{number}-{name}"
            path.write_bytes(mutated(originals[name], random.Random(f"{seed} {number}")))
            answer = reader.read(kind, path)
            outcomes[str(answer["outcome"])] += 1
            if answer["outcome"] not in ("read", "refused") or answer["mib"] > MOST_MIB:
                faults.append((path.name, answer))
            else:
                path.unlink()
    finally:
        reader.close()
    print(f"{kind}s, seed {seed}: {dict(outcomes)}")
    assert not faults, f"{len(faults)} of {num} (the files are in {folder}): {faults[:5]}"
    assert outcomes["read"] > num // 20 and outcomes["refused"] > num // 20, (
        f"the damage does not test much: {outcomes}"
    )
    return outcomes


@pytest.mark.parametrize(
    ("num", "seed"), [(120, 17), pytest.param(2000, 2026, marks=pytest.mark.slow)], ids=["part", "whole"]
)
def test_damaged_videos(num: int, seed: int, films: dict[str, bytes], tmp_path: Path):
    assert sum(fuzz("video", films, tmp_path, num=num, seed=seed).values()) == num


@pytest.mark.parametrize(
    ("num", "seed"), [(60, 17), pytest.param(400, 2026, marks=pytest.mark.slow)], ids=["part", "whole"]
)
def test_damaged_pictures(num: int, seed: int, stills: dict[str, bytes], tmp_path: Path):
    assert sum(fuzz("picture", stills, tmp_path, num=num, seed=seed).values()) == num
