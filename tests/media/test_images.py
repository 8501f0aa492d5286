"""Frames that are images: folders and lists, animations with their delays, pictures of every mode."""

from __future__ import annotations

import doctest
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videochat_online.media import image_source
from videochat_online.media.readers import MediaError, VideoReader, open_image, open_video
from videochat_online.media.source import MediaWarning


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
    pages = [Image.new("RGB", (16, 12), (value, 0, 255 - value)) for value in (0, 80, 160, 240)]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=[200, 0, 50, 300])
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
    greys = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(greys).save(tmp_path / "grey.png")
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


# ---- animations -----------------------------------------------------------------------------------------------------


def shades(num: int, size: tuple[int, int] = (16, 12)) -> list[Image.Image]:
    return [Image.new("RGB", size, (40 * n % 256, 0, 255 - 40 * n % 256)) for n in range(num)]


def write_animation(path: Path, frames: Sequence[Image.Image], **options: object) -> Path:
    try:
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    except (KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {path.suffix}")
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng", ".avif"])
def test_animations_have_their_own_delays(suffix: str, tmp_path: Path):
    path = write_animation(tmp_path / f"clip{suffix}", shades(6), duration=200)
    with open_video(path) as video:
        assert video.timestamps.tolist() == pytest.approx([0.2 * n for n in range(6)])
        assert (video.duration, video.fps) == pytest.approx((1.2, 5.0))
        reds = [int(picture[5, 5, 0]) for picture in pictures(video)]
        assert np.abs(np.array(reds) - 40 * np.arange(6)).max() <= 4
        assert_same(pictures(video, [4, 1]), [pictures(video)[4], pictures(video)[1]])


def test_whatever_it_is_called_an_animation_is_one(tmp_path: Path):
    """Uploads have names of the server's own."""
    for suffix in (".gif", ".webp", ".avif"):
        path = write_animation(tmp_path / f"clip{suffix}", shades(3), duration=200)
        path = path.rename(tmp_path / f"upload{suffix}.video")
        assert open_video(path).timestamps.tolist() == pytest.approx([0, 0.2, 0.4])


def test_a_still_before_an_animation_is_no_part_of_it(tmp_path: Path):
    still, *frames = shades(4)
    path = write_animation(tmp_path / "clip.png", [still, *frames], duration=[100, 150, 250], default_image=True)
    with open_video(path) as video:
        assert video.timestamps.tolist() == pytest.approx([0, 0.1, 0.25])
        assert [int(picture[0, 0, 0]) for picture in pictures(video)] == [40, 80, 120]


def test_short_delays_of_other_kinds_are_meant(tmp_path: Path):
    with open_video(write_animation(tmp_path / "clip.webp", shades(4), duration=10)) as video:
        assert video.timestamps.tolist() == pytest.approx([0, 0.01, 0.02, 0.03])


def test_the_views_of_a_photograph_are_no_frames(tmp_path: Path):
    """Telephones store depth and previews behind a JPEG (CIPA DC-007)."""
    write_animation(tmp_path / "photo.mpo", shades(2)).rename(tmp_path / "photo.jpg")
    assert Image.open(tmp_path / "photo.jpg").n_frames == 2
    with open_video(tmp_path / "photo.jpg") as video:
        assert len(video) == 1


def endless_gif(num_frames: int, width: int, height: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame = b"\x21\xf9\x04\x00\x02\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * num_frames + b";"


@pytest.mark.parametrize(("num_frames", "side"), [(100_000, 1), (3000, 2000)])
def test_animations_are_limited(num_frames: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_source, "MAX_ANIMATED_PIXELS", 2**27)  # as a test may take no half a minute
    (tmp_path / "long.gif").write_bytes(endless_gif(num_frames, side, side))
    with pytest.raises(MediaError, match=r"long\.gif: has more than [\d,]+ frames of \d+x\d+ pixels; expected"):
        open_video(tmp_path / "long.gif")
    (tmp_path / "long.gif").write_bytes(endless_gif(2, 9000, 4000))
    with pytest.raises(MediaError, match=r"has pictures of 9000x4000; expected at most 35,389,440 pixels"):
        open_video(tmp_path / "long.gif")
    (tmp_path / "long.gif").write_bytes(endless_gif(20, side, side))
    assert len(open_video(tmp_path / "long.gif")) == 20


# ---- folders --------------------------------------------------------------------------------------------------------


def test_no_picture_of_a_folder_is_passed_over(tmp_path: Path):
    """It would shift the times of all that follow."""
    names = {"0.jfif": "JPEG", "1.ppm": "PPM", "2.jp2": "JPEG2000", "3.PNG": "PNG", "4.jpe": "JPEG", "5.dib": "BMP"}
    for number, (name, kind) in enumerate(names.items()):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / name, kind)
    with open_video(tmp_path) as video:
        assert [round(int(picture[0, 0, 0]) / 40) for picture in pictures(video)] == list(range(6))
    (tmp_path / "6.heic").write_bytes(b"a picture of another kind")
    (tmp_path / "7.TGA").write_bytes(b"and one more")
    (tmp_path / "notes.txt").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"holds 2 pictures that cannot be read \(6\.heic, 7\.TGA\); expected a"):
        open_video(tmp_path)


def test_pictures_whose_end_is_missing_in_a_folder(tmp_path: Path):
    for number in range(3):
        Image.effect_noise((64, 64), 60).save(tmp_path / f"{number}.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:-9])
    with pytest.warns(MediaWarning, match=r"1\.jpg: is cut off"), open_video(tmp_path) as video:
        assert len(pictures(video)) == 3
    for source in (tmp_path, tmp_path / "1.jpg", [tmp_path / "0.jpg", str(tmp_path / "1.jpg")]):
        with pytest.raises(MediaError, match=r"1\.jpg"), open_video(source, strict=True) as video:
            pictures(video)
