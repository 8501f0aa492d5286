"""Odd files play, or end in one MediaError that names them; mistakes of our own are seen as what they are."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.media.live_servers import http_server
from tests.media.test_bad_input import refuse
from tests.odd_media import mutated, with_damaged_second_page, with_gbk_title, with_unknown_codec, write_video
from videochat_online.media import container, image_source, readers, video_index
from videochat_online.media.live import LiveStream, PushedFrames
from videochat_online.media.live_network import NetworkStream, Timeouts
from videochat_online.media.readers import MediaError, open_image, open_video
from videochat_online.media.source import MediaWarning, each, reading

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_a_title_that_is_not_utf8_is_none_of_our_business(suffix: str, decoder: str, tmp_path: Path):
    with open_video(write_video(tmp_path / f"plain{suffix}"), decoder=decoder) as plain:
        expected = [frame.image for frame in plain]
    with open_video(with_gbk_title(tmp_path / f"gbk{suffix}"), decoder=decoder) as video:
        assert np.array_equal([frame.image for frame in video], expected)
        assert (video.duration, len(expected)) == (5.0, 20)


TITLES = ["Überraschung".encode("latin-1"), "日本語の題".encode("shift-jis"), b"\xff\xfe\0\xd8"]


@pytest.mark.parametrize("title", TITLES)
def test_titles_of_other_encodings(title: bytes, tmp_path: Path):
    for suffix in (".avi", ".mp4", ".mkv", ".flv"):
        codec = "flv" if suffix == ".flv" else "mpeg4"
        path = write_video(tmp_path / f"film{suffix}", title="T" * len(title), codec=codec)
        path.write_bytes(path.read_bytes().replace(b"T" * len(title), title))
        assert len(list(open_video(path))) == 20


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "'zz9z'"), (".avi", "'zz9z'"), (".mkv", r"(it has no name)")])
def test_an_unknown_codec_is_named(suffix: str, codec: str, decoder: str, tmp_path: Path):
    path = with_unknown_codec(tmp_path / f"film{suffix}")
    refuse(path, f"its codec {codec} is unknown to FFmpeg", decoder=decoder)


def test_what_pil_raises_late(tmp_path: Path):
    path = with_damaged_second_page(tmp_path / "two.tif")
    refuse(path, "is broken (TypeError: Missing dimensions)")
    assert open_image(path).getpixel((0, 0)) == (255, 0, 0), "the first page is whole"


def test_a_delay_that_is_no_number_is_the_usual_one(tmp_path: Path):
    """Text of a png stands beside what PIL itself says of the file, under any name."""
    words = PngImagePlugin.PngInfo()
    words.add_text("duration", "three days")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "loop.png", save_all=True, append_images=frames[1:], pnginfo=words)
    data = (tmp_path / "loop.png").read_bytes()
    assert b"three days" in data
    with open_video(tmp_path / "loop.png") as video:
        assert len(list(video)) == 2


def test_sound_that_begins_late_is_no_damage(tmp_path: Path):
    """PyAV 15 raises IndexError behind the last packet of such a recording: mostly, it depends on what memory holds."""
    path = tmp_path / "recording.flv"
    path.write_bytes(flv(range(30), has_sound=False) + flv(range(30, 35), has_sound=True)[FLV_HEADER:])
    assert path.stat().st_size > 6_000_000, "FFmpeg looks for streams in the first 5 MB"
    with open_video(path) as video:
        assert [frame.index for frame in video.read([0, 34, 3])] == [0, 34, 3]
        assert len(video) == 35


def test_what_changes_within_a_stream(write_clip: Callable, number_in: Callable, tmp_path: Path):
    """Size, pixel format, colours: each picture is brought to the size of the first."""
    parts = [{}, {"size": (128, 96)}, {"pix_fmt": "yuv444p"}, {"colorspace": 1}]
    files = [write_clip(tmp_path / f"{n}.ts", num_frames=10, b_frames=0, **part) for n, part in enumerate(parts)]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    with open_video(path) as video:
        frames = list(video)
        assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
        assert [number_in(frame.image) for frame in frames[:10]] == list(range(10))
        assert [number_in(frame.image) for frame in frames[20:]] == [*range(10), *range(10)]
        assert np.allclose(np.diff(video.timestamps), 0.04)


def test_a_codec_that_changes_within_a_stream(write_clip: Callable, number_in: Callable, tmp_path: Path):
    """What the first decoder can read is read, or refused; the rest is said."""
    first = write_clip(tmp_path / "a.ts", num_frames=10).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(first + write_clip(tmp_path / "b.ts", num_frames=10, codec="mpeg2video", b_frames=0).read_bytes())
    with pytest.warns(MediaWarning, match="cannot be decoded"), open_video(path) as video:
        assert [number_in(frame.image) for frame in video][:10] == list(range(10))
    with pytest.raises(MediaError, match="cannot be decoded"):
        list(open_video(path, strict=True))


@pytest.mark.parametrize("first", ["mjpeg", "libx264"])
def test_the_best_stream_is_ffmpegs(first: str, tmp_path: Path):
    """Not the cover picture, nor the thumbnails, which come first."""
    import av

    path = write_tracks(tmp_path / "film.mkv", [(first, (32, 32)), ("libx264", (64, 48))])
    with av.open(str(path)) as film:
        assert film.streams.best("video").index == 1
    with open_video(path) as video:
        assert (video.size, len(video)) == ((64, 48), 20)


def write_tracks(path: Path, tracks: list[tuple[str, tuple[int, int]]]) -> Path:
    """The one of 32 pixels has two frames, others twenty; JPEG is a cover."""
    import av

    with av.open(str(path), "w") as film:
        for codec, size in tracks:
            stream = film.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            if codec == "mjpeg":
                stream.disposition = av.stream.Disposition.attached_pic.value
        for stream in film.streams.video:
            for number in range(2 if stream.width == 32 else 20):
                picture = np.random.default_rng(number).integers(0, 256, (stream.height, stream.width, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                film.mux(stream.encode(frame))
            film.mux(stream.encode())
    return path


def test_a_raw_stream_has_the_rate_that_it_names(write_clip: Callable, tmp_path: Path):
    with open_video(write_clip(tmp_path / "film.h264", num_frames=30, fps=10)) as video:
        assert (video.fps, video.duration, len(video)) == (10.0, pytest.approx(3.0), 30)


def test_limits_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "film.mp4")
    monkeypatch.setattr(video_index, "MAX_FRAMES", 10)
    refuse(path, "has more than 10 frames")
    monkeypatch.setattr(container, "MAX_PIXELS", 64 * 48 - 1)
    refuse(path, "has pictures of 64x48; expected at most 3,071 pixels")


def test_pixels_that_are_not_square_stay_as_they_are_stored(tmp_path: Path):
    """As FFmpeg gives them; boxes in pixels count stored ones, and the encoder stretches to a square anyway."""
    import av

    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        film.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        film.mux(stream.encode())
    assert open_video(path).size == (64, 48)


FLV_HEADER = 13
"""Bytes."""


def flv(numbers: range, *, has_sound: bool) -> bytes:
    """A recording of noise, one frame a second, large for its length."""
    import av

    file, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format="flv") as container:
        stream = container.add_stream("flv", rate=1, options={"qmin": "1", "qmax": "1"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=44100, layout="mono") if has_sound else None
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (480, 640, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1)
            container.mux(stream.encode(frame))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 441), np.int16), format="s16", layout="mono")
                silence.sample_rate, silence.pts, silence.time_base = 44100, number * 44100, Fraction(1, 44100)
                container.mux(sound.encode(silence))
        container.mux(stream.encode())
    return file.getvalue()


def test_the_same_files_live(tmp_path: Path):
    def answer(handler) -> None:
        path = tmp_path / handler.path[1:]
        handler.begin("video/mp4", path.stat().st_size)
        handler.wfile.write(path.read_bytes())

    def stream(path: Path) -> LiveStream:
        patience = Timeouts(open=5, read=2)
        return LiveStream(NetworkStream(f"{server.address}/{path.name}", timeouts=patience), fps=None)

    with http_server(answer) as server:
        with stream(with_gbk_title(tmp_path / "gbk.mp4")) as live:
            assert live.wait_for_frame(10).image.shape == (48, 64, 3)
        path = with_unknown_codec(tmp_path / "odd.mp4")
        with stream(path) as live, pytest.raises(MediaError, match=r"/odd\.mp4: its codec 'zz9z' is unknown"):
            live.wait_for_frame(10)


def test_pictures_that_pil_reads_no_sooner_than_it_must(tmp_path: Path):
    Image.effect_noise((64, 48), 50).save(tmp_path / "noise.png")
    (tmp_path / "noise.png").write_bytes((tmp_path / "noise.png").read_bytes()[:1500])
    with pytest.raises(MediaError, match=r"noise\.png: cannot be converted to RGB \(image file is truncated"):
        PushedFrames().push(Image.open(tmp_path / "noise.png"))
    refuse([Image.open(tmp_path / "noise.png")], "noise.png: cannot be converted to RGB")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system whose names are bytes")
def test_a_file_name_that_is_not_utf8(tmp_path: Path):
    """Its error can be written to a report; the file can be read."""
    folder = tmp_path / os.fsdecode(b"\xd6\xd0")
    folder.mkdir()
    assert len(list(open_video(with_gbk_title(folder / "film.mp4")))) == 20
    (folder / "empty.mp4").touch()
    with pytest.raises(MediaError) as caught:
        open_video(folder / "empty.mp4")
    assert r"\udcd6\udcd0/empty.mp4: is empty" in str(caught.value)
    json.dumps(str(caught.value), ensure_ascii=False).encode("utf-8")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "x" * 300 + ".png", "~nobody-of-this-name/film.mp4", "a\0b.mp4"])
def test_names_that_no_file_can_have(name: str):
    with pytest.raises(MediaError, match="expected"):
        open_video(name)
    with pytest.raises(MediaError, match="expected"):
        open_image(name)


@pytest.mark.parametrize(
    "error", [IndexError("list index out of range"), MemoryError(), AssertionError(), KeyError("x"), OSError(5, "I/O")]
)
def test_whatever_a_library_raises(error: Exception):
    def items() -> Iterator[int]:
        yield 1
        raise error

    with pytest.raises(MediaError, match=r"^film\.mp4: is broken \(.+\); expected a whole file$") as caught:
        list(each(items(), "film.mp4", "is broken", "a whole file"))
    assert caught.value.__cause__ is error
    if type(error) is not OSError:
        assert type(error).__name__ in str(caught.value)
    with pytest.raises(KeyboardInterrupt), reading("film.mp4", "is broken", "a whole file"):
        raise KeyboardInterrupt


MISTAKES: dict[str, tuple[object, str]] = {
    "film.mp4": (readers.PyavReader, "_number"),
    "loop.gif": (image_source.AnimationReader, "_times"),
    "still.png": (image_source, "_as_array"),
    "other.mp4": (video_index, "_in_display_order"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_our_own_mistakes_stay_visible(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def mistake(*args: object) -> None:
        raise AttributeError("a bug of ours")

    pages = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pages[0].save(tmp_path / "loop.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "still.png")
    for film in ("film.mp4", "other.mp4"):
        write_video(tmp_path / film)
    monkeypatch.setattr(*MISTAKES[name], mistake)
    with pytest.raises(AttributeError, match="a bug of ours"), open_video(tmp_path / name) as video:
        list(video)


def test_a_mistake_in_the_loop_over_a_librarys_items_is_not_its_own():
    with pytest.raises(AttributeError, match="a bug of ours"):
        for _ in each(iter([1, 2]), "film.mp4", "is broken", "a whole file"):
            raise AttributeError("a bug of ours")


MUTATIONS_A_FILE = 12


def test_damage_of_any_kind_is_a_media_error(tmp_path: Path):
    """In a process of its own: a decoder may crash."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.media.test_odd_files", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    num_played, num_refused = map(int, done.stdout.split())
    assert min(num_played, num_refused) > 40, done.stdout


