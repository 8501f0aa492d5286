"""From decoded picture to upright RGB: colours, ways up, transparency, modes; the same for files, live and pushed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from videochat_online.media.live import PushedFrames
from videochat_online.media.picture import FrameConverter, begin_image, rgb_array, upright_rgb, upright_steps
from videochat_online.media.readers import MediaError, open_image, open_video
from videochat_online.media.source import MediaWarning
from videochat_online.serve.uploads import picture_of

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (40, 60, 220), (200, 200, 60)
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
"""Kr, Kb of FFmpeg's colour matrices: BT.709, 601 (two names), 2020, and 601 where nothing is said."""


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


def test_side_data_that_pyav_does_not_know():
    """The angle is still read: films of telephones that see with two eyes have such data."""

    class Frame:
        rotation = -90

        @property
        def side_data(self) -> None:
            raise ValueError("31 is not a valid Type")

    assert upright_steps(Frame()) == (("transpose", "clock"),)


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


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def half_transparent() -> Image.Image:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    return Image.fromarray(np.dstack([noise(48, 64, 3), alpha]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa", "P", "tRNS of RGB", "tRNS of L", "tRNS of I;16"])
def test_what_is_under_transparency_is_not_seen(mode: str):
    image = half_transparent()
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
    elif mode in ("La", "RGBa"):
        image = image.convert(mode.upper()).convert(mode)
    elif mode in ("P", "PA"):
        image = image.quantize(16)
        image = image.convert("PA") if mode == "PA" else image
    else:
        grey = np.asarray(image.convert("L")).copy() | 1
        grey[:, :32] = 8
        kind = mode.removeprefix("tRNS of ")
        image = Image.fromarray(grey.astype(np.uint16) << 8 if kind == "I;16" else grey)
        image = image.convert("RGB") if kind == "RGB" else image
        file = io.BytesIO()
        image.save(file, "PNG", transparency={"RGB": (8, 8, 8), "L": 8, "I;16": 8 << 8}[kind])
        image = begin_image(file, "it")
    picture = rgb_array(image)
    assert (picture[:, :32] == 255).all()
    assert picture[:, 32:].std() > 20 and (picture[:, 32:] < 250).any()


def test_half_transparency_is_half_white():
    assert (rgb_array(Image.new("RGBA", (4, 4), (0, 100, 200, 128))) == [127, 177, 227]).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bits_are_scaled(mode: str):
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (16, 16), grey.astype(order).tobytes())
    assert np.array_equal(rgb_array(image)[..., 0], np.arange(256).reshape(16, 16))


def test_deep_pictures_of_files(tmp_path: Path):
    shades = np.arange(256).reshape(16, 16)
    header = b"P5 16 16 65535\n"
    (tmp_path / "deep.pgm").write_bytes(header + (shades * 257).astype(">u2").tobytes())
    (tmp_path / "ten.pgm").write_bytes(b"P5 16 16 1023\n" + (shades * 1023 // 255).astype(">u2").tobytes())
    Image.fromarray((shades * 257).astype(np.uint16)).save(tmp_path / "deep.tif")
    Image.fromarray((shades / 255).astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.pgm", "ten.pgm", "deep.tif", "float.tif"):
        assert np.abs(np.asarray(open_image(tmp_path / name))[..., 0].astype(int) - shades).max() <= 1, name


@pytest.mark.parametrize("name", ["rgb24", "rgb48le", "gray16le"])
def test_deep_jpeg2000(name: str, tmp_path: Path):
    """PIL lets bright values of deep colours overflow to black; greys it keeps."""
    import av

    encoder = av.CodecContext.create("jpeg2000", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, name, Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255, np.uint8), format="rgb24").reformat(format=name)
    path = tmp_path / "white.j2k"
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode()]))
    if name == "rgb48le":
        with pytest.raises(MediaError, match=r"white\.j2k: is a coloured JPEG 2000 of 16 bits a channel; expected 8"):
            open_image(path)
    else:
        assert (np.asarray(open_image(path)) >= 254).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((4, 4), 200, np.float32),
        np.full((4, 4), -0.5, np.float32),
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), 200, np.int32),
        np.full((4, 4), 70_000, np.int32),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(pixels: np.ndarray):
    with pytest.raises(MediaError, match="whose range nobody knows; expected 8 or 16 bits a channel"):
        rgb_array(Image.fromarray(pixels))


@pytest.mark.parametrize("array", [noise(4, 4), noise(4, 4, 4), noise(4, 4, 3).astype(np.uint16), noise(0, 4, 3), None])
def test_arrays_are_rgb_bytes_or_refused(array: object):
    with pytest.raises(MediaError, match="a frame: is"):
        rgb_array(array)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "1", "L", "P", "RGBX"])
