"""docs/data.md is true: every row on it goes through the data set, and its six clips end in a model that answers."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.documents import ROOT, blocks_of
from videochat_online.cli import main
from videochat_online.data.formats import read_row
from videochat_online.data.registry import collect_lists
from videochat_online.data.sample import IMAGE_MARK, VIDEO_MARK

PAGE = ROOT / "docs/data.md"
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^##+ ", PAGE.read_text("utf-8"), flags=re.MULTILINE)}
KINDS = {
    "Text": ["text"],
    "Image, several images": ["image", "image"],
    "Video": ["video", "video", "video"],
    "Several videos": ["video", "video"],
    "Clip": ["video"],
    "Dialogue in time": ["online"],
    "Tracking": ["tracking"],
    "OpenAI": ["image", "video"],
    "ms-swift": ["image"],
    "LLaMA-Factory": ["video"],
}

HELD_OUT = {"other": ("yellow", 20, 20), "third": ("green", 50, 50)}
"""Clips beside sunday's that training does not see: colour, and a place where no lamp hung."""


def blocks_in(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's program has run: clips/, with the pictures and frames that its rows name."""
    root, names = tmp_path_factory.mktemp("page"), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        exec(compile(blocks_in("Six clips of your own", "python")[0], "docs/data.md", "exec"), names)
        for video, (colour, *place) in HELD_OUT.items():
            names["record"](video, colour, *place)
    for name in ("desk", "shelf", *(f"{folder}/{n:06}" for folder in ("frames", "later") for n in (1, 2, 3))):
        path = root / f"clips/{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "dimgray").save(path)
    return root


def test_every_form_has_its_example():
    shown = {name: len(blocks_in(name, "json")) for name in SECTIONS}
    assert {name: count for name, count in shown.items() if count} == {
        "The list file": 1, **{name: len(kinds) for name, kinds in KINDS.items()},
    }  # fmt: skip


@pytest.mark.parametrize("section", KINDS)
def test_the_rows_of_the_page_are_read(section: str, clips: Path, make_dataset: Any):
    rows = list(map(json.loads, blocks_in(section, "json")))
    assert [read_row(row).kind for row in rows] == KINDS[section]
    dataset = make_dataset(rows, entry={"data_root": str(clips / "clips")}, max_failed_share=0.0)
    for number, row in enumerate(rows):
        with dataset.prepare(0, number) as (layout, rendered):
            example = dataset.example(layout, rendered, ("set", number))
        assert sum(label >= 0 for label in example.labels) > 0
        assert bool(example.image_grids) == (read_row(row).kind != "text")
        words = dataset.processor.tokenizer.decode(example.input_ids)
        assert not any(mark in words for mark in (IMAGE_MARK, VIDEO_MARK))


def test_the_list_of_the_page_is_read(tmp_path: Path):
    (tmp_path / "list.json").write_text(blocks_in("The list file", "json")[0])
    sets, problems = collect_lists([tmp_path / "list.json"])
    assert problems == []
    assert sets[0].annotation == tmp_path / "rows.jsonl"


def test_every_published_set_has_its_place():
    table = SECTIONS["The published sets"]
    for name in ("stage1_offline", "stage2_online"):
        for data_set, entry in json.loads((ROOT / f"anno_data/{name}.json").read_text("utf-8")).items():
            folder = entry["data_root"].removeprefix("${DATA_ROOT}/")
            (line,) = [line for line in table.splitlines() if line.startswith(f"| `{folder}` |")]
            assert data_set in line.split("|")[-2].strip().split(", ")
            top = entry["annotation"].removeprefix("${ANNO_ROOT}/").split("/")[0]
            assert f"| `{top}`" in table


@pytest.mark.slow
def test_six_clips_end_in_a_model_that_answers(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """The page word for word; then all clips that were learnt from, and two more that were not, are asked as well."""
    monkeypatch.chdir(clips)
    (table,) = blocks_in("Six clips of your own", "csv")
    Path("clips/questions.csv").write_text(table)
    commands = [shlex.split(line, comments=True) for line in blocks_in("Six clips of your own", "bash")[0].splitlines()]
    answers, told = [], []
    for words in commands:
        capsys.readouterr()
        assert main(words[1:]) == 0, words
        if words[1] == "train":
            told = capsys.readouterr().out.splitlines()[-6:]
        if words[1] == "chat":
            answers.append("\n".join(capsys.readouterr().out.splitlines()[:2]))
    end, chats = blocks_in("Six clips of your own", "text")
    assert told[1:] == end.splitlines()[1:]  # the loss is another on another machine
    assert told[0].startswith("evaluation loss  11.6")
    assert answers == chats.strip().split("\n\n")
    more = [f"{video}.mp4,Which lamp is on?,the {colour} lamp" for video, (colour, *_) in HELD_OUT.items()]
    for line in [*table.splitlines()[1:], *more]:
        video, question, answer = line.split(",")
        capsys.readouterr()
        assert main(["chat", f"clips/{video}", "--model", "runs/mine/model", "-q", question]) == 0
        assert capsys.readouterr().out.splitlines()[1] == answer
    assert Path("sample.webp").is_file()


def test_shards_are_indexed_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    row = json.dumps({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}).encode()
    for number in range(128):
        with tarfile.open(f"data/part-{number:03}.tar", "w") as tar:
            head = tarfile.TarInfo(f"{number}.json")
            head.size = len(row)
            tar.addfile(head, io.BytesIO(row))
    for line in blocks_in("Tar shards", "bash")[0].splitlines():
        assert main(shlex.split(line, comments=True)[1:]) == 0
    assert len((tmp_path / "my_rows.jsonl").read_text().splitlines()) == 128


def test_the_fenced_blocks_are_the_ones_above():
    """So that no block of the page goes untested."""
    counts = {language: len(blocks_of(PAGE, language)) for language in ("json", "python", "csv", "bash")}
    assert counts == {"json": sum(map(len, KINDS.values())) + 1, "python": 1, "csv": 1, "bash": 3}
