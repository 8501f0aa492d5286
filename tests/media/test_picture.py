"""From decoded picture to upright RGB: colours, ways up, transparency, modes; the same for files, live and pushed."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import videochat_online
from videochat_online.media.live import PushedFrames
from videochat_online.media.picture import FrameConverter, begin_image, rgb_array, upright_steps
from videochat_online.media.readers import open_image, open_video
from videochat_online.serve.content import picture_of

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (40, 60, 220), (200, 200, 60)
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
"""Kr, Kb of FFmpeg's colour matrices: BT.709, 601 (two names), 2020, and 601 where nothing is said."""

SAMPLE = Path(videochat_online.__file__).parent / "pocket" / "sample.mp4"


def corners(width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (height, width, 3): four colours, red top left."""
    picture = np.empty((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    picture[:half, :middle], picture[:half, middle:] = RED, GREEN
    picture[half:, :middle], picture[half:, middle:] = BLUE, YELLOW
    return picture


def close(picture: np.ndarray, expected: np.ndarray, *, within: int = 4) -> bool:
    """Whether the middles of the four corners agree; FFmpeg's own rounding is off by up to 4."""
    assert picture.shape == expected.shape
    height, width, _ = picture.shape
    there = np.ix_((height // 4, height * 3 // 4), (width // 4, width * 3 // 4))
    return int(np.abs(picture[there].astype(int) - expected[there]).max()) <= within


def yuv_frame(picture: np.ndarray, *, bits: int, matrix: int, is_full: bool, shape: str):
    """A PyAV frame of the planar format `shape`, converted by the definition of the matrix (ITU-R BT.601/709/2020)."""
    import av

    kr, kb = WEIGHTS[matrix]
    r, g, b = np.moveaxis(picture / 255.0, -1, 0)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    chroma = [(b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)]
    scale, most = 2 ** (bits - 8), 2**bits - 1
    planes = [luma * most if is_full else (16 + 219 * luma) * scale]
    planes += [c * most + 2 ** (bits - 1) if is_full else (128 + 224 * c) * scale for c in chroma]
    down, across = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[shape]
    planes = [planes[0], *(plane[::down, ::across] for plane in planes[1:])]
    name = f"yuv{shape}p" + (f"{bits}le" if bits > 8 else "")
    frame = av.VideoFrame(picture.shape[1], picture.shape[0], name)
    frame.colorspace, frame.color_range = matrix, 2 if is_full else 1
    for plane, values in zip(frame.planes, planes, strict=True):
        kind = np.uint8 if bits == 8 else np.uint16
        rows = np.zeros((plane.height, plane.line_size // np.dtype(kind).itemsize), kind)
        rows[:, : plane.width] = values.round()
        plane.update(rows)
    return frame


@pytest.mark.parametrize("shape", ["420", "422", "444"])
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
def test_every_matrix_range_and_depth(matrix: int, is_full: bool, bits: int, shape: str):
    frame = yuv_frame(corners(), bits=bits, matrix=matrix, is_full=is_full, shape=shape)
    assert close(FrameConverter("it")(frame), corners())


def test_what_changes_within_a_stream_is_each_frames_own():
    convert, small, large = FrameConverter("it", lambda size: (64, 48)), (64, 48), (128, 96)
    for matrix, is_full, size in ((1, False, small), (9, True, small), (1, False, large), (6, True, small)):
        frame = yuv_frame(corners(*size), bits=8, matrix=matrix, is_full=is_full, shape="420")
        assert close(convert(frame), corners())


@pytest.mark.parametrize("name", ["gbrp", "gbrp10le", "rgb48le", "bgr0", "rgb565le", "nv12", "yuvj444p", "p010le"])
def test_other_layouts(name: str):
    import av

    frame = av.VideoFrame.from_ndarray(corners(), format="rgb24").reformat(format=name)
    assert close(FrameConverter("it")(frame), corners(), within=8 if name == "rgb565le" else 4)


def test_transparent_frames_lie_on_white():
    import av

    pixels = np.dstack([corners(), np.full((48, 64), 255, np.uint8)])
    for name in ("rgba", "gbrap", "yuva444p", "yuva444p10le", "rgba64le", "argb"):
        opaque = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=name)
        plain = av.VideoFrame.from_ndarray(corners(), format="rgb24").reformat(format=name).reformat(format="rgb24")
        assert np.array_equal(FrameConverter("it")(opaque), plain.to_ndarray()), name
        pixels[:, :32, 3] = 0
        hidden = FrameConverter("it")(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=name))
        pixels[:, :32, 3] = 255
        assert (hidden[:, :30] >= 254).all() and np.array_equal(hidden[:, 34:], plain.to_ndarray()[:, 34:])


# ---- which way is up ------------------------------------------------------------------------------------------------

MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "90": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "270": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transposed over the other diagonal": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
    "all zero": ((0, 0, 0, 0), lambda p: p),
    "one column": ((1, 0, 0, 0), lambda p: p),
    "flat": ((1, 1, 1, 1), lambda p: p),
}


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("clips") / "plain.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5, options={"qmin": "1", "qmax": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(corners(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def with_matrix(path: Path, numbers: tuple[int, int, int, int], folder: Path) -> Path:
    """The file with another matrix of its track (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (value * 0x10000 for value in numbers)
    struct.pack_into(">9i", content, content.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    (folder / "turned.mp4").write_bytes(content)
    return folder / "turned.mp4"


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices(name: str, plain_clip: Path, tmp_path: Path):
    numbers, upright = MATRICES[name]
    lying = [frame.image for frame in open_video(plain_clip)]
    path = with_matrix(plain_clip, numbers, tmp_path)
    with open_video(path) as video:
        assert video.size == upright(lying[0]).shape[1::-1]
        for picture, plain in zip(video, lying, strict=True):
            assert np.array_equal(picture.image, upright(plain))
    with open_video(path, size=(20, 30)) as video:
        assert next(iter(video)).image.shape == (30, 20, 3)


def test_any_angle_turns_as_in_ffmpeg(plain_clip: Path, tmp_path: Path):
    path = with_matrix(plain_clip, (1, 1, -1, 1), tmp_path)
    with open_video(path) as video:
        picture = next(iter(video)).image
    assert picture.shape == (48, 64, 3) and (picture[0, 0] == 0).all() and picture[24, 60].any()


def test_side_data_that_pyav_does_not_know(monkeypatch):
    """The angle is still read: films of telephones that see with two eyes have such data."""

    class Frame:
        rotation = -90

    def unknown(frame: Frame) -> None:
        raise ValueError("31 is not a valid Type")

    monkeypatch.setattr("av.sidedata.sidedata.SideDataContainer", unknown)
    assert upright_steps(Frame()) == (("transpose", "clock"),)


def test_decoded_frames_are_freed_at_once():
    """Not when Python looks for cycles: of what has lived for a while it rarely does, and a frame has 3 MB and more."""
    gc.collect()
    gc.disable()
    try:
        with open_video(SAMPLE) as video:
            num = sum(1 for _ in video)
            kept = sum(type(one).__name__ == "VideoFrame" for one in gc.get_objects())
    finally:
        gc.enable()
    assert num == 160 and kept < 8


ORIENTED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF 2.32: how the stored picture was made of the upright
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: np.rot90(p, 2),
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_photographs_stand_upright_wherever_they_come_from(orientation: int, kind: str, tmp_path: Path):
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(ORIENTED[orientation](corners())))
    path = tmp_path / f"photo.{kind}"
    try:
        stored.save(path, exif=exif, **({"lossless": True} if kind == "webp" else {"quality": 95}))
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {kind}")
    expected = np.asarray(open_image(path))
    assert close(expected, corners(), within=12)
    pushed = PushedFrames()
    for image in (Image.open(path), begin_image(path, path)):
        assert np.array_equal(rgb_array(image), expected)
        pushed.push(image)
    with open_video(path) as video:
        assert np.array_equal(next(iter(video)).image, expected) and video.size == (64, 48)
    assert np.array_equal(picture_of(path.read_bytes(), "sent"), expected)


# ---- modes ----------------------------------------------------------------------------------------------------------