def test_other_modes(mode: str):
    picture = Image.fromarray(corners())
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(picture, to_lab)
    else:
        image = picture.quantize(16) if mode == "P" else picture.convert(mode)
    expected = picture if mode not in ("1", "L") else picture.convert(mode)
    assert close(rgb_array(image), np.asarray(expected.convert("RGB")), within=12)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_files(kind: str):
    """Of a JPEG Adobe's kind, in which PIL writes them: ink is stored inverted."""
    file = io.BytesIO()
    Image.fromarray(corners()).convert("CMYK").save(file, kind, quality=95)
    assert close(picture_of(file.getvalue(), "it"), corners(), within=12)


def test_icc_profiles_are_followed():
    """A profile whose red and green are swapped shows whether it is looked at."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    swapped = bytes(profile).replace("sRGB".encode("utf-16-be"), "odd.".encode("utf-16-be"))
    expected = corners()[..., [1, 0, 2]]
    for mode in ("RGB", "RGBA", "P"):
        picture = Image.fromarray(corners())
        image = picture.quantize(4) if mode == "P" else picture.convert(mode)
        image.info["icc_profile"] = swapped
        assert close(rgb_array(image), expected, within=6), mode
    image = half_transparent()
    image.info["icc_profile"] = swapped
    assert (rgb_array(image)[:, :32] == 255).all()


def test_palettes_in_the_colours_of_a_grey_profile():
    """Their numbers are no greys. The profile (ICC.1:2001-04, 6.3.2) says that light grows with the number."""
    curve, white = struct.pack(">4sII", b"curv", 0, 0), struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 12)
    head = struct.pack(">I4sI4s4s4s", 188, bytes(4), 0x2100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    profile = head + bytes(28) + white[8:] + bytes(48) + tags + white + curve
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    shown = {}
    for mode in ("L", "LA", "P"):
        image = grey.quantize(256) if mode == "P" else grey.convert(mode)
        image.info["icc_profile"] = profile
        shown[mode] = rgb_array(image)
        assert abs(int(shown[mode][8, 0, 0]) - 188) <= 1, "half of the light"
        assert np.abs(shown[mode].astype(int) - shown["L"]).max() <= 8, mode


def test_an_srgb_profile_changes_nothing_and_a_broken_one_is_said():
    image = Image.fromarray(noise(48, 64, 3))
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(rgb_array(image), noise(48, 64, 3))
    image.info["icc_profile"] = b"no profile"
    with pytest.warns(MediaWarning, match="its colours are taken for sRGB"):
        assert np.array_equal(rgb_array(image), noise(48, 64, 3))


# ---- pictures that are cut off, and pictures that do harm -----------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_short_of_its_end_is_seen_with_a_warning(progressive: bool, tmp_path: Path):
    file = io.BytesIO()
    Image.effect_noise((96, 96), 60).save(file, "JPEG", progressive=progressive)
    whole = picture_of(file.getvalue(), "whole")
    path = tmp_path / "cut.jpg"
    path.write_bytes(file.getvalue()[:-10])
    for read in (lambda: np.asarray(open_image(path)), lambda: rgb_array(Image.open(path))):
        with pytest.warns(MediaWarning, match=r"cut\.jpg: is cut off: .+ missing"):
            assert np.array_equal(read()[:64], whole[:64])
    with pytest.raises(MediaError, match="image file is truncated"):
        upright_rgb(begin_image(path, path), path, strict=True)
    path.write_bytes(file.getvalue()[: 1 + file.getvalue().index(b"\xff\xda") + 60])
    with pytest.raises(MediaError, match="image file is truncated"):
        open_image(path)


def test_only_named_formats_are_opened(tmp_path: Path):
    """PIL would start Ghostscript for the first."""
    (tmp_path / "frame.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "icon.ico")
    (tmp_path / "icon.ico").rename(tmp_path / "icon.png")
    for name in ("frame.png", "icon.png"):
        with pytest.raises(MediaError, match="is broken or not an image"):
            open_image(tmp_path / name)


def test_a_picture_bomb(tmp_path: Path):
    small = io.BytesIO()
    Image.new("1", (8, 8)).save(small, "PNG")
    bomb = small.getvalue().replace(struct.pack(">II", 8, 8), struct.pack(">II", 40_000, 40_000))
    header = bomb.index(b"IHDR")
    bomb = bomb[: header + 17] + struct.pack(">I", zlib.crc32(bomb[header : header + 17])) + bomb[header + 21 :]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(MediaError, match=r"bomb\.png: is too large \(.*; expected at most 178,956,970"):
        open_image(tmp_path / "bomb.png")
