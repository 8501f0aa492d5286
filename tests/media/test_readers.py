"""Sources of frames: the same frames, numbers and times from every decoder, read lazily and by seeking."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videochat_online.media.readers import MediaError, PyavReader, VideoReader, open_video

DECODERS = ("decord", "pyav")
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


def pictures(video: VideoReader, indices: Sequence[int] | None = None) -> list[np.ndarray]:
    return [frame.image for frame in (video if indices is None else video.read(indices))]


def assert_same(some: list[np.ndarray], others: list[np.ndarray]) -> None:
    assert len(some) == len(others)
    for number, (one, other) in enumerate(zip(some, others, strict=True)):
        assert np.array_equal(one, other), f"picture {number} differs"


def both(path: Path, **options) -> list[list[np.ndarray]]:
    """Every picture of the file, from decord and from PyAV."""
    return [pictures(open_video(path, decoder=name, **options)) for name in DECODERS]


@pytest.mark.parametrize("name", STARTS)
def test_recorded_clips_have_their_frames_and_times(name: str, decoder: str, golden: Path, number_in: Callable):
    with open_video(golden / f"media/{name}.mp4", decoder=decoder) as video:
        frames = list(video)
        assert [number_in(frame.image) for frame in frames] == list(range(len(STARTS[name])))
        assert [frame.index for frame in frames] == list(range(len(STARTS[name])))
        assert [frame.timestamp for frame in frames] == video.timestamps.tolist() == STARTS[name]
        assert video.timestamps.dtype == np.float64
        assert video.fps == RATES[name]
        assert video.start_offset == (1.0 if name == "off1s" else 0.0)
        assert video.duration == pytest.approx(STARTS[name][-1] + (0.1 if name == "vfr" else 1 / RATES[name]))
        assert (video.size, len(video), video.num_frames) == ((64, 48), len(frames), len(frames))


@pytest.mark.usefixtures("need_decord")
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


@pytest.mark.usefixtures("need_decord")
@pytest.mark.parametrize("kind", CLIPS)
def test_written_clips_read_alike_in_any_order(kind: str, write_clip: Callable, number_in: Callable, tmp_path: Path):
    name, options = CLIPS[kind]
    path = write_clip(tmp_path / name, **options)
    from_decord, from_pyav = both(path)
    assert_same(from_decord, from_pyav)
    assert [number_in(picture) for picture in from_pyav] == list(range(options.get("num_frames", 60)))
    order = np.random.default_rng(0).integers(0, len(from_pyav), size=40).tolist()
    for decoder in DECODERS:
        with open_video(path, decoder=decoder) as video:
            assert_same(pictures(video, order), [from_pyav[index] for index in order])


@pytest.mark.usefixtures("need_decord")
def test_both_decoders_scale_alike(write_clip: Callable, tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", num_frames=12)
    from_decord, from_pyav = both(path, size=(40, 30))
    assert from_pyav[0].shape == (30, 40, 3)
    assert_same(from_decord, from_pyav)


QUARTER_TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.usefixtures("need_decord")
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


def test_a_film_trimmed_between_keyframes_begins_where_it_was_trimmed(
    write_clip: Callable, number_in: Callable, tmp_path: Path
):
    """Telephones trim by an edit list (ISO/IEC 14496-12, 8.6.6): the frames before it are decoded and not shown."""
    path = write_clip(tmp_path / "whole.mp4", num_frames=30, gop=20, fps=10)
    content = bytearray(path.read_bytes())
    place, scale = content.index(b"elst") + 16, content.index(b"mdhd") + 16
    (ticks,), (start,) = struct.unpack_from(">I", content, scale), struct.unpack_from(">I", content, place)
    struct.pack_into(">I", content, place, start + ticks * 7 // 10)
    path.write_bytes(content)
    with open_video(path, strict=True) as video:
        assert [number_in(picture) for picture in pictures(video)] == [*range(7, 30)]
        assert video.timestamps.tolist() == pytest.approx([n / 10 for n in range(23)])
        order = [22, 5, 14, 0, 12]
        assert [number_in(picture) for picture in pictures(video, order)] == [7 + index for index in order]


def test_slow_films_whose_frames_are_stored_in_another_order(write_clip: Callable, number_in: Callable, tmp_path: Path):
    """Matroska stores no times of decoding: that a frame is shown before the one stored ahead of it is no jump."""
    path = write_clip(tmp_path / "lapse.mkv", num_frames=12, fps=1, options={"x264-params": "bframes=3:b-pyramid=none"})
    with open_video(path) as video:
        assert video.timestamps.tolist() == pytest.approx(range(12)) and video.duration == pytest.approx(12)
        assert [number_in(picture) for picture in pictures(video)] == [*range(12)]


def test_hevc_in_transport_streams_reads_alike_in_any_order(write_clip: Callable, tmp_path: Path):
    """A seek there ends behind the keyframe, and the decoder makes up the pictures that it lacks without a word."""
    options = {"x265-params": "log-level=none:keyint=10:min-keyint=10:scenecut=0"}
    path = write_clip(tmp_path / "film.ts", num_frames=40, codec="libx265", options=options)
    with open_video(path) as video:
        every = pictures(video)
        order = [39, 12, 28, 29, 5, 31, 19]
        assert_same(pictures(video, order), [every[index] for index in order])


def test_large_jpegs_one_behind_another_are_a_film(tmp_path: Path):
    with (tmp_path / "film.mjpeg").open("wb") as file:
        for _ in range(12):
            Image.effect_noise((320, 240), 80).convert("RGB").save(file, "JPEG")
    with open_video(tmp_path / "film.mjpeg") as video:
        assert (len(pictures(video)), video.size) == (12, (320, 240))


NOT_FOR_DECORD = {
    "open groups": ("a.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0"}}),
    "mpeg transport stream": ("b.ts", {"num_frames": 70}),
    "avi without display times": ("c.avi", {"codec": "mpeg4"}),
    "raw stream": ("d.h264", {}),
}


@pytest.mark.usefixtures("need_decord")
@pytest.mark.parametrize("kind", NOT_FOR_DECORD)
def test_what_decord_would_get_wrong_is_refused(kind: str, write_clip: Callable, number_in: Callable, tmp_path: Path):
    name, options = NOT_FOR_DECORD[kind]
    path = write_clip(tmp_path / name, **options)
    with open_video(path) as video:
        order = [50, 3, 31, 31, 32, 5, 59, 0]
        assert [number_in(picture) for picture in pictures(video, order)] == order
        assert video.timestamps.tolist() == pytest.approx([i / 25 for i in range(video.num_frames)])
    with pytest.raises(MediaError, match=r"decord cannot read it \(.+\); expected .+ decoder='pyav'") as caught:
        open_video(path, decoder="decord")
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("need_decord")
def test_narrow_pictures_are_refused_by_decord(write_clip: Callable, tmp_path: Path):
    path = write_clip(tmp_path / "narrow.mp4", num_frames=5, size=(48, 64))
    with open_video(path, decoder="decord") as video, pytest.raises(MediaError, match=r"the shape \(64, 48, 4\)"):
        pictures(video)


@pytest.mark.usefixtures("need_decord")
def test_of_several_tracks_decord_takes_none(tmp_path: Path):
    """It would choose the larger one; every reader has the same track, or none."""
    path = write_two_tracks(tmp_path / "two.mp4")
    with open_video(path) as video:
        assert (video.size, len(video)) == ((64, 48), 5)
    with pytest.raises(MediaError, match="picks a track of its own where there are 2"):
        open_video(path, decoder="decord")


def write_two_tracks(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=5) for _ in range(2)]
        for stream, (width, height) in zip(streams, ((64, 48), (128, 96)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream in streams:
            for number in range(5):
                picture = np.full((stream.height, stream.width, 3), 40 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 5)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.usefixtures("need_decord")
def test_nothing_takes_over_where_decord_fails(golden: Path, monkeypatch: pytest.MonkeyPatch):
    import av  # noqa: F401 - before decord
    import decord

    class Breaking(list):
        def __getitem__(self, index: int):
            raise decord.DECORDError("lost the thread")

    path = golden / "media/v10.mp4"
    monkeypatch.setattr(decord, "VideoReader", lambda *_, **__: Breaking([None] * len(STARTS["v10"])))
    with open_video(path, decoder="decord") as video, pytest.raises(MediaError, match=r"frame 3 cannot be decoded"):
        pictures(video, [3])


def test_pyav_reads_and_decord_is_not_needed(golden: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with open_video(golden / "media/v2.mp4") as video:
        assert isinstance(video, PyavReader)
        assert len(pictures(video)) == 9
    with pytest.raises(ImportError, match=r"pip install 'videochat-online\[decord\]'"):
        open_video(golden / "media/v2.mp4", decoder="decord")


@pytest.mark.usefixtures("need_decord")
def test_decords_bridge_is_left_as_the_user_set_it(golden: Path):
    import av  # noqa: F401 - before decord
    import decord

    decord.bridge.set_bridge("torch")
    try:
        with open_video(golden / "media/v2.mp4", decoder="decord") as video:
            assert all(isinstance(picture, np.ndarray) for picture in pictures(video))
        assert decord.bridge._CURRENT_BRIDGE.type == "torch"
    finally:
        decord.bridge.reset_bridge()


@pytest.mark.usefixtures("need_decord")
def test_real_clips_read_alike(shared: Path):
    for path in sorted((shared / "videos").glob("*.mp4")):
        from_decord, from_pyav = both(path, num_threads=1)
        assert_same(from_decord, from_pyav)
        with open_video(path, num_threads=1) as video:
            assert np.allclose(np.diff(video.timestamps), 1 / video.fps)
            order = np.random.default_rng(0).integers(0, len(video), size=8).tolist()
            assert_same(pictures(video, order), [from_pyav[index] for index in order])


def test_indices_outside_the_source_are_refused(golden: Path):
    with open_video(golden / "media/two.mp4") as video:
        for index in (2, -1):
            with pytest.raises(ValueError, match=rf"two.mp4: frame {index} asked for, expected 0 <= index < 2"):
                pictures(video, [index])


def test_a_closed_reader_says_so(golden: Path, decoder: str):
    with open_video(golden / "media/two.mp4", decoder=decoder) as video:
        pass
    with pytest.raises(ValueError, match="the reader is closed"):
        pictures(video, [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "opencv"}, "decoder must be one of pyav, decord, got 'opencv'"),
        ({"size": (0, 4)}, r"size must be \(width, height\) in pixels, both >= 1, got \(0, 4\)"),
        ({"size": (448,)}, "size must be"),
        ({"fps": 2}, "fps=2 is for folders and lists of images"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict, message: str, golden: Path):
    with pytest.raises(ValueError, match=message):
        open_video(golden / "media/two.mp4", **options)
