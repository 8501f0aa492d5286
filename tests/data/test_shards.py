"""Tar shards of webdataset: their samples are those of the same files in a folder, and what is wrong is named."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.conftest import talk
from videochat_online.cli import main
from videochat_online.data.dataset import ConversationDataset
from videochat_online.data.registry import read_lists
from videochat_online.data.settings import DataSettings
from videochat_online.media.readers import MediaError, open_image, open_video

NAMES = [f"{number}.png" for number in range(3)]
BOXES = [{"timestamp": number, "bbox": [0, 0, 1, 1]} for number in range(3)]
SAMPLES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a video that the row names": ({"video": "v.mp4", "conversations": talk("Q", "A")}, {"v.mp4": "video.mp4"}),
    "a video of the key": ({"QA": [{"q": "Q", "a": "A"}]}, {"KEY.mp4": "video.mp4"}),
    "an image under another name": ({"image": "a/b.png", "conversations": talk("Q", "A")}, {"KEY.png": "small.png"}),
    "two images of the key": ({"conversations": talk("Q", "A")}, {"KEY.0.png": "small.png", "KEY.1.png": "wide.png"}),
    "messages": (
        {"messages": [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}],
         "images": ["KEY.png"]},
        {"KEY.png": "wide.png"},
    ),
    "tracking": (
        {"video": "frames", "fps": 1, "all_image_files": NAMES, "image_bboxes": BOXES,
         "query_template": {"from": "human", "value": "Follow <bbox>."}},
        {f"frames/{name}": "small.png" for name in NAMES},
    ),
    "text": ({"conversations": talk("Q", "A")}, {}),
}  # fmt: skip


def write_shard(path: Path, samples: list[tuple[str, dict[str, Any], dict[str, Path]]]) -> None:
    """A tar of (key, row, names and the files that they stand for)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, row, files in samples:
            data = json.dumps(row).encode()
            head = tarfile.TarInfo(f"{key}.json")
            head.size = len(data)
            for name, file in files.items():
                tar.add(file, name)
            tar.addfile(head, io.BytesIO(data))


