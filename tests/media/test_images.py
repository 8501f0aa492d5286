"""Frames that are images: folders and lists, animations with their delays, pictures of every mode."""

from __future__ import annotations

import doctest
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videochat_online.media import image_source
from videochat_online.media.readers import VideoReader, open_image, open_video


def pictures(video: VideoReader, indices: Sequence[int] | None = None) -> list[np.ndarray]:
    return [frame.image for frame in (video if indices is None else video.read(indices))]


def assert_same(some: list[np.ndarray], others: list[np.ndarray]) -> None:
    assert len(some) == len(others)
    for number, (one, other) in enumerate(zip(some, others, strict=True)):
        assert np.array_equal(one, other), f"picture {number} differs"


def test_the_docstrings_examples():
    assert doctest.testmod(image_source).failed == 0


@pytest.mark.parametrize("folder", ["frames_unpadded", "frames10", "frames1"])
def test_folders_are_read_in_natural_order(folder: str, golden: Path, number_in: Callable):
    with open_video(golden / "media" / folder, fps=4) as video:
        assert [number_in(frame.image) for frame in video] == list(range(len(video)))
        assert video.timestamps.tolist() == [i / 4 for i in range(len(video))]
        assert (video.fps, video.duration, video.size) == (4.0, len(video) / 4, (64, 48))
    assert open_video(golden / "media" / folder).timestamps[1] == 1.0  # one a second unless told otherwise


def test_a_folder_is_its_images_alone(golden: Path, tmp_path: Path):
    for name in ("b.PNG", "a10.png", "a9.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes((golden / "media/img0_40x30.png").read_bytes())
    (tmp_path / "deeper").mkdir()
    video = open_video(tmp_path)
    assert [path.name for path in video._images] == ["a9.png", "a10.png", "b.PNG"]


def test_lists_of_paths_and_images(golden: Path):
    paths = [golden / "media/img0_40x30.png", str(golden / "media/gray.png"), Image.new("L", (5, 4), 7)]
    with open_video(paths, fps=2) as video:
        assert [picture.shape for picture in pictures(video)] == [(30, 40, 3), (48, 64, 3), (4, 5, 3)]
        assert video.timestamps.tolist() == [0.0, 0.5, 1.0]
        assert (pictures(video, [2])[0] == 7).all()
    with open_video(paths, size=(8, 6)) as video:
        assert {picture.shape for picture in pictures(video)} == {(6, 8, 3)}
        assert video.size == (8, 6)


def test_gifs_have_the_delays_of_their_frames(tmp_path: Path):
    """Delays under 20 ms, mostly 0, mean 100 ms: browsers and FFmpeg show such files that way."""
    path = tmp_path / "clip.gif"
    shades = [Image.new("RGB", (16, 12), (value, 0, 255 - value)) for value in (0, 80, 160, 240)]
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=[200, 0, 50, 300])
    with open_video(path) as video:
        assert video.timestamps.tolist() == [0.0, 0.2, 0.3, 0.35]
        assert (video.duration, video.size) == (0.65, (16, 12))
        forth, back = pictures(video), pictures(video, [3, 2, 1, 0])
    assert_same(forth, back[::-1])
    assert [int(picture[0, 0, 0]) for picture in forth] == [0, 80, 160, 240]


def test_a_still_image_is_a_video_of_one_frame(golden: Path):
    with open_video(golden / "media/img1_90x30.jpg") as video:
        assert (len(video), video.size, video.timestamps.tolist()) == (1, (90, 30), [0.0])
        assert np.array_equal(pictures(video)[0], np.array(open_image(golden / "media/img1_90x30.jpg")))


@pytest.mark.parametrize("name", ["gray.png", "pal.png", "img0_40x30.jpg", "img0_40x30.png"])
def test_images_of_every_mode_become_rgb(name: str, golden: Path):
    image = open_image(golden / "media" / name)
    assert image.mode == "RGB"
    assert np.array_equal(np.array(image), np.array(Image.open(golden / "media" / name).convert("RGB")))


def test_sixteen_bit_greys_keep_their_shades(tmp_path: Path):
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "grey.png")
    assert np.array_equal(np.array(open_image(tmp_path / "grey.png"))[..., 1], np.arange(256).reshape(16, 16))


def test_photographs_stand_upright(tmp_path: Path):
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(3, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise to show
    image.save(tmp_path / "photo.png", exif=exif)
    assert open_image(tmp_path / "photo.png").size == (3, 20)


def test_rates_of_folders_are_checked(golden: Path):
    with pytest.raises(ValueError, match="fps must be a number > 0, got 0"):
        open_video(golden / "media/frames1", fps=0)
