"""Annotation files: rows are fresh each time, and what is wrong is said with line and column."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from videochat_online.data.registry import Annotations

ROWS = [{"id": 1, "text": '杯子 "quoted" ] , {'}, {"id": 2, "nested": [{"a": [1, 2]}]}, {"id": 3}]


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_of_json_and_jsonl_are_the_same(indent: int | None, tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=indent, ensure_ascii=indent is None), "utf-8")
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, ROWS)) + "\n", "utf-8")
    for name in ("a.json", "a.jsonl"):
        rows = Annotations(tmp_path / name)
        assert [rows[n] for n in range(len(rows))] == ROWS
        assert [pickle.loads(pickle.dumps(rows))[n] for n in range(3)] == ROWS


def test_rows_cannot_be_changed(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS), "utf-8")
    rows = Annotations(tmp_path / "a.json")
    rows[1]["nested"].clear()
    assert rows[1] == ROWS[1]
    with pytest.raises(IndexError, match="expected 0 <= row < 3"):
        rows[3]


WRONG = {
    "no file": (None, "cannot be read .No such file"),
    "empty": ("", "holds no rows"),
    "nested": ('[{"a": ' + "[" * 100_000, "row 0 is nested too deeply"),
    "empty list": ("[ ]", "holds no rows"),
    "cut off": ('[{"a": 1},\n {"b": ', "line 2, column 8: not json"),
    "no comma": ('[{"a": 1}\n{"b": 2}]', "line 2, column 1: not json .expected ',' or ']'"),
    "text behind": ('[{"a": 1}]\nx', "not json .more text after the list"),
    "no object": ('[{"a": 1}, 5]', "row 1 must be an object, got int"),
    "bad line": ('{"a": 1}\n{"b" 2}\n', "line 2, column 6: not json"),
    "two on a line": ('{"a": 1} {"b": 2}\n', "line 1, column 9: not json .more text after the row"),
    "not jsonl": (json.dumps({"a": 1}, indent=1), "goes over several lines"),
    "not text": (b"\xff\xfe\x00", "is not UTF-8 text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_file_says_what_and_where(case: str, tmp_path: Path):
    content, message = WRONG[case]
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        Annotations(path)
    assert str(path) in str(caught.value)
