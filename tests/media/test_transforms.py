"""Pictures to tensors: equal to PIL and numpy within two steps of a byte, recorded grids, tiles cut where PIL cuts."""

from __future__ import annotations

import doctest
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from videochat_online.lab.bench.stream import straightforward_transform
from videochat_online.media import transforms
from videochat_online.media.readers import open_image, open_video
from videochat_online.media.transforms import (
    IMAGENET_STD,
    FrameTransform,
    dynamic_tiles,
    tile_grid,
)

TWO_STEPS = 2 / 255 / min(IMAGENET_STD) + 1e-5
"""Of a byte, after normalisation. torch keeps the filter's weights in 16 bits and PIL in 22: each of the two passes may
round otherwise."""


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_like_pil(frame: Image.Image | np.ndarray, size: int) -> None:
    ours, plain = FrameTransform(size)(frame), torch.from_numpy(straightforward_transform(frame, size))
    assert ours.shape == plain.shape == (3, size, size)
    assert ours.dtype == torch.float32
    difference = (ours - plain).abs()
    assert difference.max() <= TWO_STEPS
    assert (difference > 1e-5).float().mean() < 0.02
    assert (difference > TWO_STEPS / 2).float().mean() < 0.0002


def test_the_docstrings_examples():
    assert doctest.testmod(transforms).failed == 0


@pytest.mark.parametrize(
    ("width", "height"), [(1280, 720), (720, 1280), (640, 272), (176, 144), (449, 447), (64, 48), (1000, 10), (1, 1)]
)
@pytest.mark.parametrize("size", [448, 64])
def test_equal_to_pil_and_numpy(width: int, height: int, size: int):
    """Noise is the hardest case."""
    assert_like_pil(noise(width, height), size)


def test_equal_on_real_frames(shared: Path):
    for path in sorted((shared / "videos").glob("*.mp4")):
        with open_video(path) as video:
            for frame in video.read([0, 50]):
                assert_like_pil(frame.image, 448)


@pytest.mark.parametrize("name", ["gray.png", "pal.png", "img1_90x30.jpg", "img4_201x57.png"])
def test_images_of_every_mode(name: str, golden: Path):
    """Grey and palette (test_picture.py has the others): with and without going through open_image."""
    path = golden / "media" / name
    assert_like_pil(Image.open(path), 56)
    assert torch.equal(FrameTransform(56)(Image.open(path)), FrameTransform(56)(open_image(path)))