@pytest.fixture()
def indexed(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of two shards with all samples; temporary files go to tmp_path/temporary."""
    samples = []
    for number, (row, files) in enumerate(SAMPLES.values()):
        key = f"{number:04}"
        row = json.loads(json.dumps(row).replace("KEY", key))
        samples.append((key, row, {name.replace("KEY", key): media / file for name, file in files.items()}))
    write_shard(tmp_path / "shards/part-000.tar", samples[:3])
    write_shard(tmp_path / "shards/part-001.tar", samples[3:])
    assert main(["data", "index", str(tmp_path / "shards/part-{000..001}.tar"), str(tmp_path / "my.json")]) == 0
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "my.json"


@pytest.fixture()
def read(processors: Any, config: Any) -> Callable[..., ConversationDataset]:
    def of_list(path: Path, **changes: Any) -> ConversationDataset:
        return ConversationDataset(read_lists([path]), processors["phi3-chat"], config, DataSettings(**changes))

    return of_list


def test_a_sample_of_a_shard_is_that_of_its_files(indexed: Path, media: Path, read: Any, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    plain = []
    for number, (row, files) in enumerate(SAMPLES.values()):
        row = json.loads(json.dumps(row).replace("KEY", f"{number:04}"))
        for name, file in files.items():
            place = folder / name.replace("KEY", f"{number:04}")
            place.parent.mkdir(exist_ok=True)
            place.write_bytes((media / file).read_bytes())
        if "image" in row:
            row["image"] = f"{number:04}.png"
        if not row.keys() & {"image", "video", "images"} and files:
            names = [name.replace("KEY", f"{number:04}") for name in files]
            row |= {"video": names[0]} if names[0].endswith("mp4") else {"image": names}
        plain.append(row)
    (tmp_path / "plain_rows.json").write_text(json.dumps(plain))
    (tmp_path / "plain.json").write_text(json.dumps({"my": {"annotation": "plain_rows.json", "data_root": "folder"}}))
    expected, got = read(tmp_path / "plain.json"), read(indexed)
    assert len(got) == len(expected) == len(SAMPLES)
    for name, one, other in zip(SAMPLES, got, expected, strict=True):
        assert one.input_ids == other.input_ids and torch.equal(one.pixel_values, other.pixel_values), name
    assert got.failures.num_failed == 0
    assert got.lengths.tolist() == expected.lengths.tolist()
    del got, one
    assert os.listdir(tmp_path / "temporary") == []


def test_shards_pass_the_check_and_frames_are_held_by_the_cache(indexed: Path, read: Any, tmp_path: Path, capsys: Any):
    assert main(["data", "check", str(indexed), "--decode", "--workers", "1"]) == 0
    plain, cached = read(indexed), read(indexed, frame_cache=str(tmp_path / "cache"))
    for _ in range(2):
        assert torch.equal(cached[1].pixel_values, plain[1].pixel_values)
    assert os.listdir(tmp_path / "temporary") == []


def test_a_shard_that_changed_is_named(indexed: Path, tmp_path: Path):
    rows = [json.loads(line) for line in (tmp_path / "my_rows.jsonl").read_text().splitlines()]
    shard = tmp_path / "shards/part-000.tar"
    shard.write_bytes(b"\0" * 100 + shard.read_bytes())
    for name, open_one in ((rows[0]["video"], open_video), (rows[2]["image"], open_image)):
        with pytest.raises(MediaError, match=r"part-000.tar/@.*: is not there: the shard has changed or is cut off"):
            open_one(tmp_path / "shards" / name)
    shard.unlink()
    with pytest.raises(MediaError, match=r"cannot be read \(No such file or directory\)"):
        open_video(tmp_path / "shards" / rows[0]["video"])


def test_a_broken_video_is_named_by_its_place_in_the_shard(tmp_path: Path):
    (tmp_path / "text.mp4").write_text("no video")
    write_shard(tmp_path / "a.tar", [("1", {"QA": [{"q": "Q", "a": "A"}]}, {"1.mp4": tmp_path / "text.mp4"})])
    assert main(["data", "index", str(tmp_path / "a.tar"), str(tmp_path / "my.json")]) == 0
    row = json.loads((tmp_path / "my_rows.jsonl").read_text())
    with pytest.raises(MediaError, match=r"a\.tar/@\d+\+\d+/1\.mp4: ") as caught:
        open_video(tmp_path / row["video"])
    assert "videochat-" not in str(caught.value)


def test_what_cannot_be_indexed_is_named_and_nothing_written(tmp_path: Path, media: Path, capsys: Any):
    lost = ("1", {"video": "gone.mkv", "QA": [{"q": "Q", "a": "A"}]}, {"1.png": media / "small.png"})
    write_shard(tmp_path / "a.tar", [lost, ("2", {"what": 1}, {})])
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    cases = {
        "a.tar": ("names 'gone.mkv', which is not in its shard", "2: unknown format"),
        "b.tar": ("b.tar: cannot be read as a tar of samples",),
        "c.parquet": ("c.parquet is no tar shard",),
        "part-{00..01}.tar": ("part-00.tar: no such file",),
    }
    for pattern, expected in cases.items():
        assert main(["data", "index", str(tmp_path / pattern), str(tmp_path / "my.json")]) != 0
        said = capsys.readouterr().err
        assert all(text in said for text in expected), said
        assert not list(tmp_path.glob("my*"))


def write_members(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            head = tarfile.TarInfo(name)
            head.size = len(data)
            tar.addfile(head, io.BytesIO(data))


def test_odd_names_of_members(tmp_path: Path, media: Path, read: Any, capsys: pytest.CaptureFixture):
    """What macOS adds is passed over, another json is not the row; each name is right or said to be wrong."""
    row, picture = json.dumps({"conversations": talk("Q", "A")}).encode(), (media / "small.png").read_bytes()
    dots = [("._a.png", b"no picture"), (".DS_Store", b""), ("._a.json", b"\0\5"), ("a.meta.json", b"{}")]
    more = [(f"{key}{end}", data) for key in ("./b", "x.tar/@1+2/c", "d" * 120, "e e\n") for end, data in
            ((".json", row), (".png", picture))]  # fmt: skip
    write_members(tmp_path / "[1].tar", ("a.json", row), ("a.png", picture), *dots, *more)
    assert main(["data", "index", str(tmp_path / "[1].tar"), str(tmp_path / "my.json")]) == 0
    samples = read(tmp_path / "my.json")
    assert len([sample for sample in samples if len(sample.pixel_values) == 1]) == 5 and not samples.failures.num_failed
    capsys.readouterr()
    for name, members, problem in (
        ("twice", [("a.json", row), ("a.json", row)], "'a.json': two files have this name"),
        ("bytes", [("a\udcff.json", row)], "its name is not UTF-8"),
        ("json", [("b.json", row), ("a.json", b"{no")], "'a.json': is no json (Expecting"),
        ("deep", [("a.json", b"[" * 200_000)], "'a.json': is no json (maximum recursion"),
    ):
        write_members(tmp_path / f"{name}.tar", *members)
        assert main(["data", "index", str(tmp_path / f"{name}.tar"), str(tmp_path / f"{name}.json")]) == 2
        assert problem in capsys.readouterr().err and not (tmp_path / f"{name}.json").exists()
    for shards, problem in ((["b-{5..3}.tar"], "expected numbers that rise"), (["twice.tar"] * 2, "named twice")):
        assert main(["data", "index", *(str(tmp_path / one) for one in shards), str(tmp_path / "my2.json")]) == 2
        assert problem in capsys.readouterr().err


def test_another_file_of_the_same_size_in_the_same_place_is_none_of_the_row(tmp_path: Path, media: Path):
    row, picture = json.dumps({"conversations": talk("Q", "A")}).encode(), (media / "small.png").read_bytes()
    write_members(tmp_path / "a.tar", ("1.json", row), ("1.png", picture))
    assert main(["data", "index", str(tmp_path / "a.tar"), str(tmp_path / "my.json")]) == 0
    image = tmp_path / json.loads((tmp_path / "my_rows.jsonl").read_text())["image"]
    assert open_image(image).size
    write_members(tmp_path / "a.tar", ("2.json", row), ("2.png", picture))
    with pytest.raises(MediaError, match="the shard has changed"):
        open_image(image)


def test_no_half_copy_of_a_video_is_left_on_a_full_disk(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It would take the room that is left, once for each sample."""
    rows = [json.loads(line) for line in (tmp_path / "my_rows.jsonl").read_text().splitlines()]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(MediaError, match="expected room for temporary files"):
            open_video(tmp_path / "shards" / rows[0]["video"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path / "temporary") == []
