"""Sources that cannot be read: each ends in one MediaError that names the file, what is wrong and what was expected."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from videochat_online.media.readers import MediaError, open_image, open_video


def refuse(source, message: str, **options) -> str:
    """Opening and reading `source` must fail with one MediaError that holds its name and `message`."""
    with pytest.raises(MediaError) as caught, open_video(source, **options) as video:
        for _ in video:
            pass
    text = str(caught.value)
    assert message in text
    assert "expected" in text
    assert "\n" not in text
    if isinstance(source, Path):
        assert str(source) in text
    return text


@pytest.mark.parametrize("name", ["film.mp4", "picture.png", "loop.gif"])
def test_missing(name: str, tmp_path: Path):
    refuse(tmp_path / name, "does not exist")


@pytest.mark.parametrize("name", ["film.mp4", "picture.png", "loop.gif"])
def test_empty(name: str, tmp_path: Path):
    (tmp_path / name).touch()
    refuse(tmp_path / name, "is empty")


@pytest.mark.parametrize("name", ["notes.txt", "film.mp4", "film.avi", "film"])
def test_not_a_video(name: str, tmp_path: Path):
    (tmp_path / name).write_text("Dear diary,\ntoday nothing moved.\n" * 200)
    refuse(tmp_path / name, "expected a video file")


def test_not_an_image(tmp_path: Path):
    (tmp_path / "picture.jpg").write_text("Dear diary")
    refuse(tmp_path / "picture.jpg", "is broken or not an image")
    with pytest.raises(MediaError, match=r"picture\.jpg: is broken or not an image"):
        open_image(tmp_path / "picture.jpg")
    with pytest.raises(MediaError, match="is not a file"):
        open_image(tmp_path)


@pytest.mark.parametrize("name", ["sound.wav", "sound.m4a"])
def test_audio_only(name: str, tmp_path: Path):
    write_sound(tmp_path / name)
    refuse(tmp_path / name, "has sound but no video")


def test_audio_with_a_cover_picture(tmp_path: Path):
    write_sound(tmp_path / "sound.mp3", cover=Image.new("RGB", (32, 32), "red"))
    refuse(tmp_path / "sound.mp3", "has sound but no video")


def write_sound(path: Path, *, cover: Image.Image | None = None) -> None:
    import av
    import numpy as np

    codec = {".wav": "pcm_s16le", ".m4a": "aac", ".mp3": "libmp3lame"}[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(
            format=stream.format, layout="mono", rate=44100, frame_size=stream.frame_size or 0
        )
        picture = None
        if cover is not None:
            picture = container.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = *cover.size, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic.value
        for ready in resampler.resample(frame):
            container.mux(stream.encode(ready))
        if picture is not None:
            container.mux(picture.encode(av.VideoFrame.from_image(cover)))
        container.mux(stream.encode())


@pytest.mark.parametrize(("name", "message"), [("film.avi", "has zero frames"), ("film.mp4", "holds no video")])
def test_zero_frames(name: str, message: str, tmp_path: Path):
    import av

    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    refuse(path, message)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("faststart", [True, False])
def test_truncated(suffix: str, faststart: bool, write_clip: Callable, tmp_path: Path):
    """Wherever the file is cut: in its index, between two frames or within one. test_damage.py: what is read of it."""
    whole = write_clip(tmp_path / f"whole{suffix}", num_frames=20, faststart=faststart)
    content = whole.read_bytes()
    assert len(list(open_video(whole, strict=True))) == 20
    for tenth in range(1, 100, 7):
        path = tmp_path / f"cut{tenth}{suffix}"
        path.write_bytes(content[: len(content) * tenth // 100])
        refuse(path, "expected", strict=True)
    path.write_bytes(content[:-1])
    message = f"is cut off at {len(content) - 1:,} bytes; expected {len(content):,} bytes by its own headers"
    refuse(path, message, strict=True)


def test_truncated_gif(tmp_path: Path):
    frames = [Image.effect_noise((64, 64), value).convert("P") for value in (20, 40, 60)]
    frames[0].save(tmp_path / "loop.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "loop.gif").read_bytes()
    (tmp_path / "loop.gif").write_bytes(content[: len(content) // 2])
    refuse(tmp_path / "loop.gif", "is broken")


def test_a_folder_without_images(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    refuse(tmp_path, "holds no images; expected a folder of images")


def test_a_broken_image_in_a_folder(golden: Path, tmp_path: Path):
    content = (golden / "media/img0_40x30.jpg").read_bytes()
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(content if number != 1 else content[: len(content) // 2])
    text = refuse(tmp_path, "frame 1 cannot be read")
    assert str(tmp_path / "1.jpg") in text
    with open_video(tmp_path) as video:
        assert [frame.index for frame in video.read([0, 2])] == [0, 2]


def test_a_missing_image_in_a_list(golden: Path):
    refuse([golden / "media/gray.png", golden / "media/lost.png"], "lost.png: does not exist")


@pytest.mark.parametrize("source", [[], [b"bytes"], 7, [None]])
def test_lists_of_something_else(source):
    refuse(source, "expected")


def test_a_playlist_does_not_reach_the_network(tmp_path: Path):
    """A file that calls itself a video must not make this machine connect anywhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        path = tmp_path / "film.m3u8"
        path.write_text(f"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{server.getsockname()[1]}/film.ts\n#EXT-X-ENDLIST\n")
        refuse(path, "expected a video file")
        with pytest.raises(TimeoutError):
            server.accept()


def test_nothing_is_written_to_the_terminal(write_clip: Callable, tmp_path: Path, capfd):
    """FFmpeg and decord would print their own complaints beside the error."""
    whole = write_clip(tmp_path / "whole.mp4", num_frames=20).read_bytes()
    for name, content in {"cut.mp4": whole[:-100], "noise.mp4": bytes(5000), "text.mp4": b"hello" * 100}.items():
        (tmp_path / name).write_bytes(content)
        refuse(tmp_path / name, "expected", strict=True)
    assert capfd.readouterr() == ("", "")