def test_pictures_that_are_shown_are_those_of_files(golden: Path, tmp_path: Path):
    """Upright and over white, whether a session is shown a PIL image or a file is opened."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.open(golden / "media/img4_201x57.png").save(tmp_path / "photo.png", exif=exif)
    for path in (tmp_path / "photo.png", golden / "media/rgba.png"):
        assert torch.equal(FrameTransform(56)(Image.open(path)), FrameTransform(56)(open_image(path)))


def test_greys_of_16_bits_keep_their_shades():
    shades = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    eight_bits = Image.fromarray((shades >> 8).astype(np.uint8))
    for image in (Image.fromarray(shades), Image.fromarray(shades.astype(np.int32))):
        assert torch.equal(FrameTransform(64)(image), FrameTransform(64)(eight_bits)), image.mode


def test_a_frame_of_the_right_size_is_only_normalised():
    frame = noise(32, 32)
    expected = straightforward_transform(frame, 32)
    assert np.allclose(FrameTransform(32)(frame).numpy(), expected, rtol=0, atol=1e-6)


def test_own_mean_and_deviation():
    frame = noise(40, 30)
    half = (0.5, 0.5, 0.5)
    ours, plain = FrameTransform(16, half, half)(frame), straightforward_transform(frame, 16, half, half)
    assert np.abs(ours.numpy() - plain).max() <= 1 / 255 / 0.5 + 1e-5
    assert ours.abs().max() <= 1


def test_a_batch_is_its_frames():
    transform, frames = FrameTransform(24), [noise(40, 30), Image.fromarray(noise(24, 24)), noise(9, 90)]
    batch = transform.batch(frames)
    assert batch.shape == (3, 3, 24, 24)
    assert torch.equal(batch, torch.stack([transform(frame) for frame in frames]))
    assert transform.batch([]).shape == (0, 3, 24, 24)


def test_frames_are_left_as_they_are():
    frame = noise(24, 24)
    before = frame.copy()
    FrameTransform(24)(frame).zero_()
    assert np.array_equal(frame, before)


def test_any_memory_layout_is_read():
    frame = noise(40, 30)
    expected = FrameTransform(16)(frame)
    frozen = frame.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of read-only memory
        for same in (
            frozen,
            frame[:, ::-1][:, ::-1],
            np.asfortranarray(frame),
            np.pad(frame, ((2, 2), (3, 3), (0, 0)))[2:-2, 3:-3],
        ):
            assert torch.equal(FrameTransform(16)(same), expected)


def test_transforms_travel_to_workers():
    transform = FrameTransform(16)
    expected = transform(noise(8, 8))
    copied = pickle.loads(pickle.dumps(transform))
    assert copied == transform
    assert torch.equal(copied(noise(8, 8)), expected)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"is float32 \(4, 4, 3\)"),
        (np.full((4, 4, 3), np.nan), r"is float64 \(4, 4, 3\)"),
        (np.zeros((3, 4, 4), np.uint8), r"is uint8 \(3, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"is uint8 \(4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"is uint8 \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"is uint8 \(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), "is Tensor"),
        ("frame.png", "is str"),
    ],
)
def test_what_is_no_picture_is_refused(frame, message: str):
    with pytest.raises(ValueError, match=message):
        FrameTransform(8)(frame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "size must be a number of pixels >= 1, got 0"),
        ((8.0,), "got 8.0"),
        ((8, (0.5,)), "mean and std need 3 numbers"),
        ((8, (0, 0, 0), (1, 1, 0)), "std > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        FrameTransform(*arguments)


def test_tile_grids_are_the_recorded_ones(golden: Path):
    rows = json.loads((golden / "dynamic_tiles.json").read_text("utf-8"))
    for row in rows:
        limits = {"size": 448, "min_num": row["min_num"], "max_num": row["max_num"]}
        assert list(tile_grid(row["width"], row["height"], **limits)) == row["ratio_cols_rows"], row
        image = Image.new("RGB", (row["width"], row["height"]))
        tiles = dynamic_tiles(image, **limits, use_thumbnail=row["use_thumbnail"])
        assert len(tiles) == row["n_tiles"], row
        assert {tile.size for tile in tiles} == {tuple(size) for size in row["tile_sizes"]}
    assert len(rows) == 45


def test_tiles_are_cut_from_the_stretched_image(golden: Path):
    image = open_image(golden / "media/img4_201x57.jpg")
    cols, rows = tile_grid(*image.size, size=28, max_num=6)
    assert (cols, rows) == (4, 1)
    stretched = np.array(image.resize((cols * 28, rows * 28), Image.Resampling.BICUBIC))
    *tiles, thumbnail = (np.array(tile) for tile in dynamic_tiles(image, size=28, max_num=6))
    assert np.array_equal(np.concatenate(tiles, axis=1), stretched)
    assert np.array_equal(thumbnail, np.array(image.resize((28, 28), Image.Resampling.BICUBIC)))
    assert len(dynamic_tiles(image, size=28, max_num=6, use_thumbnail=False)) == 4


def test_tiles_stand_row_by_row():
    """Every tile of this picture has a colour of its own."""
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(np.kron(colours, np.ones((100, 100), np.uint8))).convert("RGB")
    tiles = dynamic_tiles(image, size=100, min_num=6, max_num=6, use_thumbnail=False)
    assert [tile.getpixel((50, 50))[0] for tile in tiles] == [0, 40, 80, 120, 160, 200]


def test_grids_stay_within_their_limits():
    for width in (1, 100, 448, 3000):
        for min_num, max_num in ((1, 1), (2, 2), (3, 7), (5, 5)):
            cols, rows = tile_grid(width, 448, size=448, min_num=min_num, max_num=max_num)
            assert min_num <= cols * rows <= max_num


def test_grids_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="min_num=3, max_num=2"):
        tile_grid(100, 100, size=448, min_num=3, max_num=2)
    with pytest.raises(ValueError, match="got 0x100"):
        tile_grid(0, 100, size=448)
