"""Sources of frames: the same frames, numbers and times from every decoder, read lazily and by seeking."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import struct
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videochat_online.media import decord_source, readers
from videochat_online.media.pyav_source import PyavReader
from videochat_online.media.readers import Frame, VideoReader, open_image, open_video

BACKENDS = ("decord", "pyav")
STARTS = {  # seconds of every frame, as written into the recorded clips
    "v10": [i / 10 for i in range(45)],
    "v30": [i / 30 for i in range(100)],
    "v24": [i * 1001 / 24000 for i in range(120)],
    "v2": [i / 2 for i in range(9)],
    "v1": [float(i) for i in range(12)],
    "vfr": [i / 10 for i in range(21)]
    + [2.2, 2.3, 2.6, 2.7, 3.0, 3.2, 3.4, 3.6, 3.7, 4.0, 4.2, 4.4, 4.5, 4.7, 5.0, 5.2, 5.4, 5.5, 5.7],
    "off1s": [i / 10 for i in range(30)],
    "one": [0.0],
    "two": [0.0, 0.1],
}
RATES = {
    "v10": 10,
    "v30": 30,
    "v24": 24000 / 1001,
    "v2": 2,
    "v1": 1,
    "vfr": 400 / 57,
    "off1s": 10,
    "one": 10,
    "two": 10,
}
BT709 = 1


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "decord":
        need_decord()
    return request.param


def need_decord() -> None:
    """Skips without decord. Does not import it: loaded before PyAV, its libvpx takes the place of PyAV's own."""
    if importlib.util.find_spec("decord") is None:
        pytest.skip("needs decord: pip install decord (Linux x86-64)")


def pictures(video: VideoReader, indices: Sequence[int] | None = None) -> list[np.ndarray]:
    return [frame.image for frame in (video if indices is None else video.read(indices))]


def assert_same(some: list[np.ndarray], others: list[np.ndarray]) -> None:
    assert len(some) == len(others)
    for number, (one, other) in enumerate(zip(some, others, strict=True)):
        assert np.array_equal(one, other), f"picture {number} differs"


def both(path: Path, **options) -> list[list[np.ndarray]]:
    """Every picture of the file, from decord and from PyAV."""
    need_decord()
    return [pictures(open_video(path, backend=name, **options)) for name in BACKENDS]


@pytest.mark.parametrize("name", STARTS)
def test_recorded_clips_have_their_frames_and_times(name: str, backend: str, golden: Path, number_in: Callable):
    with open_video(golden / f"media/{name}.mp4", backend=backend) as video:
        frames = list(video)
        assert [number_in(frame.image) for frame in frames] == list(range(len(STARTS[name])))
        assert [frame.index for frame in frames] == list(range(len(STARTS[name])))
        assert [frame.timestamp for frame in frames] == video.timestamps.tolist() == STARTS[name]
        assert video.timestamps.dtype == np.float64
        assert video.fps == RATES[name]
        assert video.start_offset == (1.0 if name == "off1s" else 0.0)
        assert video.duration == pytest.approx(STARTS[name][-1] + (0.1 if name == "vfr" else 1 / RATES[name]))
        assert (video.size, len(video), video.num_frames) == ((64, 48), len(frames), len(frames))


@pytest.mark.parametrize("name", STARTS)
def test_both_decoders_give_the_same_pictures(name: str, golden: Path):
    assert_same(*both(golden / f"media/{name}.mp4"))


CLIPS = {
    "a long group with B-frames": ("a.mp4", {"num_frames": 255, "gop": 250, "b_frames": 3}),
    "short groups": ("b.mp4", {"num_frames": 130, "gop": 12}),
    "BT.709 colours": ("c.mp4", {"num_frames": 10, "colorspace": BT709}),
    "matroska": ("d.mkv", {}),
    "vp9": ("e.webm", {"codec": "libvpx-vp9"}),
    "flv": ("f.flv", {}),
    "avi": ("g.avi", {"codec": "mpeg4", "b_frames": 0}),
}


@pytest.mark.parametrize("kind", CLIPS)
def test_written_clips_read_alike_in_any_order(kind: str, write_clip: Callable, number_in: Callable, tmp_path: Path):
    name, options = CLIPS[kind]
    path = write_clip(tmp_path / name, **options)
    from_decord, from_pyav = both(path)
    assert_same(from_decord, from_pyav)
    assert [number_in(picture) for picture in from_pyav] == list(range(options.get("num_frames", 60)))
    order = np.random.default_rng(0).integers(0, len(from_pyav), size=40).tolist()
    for backend in BACKENDS:
        with open_video(path, backend=backend) as video:
            assert_same(pictures(video, order), [from_pyav[index] for index in order])


