"""Recordings that are cut off or damaged: what FFmpeg's programs decode is read, with one warning; or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from videochat_online.media import readers
from videochat_online.media.picture import FrameConverter
from videochat_online.media.readers import MediaError, open_video
from videochat_online.media.source import MediaWarning

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
KINDS: dict[str, tuple[str, str]] = {
    "mp4": ("film.mp4", "libx264"),
    "fragmented mp4": ("film.frag.mp4", "libx264"),
    "flv": ("film.flv", "libx264"),
    "mkv": ("film.mkv", "libx264"),
    "webm": ("film.webm", "libvpx-vp9"),
    "webm vp8": ("film8.webm", "libvpx"),
    "ts": ("film.ts", "libx264"),
    "mpeg2 ts": ("film2.ts", "mpeg2video"),
    "avi": ("film.avi", "mpeg4"),
}

MOST_CONCEALED = 5
"""Pictures that FFmpeg made up where data were missing, partly of what its memory held before."""


def as_ffmpeg(path: Path) -> list[tuple[float, np.ndarray]]:
    """(seconds from the first, picture) of what FFmpeg decodes from start to end, leaving out what it cannot."""
    import av

    found = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_count, convert = 1, FrameConverter(str(path))
        try:
            for packet in container.demux(stream):
                try:
                    found += [(frame.time, convert(frame)) for frame in packet.decode()]
                except av.FFmpegError:
                    continue
        except av.FFmpegError:
            found += [(frame.time, convert(frame)) for frame in stream.decode(None)]
    found.sort(key=lambda pair: pair[0])
    return [(time - found[0][0], picture) for time, picture in found]


@pytest.fixture
def write_kind(write_clip: Callable, tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str, num_frames: int = 60, **options: object) -> Path:
        name, codec = KINDS[kind]
        path = tmp_path / name
        if "frag" in kind:
            return write_fragments(path, num_frames)
        b_frames = 2 if codec == "libx264" else 0
        options = {"faststart": True} if path.suffix == ".mp4" else {}
        return write_clip(path, num_frames=num_frames, gop=10, b_frames=b_frames, codec=codec, fps=10, **options)

    def write_fragments(path: Path, num_frames: int) -> Path:
        import av

        whole = write_clip(path.with_name("whole.mp4"), num_frames=num_frames, gop=10, fps=10)
        with av.open(str(whole)) as source, av.open(str(path), "w", format="mp4", options=FRAGMENTS) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
        return path

    return write


def damage(path: Path, start: float, num_bytes: int) -> None:
    """Noise over the bytes at this share of the file."""
    content = bytearray(path.read_bytes())
    place = int(len(content) * start)
    content[place : place + num_bytes] = np.random.default_rng(0).bytes(num_bytes)
    path.write_bytes(content)


def assert_reads_as_ffmpeg(path: Path) -> int:
    """Every frame once in order, then some in any order; one warning, a refusal where asked for. How many."""
    expected = as_ffmpeg(path)
    with pytest.warns(MediaWarning) as caught, open_video(path) as video:
        read = list(video)
        again = [7 % len(read), 0, len(read) // 4, len(read) // 3, len(read) // 3]
        assert all(np.array_equal(f.image, read[n].image) for f, n in zip(video.read(again), again, strict=True))
        assert [frame.index for frame in video.read(range(len(read) - 1, -1, -3))]
    assert len(caught) == 1 and str(path) in str(caught[0].message)
    assert [frame.timestamp for frame in read] == pytest.approx([time for time, _ in expected])
    num_other = sum(not np.array_equal(f.image, picture) for f, (_, picture) in zip(read, expected, strict=True))
    assert num_other <= MOST_CONCEALED
    with pytest.raises(MediaError, match="expected"):
        list(open_video(path, strict=True))
    return len(read)


@pytest.mark.parametrize("share", [0.37, 0.6, 0.93])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_that_is_cut_off(kind: str, share: float, write_kind: Callable):
    path = write_kind(kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    if kind in ("ts", "mpeg2 ts", "flv"):
        path.write_bytes(content[: int(len(content) * share) // 188 * 188 + 100])
    if kind == "avi" and share < 0.5:
        return  # within its header
    assert 5 < assert_reads_as_ffmpeg(path) <= 60


@pytest.mark.parametrize("kind", ["mp4", "fragmented mp4", "flv", "mkv", "ts", "webm"])
def test_damage_in_the_middle(kind: str, write_kind: Callable):
    path = write_kind(kind)
    damage(path, 0.5, 1500)
    assert 24 <= assert_reads_as_ffmpeg(path) < 60


def test_damage_that_only_the_decoder_finds(write_kind: Callable):
    """Iteration leaves out what cannot be decoded; who asks for it is shown the frame before."""
    path = write_kind("webm vp8")
    content, import_av = bytearray(path.read_bytes()), pytest.importorskip("av")
    with import_av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        key = bytes(packets[30])
    place = content.index(key)
    content[place : place + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(MediaError, match="frame 30 cannot be decoded"), open_video(path, strict=True) as video:
        list(video)
    with pytest.warns(MediaWarning, match="frame 30 cannot be decoded") as caught, open_video(path) as video:
        frames = list(video)
        assert {frame.index for frame in frames} < set(range(60)) and 30 not in {frame.index for frame in frames}
        assert len(frames) == len(as_ffmpeg(path))
        *_, before, again = video.read([28, 29, 30])
        assert again.index == 30 and np.array_equal(again.image, before.image)
    assert len(caught) == 1


def test_where_nothing_is_found_behind_a_seek(write_kind: Callable, monkeypatch: pytest.MonkeyPatch):
    """As in MPEG streams with a piece missing: what decoding from the start gives is read all the same."""
    path = write_kind("mp4")
    damage(path, 0.9, 300)
    whole = readers.decoded

    def lost(*place: object, has_sought: bool, **options: object) -> Iterator[object]:
        return iter(()) if has_sought else whole(*place, **options)

    with pytest.warns(MediaWarning), open_video(path) as video:
        every = [frame.image for frame in video]
        monkeypatch.setattr(readers, "decoded", lost)
        for frame in video.read([len(every) - 1, 35, 12]):
            assert np.array_equal(frame.image, every[frame.index])


def test_a_recording_that_says_no_length(write_kind: Callable, tmp_path: Path):
    """As browsers write them: nothing but the chain of its parts tells where it was cut off."""
    import av

    path = tmp_path / "live.webm"
    with av.open(str(write_kind("webm"))) as source, av.open(str(path), "w", options={"live": "1"}) as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    assert len(list(open_video(path, strict=True))) == 60
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 5 < assert_reads_as_ffmpeg(path) < 60


@pytest.mark.parametrize("kind", ["mp4", "fragmented mp4"])
def test_a_header_that_claims_too_much(kind: str, write_kind: Callable):
    """FFmpeg would take gigabytes for a file of some thousand bytes."""
    path = write_kind(kind)
    content = bytearray(path.read_bytes())
    place = content.index(b"trun") + 8 if "frag" in kind else content.index(b"stsz") + 12
    content[place : place + 4] = (30_000_000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"claims 30,000,\d+ samples in [\d,]+ bytes"):
        open_video(path)


def test_a_damaged_start(write_kind: Callable):
    path = write_kind("mp4")
    content = path.read_bytes()
    damage(path, (content.index(b"mdat") + 4) / len(content), 300)
    with pytest.warns(MediaWarning, match="frame 0 cannot be decoded"), open_video(path) as video:
        assert 49 < len(list(video)) <= 60


def test_decord_refuses_what_is_damaged(write_kind: Callable, need_decord: None):
    path = write_kind("mp4")
    damage(path, 0.5, 1500)
    with warnings.catch_warnings(), pytest.raises(MediaError, match="decord cannot read it \\(it is damaged\\)"):
        warnings.simplefilter("ignore", MediaWarning)
        open_video(path, decoder="decord")


# ---- time that jumps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ts", "flv", "mpeg2 ts"])
@pytest.mark.parametrize("num_first", [30, 15])
def test_time_that_jumps_back_continues(kind: str, num_first: int, write_kind: Callable, number_in: Callable):
    """Two recordings in one file, each with a time of its own that begins at its start."""
    first = write_kind(kind, num_first).read_bytes()
    path = write_kind(kind, 30)
    second = path.read_bytes()
    path.write_bytes(first + (second[13:] if kind == "flv" else second))
    with open_video(path) as video:
        assert [number_in(frame.image) for frame in video] == [*range(num_first), *range(30)]
        assert np.allclose(np.diff(video.timestamps), 0.1)
        assert video.duration == pytest.approx((num_first + 30) / 10)
        order = [num_first + 5, 3, num_first - 1, num_first]
        assert [number_in(frame.image) for frame in video.read(order)] == [5, 3, num_first - 1, 0]


def test_a_long_pause_is_kept(tmp_path: Path):
    """A camera that records only what moves: no jump."""
    import av

    path = tmp_path / "pauses.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pts in (0, 1, 2, 600, 601):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert open_video(path).timestamps.tolist() == pytest.approx([0, 0.1, 0.2, 60, 60.1])


# ---- the recorded cases ---------------------------------------------------------------------------------------------


def test_the_recorded_jump(shared: Path):
    path = shared / "cases/media/tsjump.ts"
    if not path.exists():
        pytest.skip("needs the recorded cases")
    with open_video(path, strict=True) as video:
        assert np.allclose(video.timestamps, np.arange(60) / 10) and video.duration == pytest.approx(6.0)
        read = [frame.image for frame in video]
        order = [31, 2, 59, 30, 29, 45]
        assert all(np.array_equal(frame.image, read[frame.index]) for frame in video.read(order))


@pytest.mark.parametrize(("name", "num"), [("trunc_frag.mp4", 11), ("trunc.flv", 20), ("corrupt_mid.mp4", 34)])
def test_the_recorded_ones(name: str, num: int, shared: Path):
    path = shared / "cases/media" / name
    if not path.exists():
        pytest.skip("needs the recorded cases")
    assert assert_reads_as_ffmpeg(path) == num
