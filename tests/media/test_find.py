"""Finding videos however they were unpacked: training and evaluation look in one way."""

from __future__ import annotations

from pathlib import Path

import pytest

from videochat_online.media.find import VIDEO_SUFFIXES, VideoLibrary, find_video
from videochat_online.media.source import MediaError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_likeliest_place_comes_first(tmp_path: Path):
    expected = touch(tmp_path / "COIN/a.mp4")
    touch(tmp_path / "a.mp4")
    library = VideoLibrary(tmp_path)
    assert library.find(("COIN/a.mp4", "a.mp4")) == expected
    assert library.find(("COIN/a", "a")) == expected


def test_a_video_is_found_by_its_name_anywhere(tmp_path: Path):
    film = touch(tmp_path / "x/y/1j20.v.webm")
    touch(tmp_path / "x/readme.png")  # a picture beside them makes x a folder of frames, and hides nothing
    frames = touch(tmp_path / "TAO/frames/val/HACS/seq_1.5/frame0001.jpg").parent
    library = VideoLibrary(tmp_path)
    assert library.find(("AVA_RAW/1j20.v",)) == film
    assert library.find(("COIN/1j20.v.mp4",)) == film  # another container than the annotation says
    assert library.find(("val/HACS/seq_1.5", "seq_1.5")) == frames


def test_of_two_the_one_in_the_folder_of_its_source_is_taken(tmp_path: Path):
    touch(tmp_path / "data/COIN/part/a.mp4")
    expected = touch(tmp_path / "data/HiREST/part/a.mp4")
    assert VideoLibrary(tmp_path).find(("HiREST/a.mp4", "a.mp4")) == expected
    with pytest.raises(MediaError, match="found 2 times"):
        VideoLibrary(tmp_path).find(("TAO/a.mp4",))


def test_links_that_go_round_and_closed_folders_end_no_search(tmp_path: Path):
    expected = touch(tmp_path / "z/a.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "lost.mp4").symlink_to("nowhere")
    (tmp_path / "z/back").symlink_to(tmp_path)
    touch(tmp_path / "closed/b.mp4").parent.chmod(0)
    library = VideoLibrary(tmp_path)
    assert library.find(("COIN/a.mp4",)) == expected  # found once, not once a round
    with pytest.raises(MediaError, match="not found below"):
        library.find(("COIN/c.mp4",))
    (tmp_path / "closed").chmod(0o700)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(MediaError, match=r"COIN/a\.mp4: not found below"):
        VideoLibrary(tmp_path).find(("COIN/a.mp4", "a.mp4"))
    with pytest.raises(ValueError, match="no such folder"):
        VideoLibrary(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_a_name_without_its_suffix_is_found_by_both(suffix: str, tmp_path: Path):
    film = touch(tmp_path / "a" / f"clip.2{suffix}")
    touch(tmp_path / "a" / "clip.2.txt")
    assert find_video(tmp_path / "a" / "clip.2") == film
    assert VideoLibrary(tmp_path).find(("a/clip.2",)) == film
    assert VideoLibrary(tmp_path).find(("elsewhere/clip.2",)) == film


def test_a_name_that_no_file_can_have_is_named(tmp_path: Path):
    for look in (lambda name: find_video(tmp_path / name), lambda name: VideoLibrary(tmp_path).find((name,))):
        with pytest.raises(MediaError, match="cannot be looked for"):
            look("x" * 5000)
        with pytest.raises(MediaError, match=r"clip: (does not exist, nor with \.mp4|not found below)"):
            look("clip")