def test_both_decoders_scale_alike(write_clip: Callable, tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", num_frames=12)
    from_decord, from_pyav = both(path, size=(40, 30))
    assert from_pyav[0].shape == (30, 40, 3)
    assert_same(from_decord, from_pyav)


QUARTER_TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("degrees", QUARTER_TURNS)
def test_turned_films_stand_upright(degrees: int, write_clip: Callable, tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", num_frames=8, size=(128, 96))
    lying = pictures(open_video(path))
    turned = turn(path, degrees)
    from_decord, from_pyav = both(turned)
    assert_same(from_decord, from_pyav)
    assert_same(from_pyav, [np.rot90(picture, -degrees // 90) for picture in lying])
    assert open_video(turned).size == ((96, 128) if degrees != 180 else (128, 96))
    assert_same(*both(turned, size=(40, 30)))


def turn(path: Path, degrees: int) -> Path:
    """The file with the track's matrix (ISO/IEC 14496-12, 8.3.2) turned clockwise."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (value * 0x10000 for value in QUARTER_TURNS[degrees])
    struct.pack_into(">9i", content, matrix, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    turned = path.with_name(f"turned{degrees}.mp4")
    turned.write_bytes(content)
    return turned


NOT_FOR_DECORD = {
    "open groups": ("a.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}}),
    "mpeg transport stream": ("b.ts", {"num_frames": 70}),
    "avi without display times": ("c.avi", {"codec": "mpeg4"}),
    "raw stream": ("d.h264", {}),
}


@pytest.mark.parametrize("kind", NOT_FOR_DECORD)
def test_what_decord_would_get_wrong_is_read_by_pyav(
    kind: str, write_clip: Callable, number_in: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    need_decord()
    name, options = NOT_FOR_DECORD[kind]
    path = write_clip(tmp_path / name, **options)
    with caplog.at_level(logging.WARNING), open_video(path) as video:
        order = [50, 3, 31, 31, 32, 5, 59, 0]
        assert [number_in(picture) for picture in pictures(video, order)] == order
        assert video.timestamps.tolist() == pytest.approx([i / 25 for i in range(video.num_frames)])
    assert [str(path) in record.getMessage() and "PyAV" in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(readers.MediaError, match="decord cannot read it"):
        open_video(path, backend="decord")


def test_narrow_pictures_are_read_by_pyav(write_clip: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    need_decord()
    path = write_clip(tmp_path / "narrow.mp4", num_frames=5, size=(48, 64))
    with open_video(path) as video, caplog.at_level(logging.WARNING):
        assert_same(pictures(video), pictures(open_video(path, backend="pyav")))
    assert "its picture has shape (64, 48, 4) instead of (64, 48, 3)" in caplog.text


def test_pyav_takes_over_where_decord_breaks_off(golden: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    need_decord()
    import av  # noqa: F401 - before decord
    import decord

    class Breaking:
        def __getitem__(self, index: int):
            if index == 3:
                raise decord.DECORDError("lost the thread")
            return np.zeros((48, 64, 3), np.uint8)

    monkeypatch.setattr(decord_source, "_open_decord", lambda *_: Breaking())
    path = golden / "media/v10.mp4"
    with open_video(path) as video, caplog.at_level(logging.WARNING):
        assert_same(
            pictures(video, range(2, 6)), [np.zeros((48, 64, 3)), *pictures(open_video(path, backend="pyav"))[3:6]]
        )
    assert "decord cannot read frame 3 (lost the thread)" in caplog.text
    with open_video(path, backend="decord") as video, pytest.raises(readers.MediaError, match="cannot read frame 3"):
        pictures(video, [3])


def test_without_decord_pyav_reads(golden: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
    with open_video(golden / "media/v2.mp4") as video:
        assert isinstance(video, PyavReader)
        assert len(pictures(video)) == 9
    assert caplog.records == []
    with pytest.raises(ImportError, match="pip install decord"):
        open_video(golden / "media/v2.mp4", backend="decord")


def test_decords_bridge_is_left_as_the_user_set_it(golden: Path):
    need_decord()
    import av  # noqa: F401 - before decord
    import decord

    decord.bridge.set_bridge("torch")
    try:
        with open_video(golden / "media/v2.mp4", backend="decord") as video:
            assert all(isinstance(picture, np.ndarray) for picture in pictures(video))
        assert decord.bridge._CURRENT_BRIDGE.type == "torch"
    finally:
        decord.bridge.reset_bridge()


def count_decoded(monkeypatch) -> list[int]:
    """The number of every frame that comes out of PyAV's decoder from now on."""
    decoded: list[int] = []
    number_of = PyavReader._number

    def counting(self, frame):
        number = number_of(self, frame)
        decoded.append(number)
        return number

    monkeypatch.setattr(PyavReader, "_number", counting)
    return decoded


def test_gaps_are_skipped_by_seeking(write_clip: Callable, number_in: Callable, tmp_path: Path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", num_frames=250, gop=10, b_frames=0)
    decoded = count_decoded(monkeypatch)
    order = [5, 97, 98, 115, 213, 249, 41]
    with open_video(path, backend="pyav") as video:
        assert [number_in(picture) for picture in pictures(video, order)] == order
    assert decoded == [*range(6), *range(90, 99), *range(110, 116), *range(210, 214), *range(240, 250), 40, 41]


def test_ascending_indices_decode_every_frame_once(write_clip: Callable, tmp_path: Path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", num_frames=100, gop=20)
    decoded = count_decoded(monkeypatch)
    with open_video(path, backend="pyav") as video:
        assert len(pictures(video, [0, 0, 3, 3, 3, *range(4, 100, 2)])) == 53
    assert decoded == sorted(set(decoded))


def test_reading_is_lazy(golden: Path, monkeypatch):
    decoded = count_decoded(monkeypatch)
    with open_video(golden / "media/v10.mp4", backend="pyav") as video:
        frames = video.read(range(45))
        assert decoded == []
        assert next(frames).index == 0
        assert decoded == [0]


def test_no_frame_is_kept(backend: str, golden: Path):
    """A reader that held its pictures would need memory in proportion to the length of the file."""
    with open_video(golden / "media/v30.mp4", backend=backend) as video:
        alive: weakref.WeakSet[Frame] = weakref.WeakSet()
        most = 0
        for frame in video:
            alive.add(frame)
            most = max(most, len(alive))
        del frame
        gc.collect()
        assert (most, len(alive)) == (1, 0)  # the one in hand, while the next is decoded


@pytest.fixture(scope="module")
def large_clip(write_clip: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 frames of 640 x 480 pixels: 184 MB decoded."""
    path = tmp_path_factory.mktemp("large") / "clip.mp4"
    return write_clip(path, num_frames=200, size=(640, 480), options={"preset": "ultrafast"})


def test_memory_does_not_grow_with_the_file(backend: str, large_clip: Path):
    """The process may grow by what the decoders buffer (10 to 50 MB), not by the 184 MB of all pictures."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc/self/statm")
    with open_video(large_clip, backend=backend, num_threads=1) as video:
        pages = [int(statm.read_text().split()[1]) for _ in video]
    assert (max(pages) - pages[0]) * os.sysconf("SC_PAGESIZE") < 100e6


def test_two_readings_of_one_reader_do_not_disturb_each_other(golden: Path, backend: str, number_in: Callable):
    with open_video(golden / "media/v10.mp4", backend=backend) as video:
        pairs = zip(video.read(range(0, 20)), video.read(range(40, 20, -1)), strict=True)
        assert [(number_in(a.image), number_in(b.image)) for a, b in pairs] == list(
            zip(range(20), range(40, 20, -1), strict=True)
        )


def test_real_clips_read_alike(shared: Path):
    for path in sorted((shared / "videos").glob("*.mp4")):
        from_decord, from_pyav = both(path, num_threads=1)
        assert_same(from_decord, from_pyav)
        with open_video(path, num_threads=1) as video:
            assert np.allclose(np.diff(video.timestamps), 1 / video.fps)
            order = np.random.default_rng(0).integers(0, len(video), size=8).tolist()
            assert_same(pictures(video, order), [from_pyav[index] for index in order])


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


@pytest.mark.parametrize("name", ["gray.png", "pal.png", "rgba.png", "img0_40x30.jpg", "img0_40x30.png"])
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


def test_indices_outside_the_source_are_refused(golden: Path):
    with open_video(golden / "media/two.mp4") as video:
        for index in (2, -1):
            with pytest.raises(ValueError, match=rf"two.mp4: frame {index} asked for, expected 0 <= index < 2"):
                pictures(video, [index])


def test_a_closed_reader_says_so(golden: Path, backend: str):
    with open_video(golden / "media/two.mp4", backend=backend) as video:
        pass
    with pytest.raises(ValueError, match="the reader is closed"):
        pictures(video, [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "opencv"}, "backend must be one of auto, decord, pyav, got 'opencv'"),
        ({"size": (0, 4)}, r"size must be \(width, height\) in pixels, both >= 1, got \(0, 4\)"),
        ({"size": (448,)}, "size must be"),
        ({"fps": 2}, "fps=2 is for folders and lists of images"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict, message: str, golden: Path):
    with pytest.raises(ValueError, match=message):
        open_video(golden / "media/two.mp4", **options)


def test_rates_of_folders_are_checked(golden: Path):
    with pytest.raises(ValueError, match="fps must be a number > 0, got 0"):
        open_video(golden / "media/frames1", fps=0)
