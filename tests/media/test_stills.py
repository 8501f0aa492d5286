"""Stills of every kind as RGB of 8 bits: transparency, depth, colour spaces, and files that are cut off."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.media.test_picture import close, corners
from videochat_online.media.picture import begin_image, rgb_array, upright_rgb
from videochat_online.media.readers import MediaError, open_image
from videochat_online.media.source import MediaWarning
from videochat_online.serve.content import picture_of


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