def damage_all(folder: Path) -> tuple[int, int]:
    """How many damaged files played and were refused."""
    results = []
    for path in write_all_kinds(folder):
        whole, rng = path.read_bytes(), random.Random(path.name)
        for _ in range(MUTATIONS_A_FILE):
            path.write_bytes(mutated(whole, rng))
            results.append(plays(path))
    return sum(results), len(results) - sum(results)


def write_all_kinds(folder: Path) -> list[Path]:
    codecs = {"mp4": "mpeg4", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "flv": "flv", "ts": "mpeg2video"}
    paths = [write_video(folder / f"film.{suffix}", codec=codec) for suffix, codec in codecs.items()]
    pages = [Image.effect_noise((24, 16), 20 * n).convert("RGB") for n in (1, 2, 3)]
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, "words"
    for suffix in ("gif", "webp", "png", "tif"):
        pages[0].save(folder / f"loop.{suffix}", save_all=True, append_images=pages[1:])
        paths.append(folder / f"loop.{suffix}")
    for suffix in ("jpg", "tif", "png", "bmp"):
        pages[0].save(folder / f"still.{suffix}", **({} if suffix == "bmp" else {"exif": exif}))
        paths.append(folder / f"still.{suffix}")
    return paths


def plays(path: Path) -> bool:
    reads: list[Callable[[], object]] = [lambda: list(open_video(path, num_threads=1))]
    if path.suffix in image_source.IMAGE_SUFFIXES:
        reads.append(lambda: open_image(path))
    try:
        for read in reads:
            read()
    except MediaError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return False
    return True


if __name__ == "__main__":
    print(*damage_all(Path(sys.argv[1])))
