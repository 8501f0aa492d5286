"""`data import`, `data fetch`, and `data check` of bare rows: what is written, and what is said where it is not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.documents import ROOT
from videochat_online.data.commands import add_data_command
from videochat_online.data.formats import read_row
from videochat_online.data.registry import Annotations, holds_rows, read_lists
from videochat_online.data.sample import Turn, Video

from .conftest import at, talk


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_data_command(parser.add_subparsers())
    options = parser.parse_args(["data", *map(str, arguments)])
    return options.run(options)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# bare rows

ROWS = [{"video": "video", "conversations": talk("Q", "A")}, {"image": "small.png", "conversations": talk("Q", "A")}]


def test_bare_rows_are_named_and_get_a_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"messages": said}])
    assert run("check", path, "--media", media) == 0
    printed = capsys.readouterr().out
    assert "3 rows: 2 of conversations (LLaVA), 1 of messages (ms-swift, LLaMA-Factory)" in printed
    assert f"wrote {tmp_path}/rows_list.json; train with --data" in printed
    (one,) = read_lists([tmp_path / "rows_list.json"])
    assert (one.name, one.annotation, one.data_root) == ("rows", path, media)
    assert json.loads((tmp_path / "rows_list.json").read_text())["rows"]["annotation"] == "rows.jsonl"
    assert run("check", tmp_path / "rows_list.json") == 0
    # and a second time nothing is replaced
    (tmp_path / "rows_list.json").write_text("mine")
    assert run("check", path, "--media", media) == 0
    assert "is there already and stays" in capsys.readouterr().out
    assert (tmp_path / "rows_list.json").read_text() == "mine"


def test_bare_rows_with_a_problem_get_no_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS, {"caption": "?"}])
    assert run("check", path, "--media", media) == 1
    said = capsys.readouterr().out
    assert "1 of an unknown format" in said
    assert "rows, row 2: unknown format" in said
    assert "no list is written" in said
    path.write_text('{"conversations": []}\n{"conv')
    assert run("check", path) == 1
    assert "line 2, column 2: not json" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(ValueError, match="--media is for bare rows"):
        run("check", ROOT / "anno_data/stage1_offline.json", "--media", media)


def test_lists_and_rows_are_told_apart(tmp_path: Path):
    for text, expected in {
        "[]": True,
        '[{"a"': True,
        '{"QA": []}\n{"QA": []}': True,
        '{"a": {"annotation": "b"}}': False,
        "{": False,
        "": False,
    }.items():
        (tmp_path / "x.json").write_text(text)
        assert holds_rows(tmp_path / "x.json") == expected, text
    assert not holds_rows(tmp_path / "gone.json")


def test_blank_answers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    rows = [{"conversations": talk("Q", "A", "R", " ", "S", "")}] * 7 + [{"conversations": talk("Q", "")}]
    assert run("check", write_rows(tmp_path / "rows.jsonl", rows)) == 1
    said = capsys.readouterr().out
    assert "1 warning:\n  rows: 14 of 21 answers are blank, in rows 0, 1, 2, 3, 4, ..." in said
    assert "row 7: all 1 answers are blank: there is nothing to learn" in said
    assert run("check", write_rows(tmp_path / "rows.jsonl", rows[:1])) == 0
    assert "2 of 3 answers are blank, in rows 0\n" in capsys.readouterr().out


# import

TABLE = """video;question;answer;start;end;time
video.mp4;What is it?;"dark; then light";;;
video.mp4;And now?;lighter;;;4
video.mp4;What now?;dark;;;1.5
video;Which part?;the end;5;9;
"""


def test_a_table_becomes_rows_and_a_list(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "clips").symlink_to(media)
    (tmp_path / "table.csv").write_text(TABLE, "utf-8-sig")
    assert run("import", tmp_path / "table.csv", tmp_path / "my.json", "--media", tmp_path / "clips") == 0
    assert "wrote 3 rows" in capsys.readouterr().out
    entry = {"annotation": "my_rows.jsonl", "data_root": "clips", "data_augment": False, "repeat_time": 1}
    assert json.loads((tmp_path / "my.json").read_text()) == {"my": entry}
    rows = Annotations(tmp_path / "my_rows.jsonl")
    samples = [read_row(rows[number]) for number in range(3)]
    assert [one.kind for one in samples] == ["video", "online", "video"]
    assert samples[0].turns == (Turn("What is it?", "dark; then light"),)
    assert samples[1].turns == (Turn("What now?", "dark", 1.5), Turn("And now?", "lighter", 4.0))
    assert samples[2].video == Video("video", clip=(5.0, 9.0))
    assert run("check", tmp_path / "my.json") == 0
    with pytest.raises(ValueError, match=r"my\.json is there already and is not replaced"):
        run("import", tmp_path / "table.csv", tmp_path / "my.json", "--media", media)


BAD_TABLES = {
    "no column": ("video,question\n", "line 1: the column answer is missing, got video, question"),
    "unknown column": ("video,question,answr\n", "line 1: unknown column 'answr'; did you mean answer"),
    "only a head": ("video,question,answer\n", "holds no lines"),
    "nothing": ("", "the column video is missing, got nothing"),
    "too many": ("video,question,answer\nvideo,Q,a, b\n", "line 2: expected 3 values; one with a comma"),
    "quotes": ('video,question,answer\nvideo,Q,"A\n', r"line \d: is not csv"),
    "blank": ("video,question,answer\nvideo,Q,A\nvideo,Q,\n", "line 3: the answer is blank"),
    "time": ("video,question,answer,time\nvideo,Q,A,soon\n", "line 2: time must be seconds, got 'soon'"),
    "half a part": ("video,question,answer,start\nvideo,Q,A,1\n", "line 2: start and end stand together"),
    "turned": ("video,question,answer,start,end\nvideo,Q,A,4,1\n", "line 2: a clip is"),
    "several": (
        "video,question,answer,start,end\nvideo,Q,A,4,1\nvideo,Q,,,\n",
        r"2 lines cannot be used, nothing is written:\n  line 2: a clip is .*\n  line 3: the answer is blank",
    ),
    "gone": ("video,question,answer\nvideo,Q,A\nvide,Q,A\n", "line 3: .*vide: does not exist"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_says_where(case: str, tmp_path: Path, media: Path):
    text, message = BAD_TABLES[case]
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        run("import", tmp_path, tmp_path / "my.json", "--media", media)
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_a_table_by_another_name(tmp_path: Path, media: Path):
    text = "video,question,answer\nvideo,Q,A\n"
    for name, mark in {"A.CSV": ",", "b.tsv": "\t"}.items():
        (tmp_path / name).write_text(text.replace(",", mark))
        assert run("import", tmp_path / name, tmp_path / f"{name}.json", "--media", media) == 0
        assert (tmp_path / f"{name}_rows.jsonl").read_text().count("\n") == 1
    with pytest.raises(ValueError, match=r"the list to write needs a name that ends in \.json"):
        run("import", tmp_path / "A.CSV", tmp_path / "list.csv", "--media", media)
    with pytest.raises(ValueError, match=r"--picture .*x\.mp4: cannot be written .*; expected a picture file"):
        run("show", tmp_path / "A.CSV.json", 0, "--picture", tmp_path / "x.mp4")


def test_a_folder_holds_one_table(tmp_path: Path):
    with pytest.raises(ValueError, match=r"x\.csv is a table: `videochat-online data import x\.csv LIST`"):
        run("check", "x.csv")
    with pytest.raises(ValueError, match=r"expected one csv with the columns video, .*, found none"):
        run("import", tmp_path, tmp_path / "my.json")


def test_rows_of_others_become_ours(tmp_path: Path, media: Path):
    picture = {"type": "image_url", "image_url": {"url": "small.png"}}
    parts = [picture, {"type": "text", "text": "Q"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]
    theirs = [
        {"messages": said},
        {"conversations": talk("<video>Q", "A"), "videos": ["video.mp4"], "system": "Brief."},
        {"video": "video", "conversations": at(2, "Q", "A")},
    ]
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    assert run("import", tmp_path / "theirs.json", tmp_path / "my.json", "--media", media) == 0
    rows = Annotations(tmp_path / "my_rows.jsonl")
    assert rows[0] == {"conversations": talk("<image>\nQ", "A"), "image": ["small.png"]}
    assert [read_row(rows[number]) for number in range(3)] == list(map(read_row, theirs))
    assert run("check", tmp_path / "my.json") == 0
    theirs[1]["videos"] = ["gone.mp4"]
    (tmp_path / "theirs.json").write_text(json.dumps([*theirs, {"caption": "?"}]))
    with pytest.raises(ValueError, match=r"row 1: .*gone.mp4: does not exist.*\n  row 3: unknown"):
        run("import", tmp_path / "theirs.json", tmp_path / "other.json", "--media", media)


# fetch
