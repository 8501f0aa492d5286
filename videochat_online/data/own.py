"""Data of one's own: the list of a bare annotation file, and rows and list made of a table or of others' json.

A table is a csv with the columns video, question, answer and, optionally, start, end (the part of the video) and time
(when it is asked), in seconds. Existing files are never replaced.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..extras import did_you_mean
from ..files import write_json, write_text
from ..media.find import find_video
from ..media.readers import MediaError
from .formats import read_row, with_own_fields
from .registry import Annotations, DataSet, read_utf8
from .sample import SampleError

COLUMNS = ("video", "question", "answer", "start", "end", "time")
NEEDED = COLUMNS[:3]
NAMED = 20
"""Problems of a file that one error names."""

PlacedRow = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and the row."""


def list_beside(annotation: Path) -> Path:
    """The list that belongs to a bare annotation file: rows.jsonl -> rows_list.json."""
    return annotation.with_name(f"{annotation.stem}_list.json")


def write_list(path: Path, data_set: DataSet) -> None:
    """Write the list of one set; paths below its folder are relative. Raises ValueError where there is a file."""
    if path.exists():
        raise ValueError(f"{path} is there already and is not replaced; expected a new file")
    folder = path.absolute().parent
    entry = {"annotation": _seen_from(folder, data_set.annotation), "data_root": _seen_from(folder, data_set.data_root)}
    write_json(path, {data_set.name: {**entry, "data_augment": False, "repeat_time": 1}})


def import_rows(source: Path, path: Path, media: Path | None = None) -> tuple[Path, int]:
    """Make the list `path`, and NAME_rows.jsonl beside it, of a csv (or a folder with one), json or jsonl.

    Returns the rows' file and their number. `media`: the folder that names of files start at; default: that of the csv
    or json. Raises ValueError with everything that is wrong, by line or row, and writes nothing then.
    """
    # 1. what there is, and where it goes
    source = _table_in(source) if source.is_dir() else source
    rows_path, root = path.with_name(f"{path.stem}_rows.jsonl"), media or source.parent
    for place in (path, rows_path):
        if place.exists():
            raise ValueError(f"{place} is there already and is not replaced; expected a new file")
    # 2. the rows, each read as training reads it
    if source.suffix == ".csv":
        placed: Iterator[PlacedRow] = iter(_rows_of_table(source))
    else:
        annotations = Annotations(source)
        placed = ((f"row {number}", annotations[number]) for number in range(len(annotations)))
    rows, problems = [], []
    for place, row in placed:
        try:
            rows.append(dict(with_own_fields(row)))
            sample = read_row(row)
            for name in (*sample.images, *([sample.video.path] if sample.video else [])):
                find_video(root / name)
        except (SampleError, MediaError) as error:
            problems.append(f"{place}: {error}")
    _raise_all(source, problems)
    # 3. the rows first: a list never names what is not there
    write_text(rows_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_list(path, DataSet(path.stem, rows_path, root))
    return rows_path, len(rows)


def _table_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder}: expected one csv with the columns {', '.join(COLUMNS)}, found {names}")
    return found[0]


def _rows_of_table(path: Path) -> list[PlacedRow]:
    """A row of each line; lines with a time are one dialogue for each video and part, in order of time."""
    rows: list[PlacedRow] = []
    dialogues: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    problems = []
    for number, line in _lines(path):
        try:
            row, key = _row_of_line(line), (line["video"], line["start"], line["end"])
        except SampleError as error:
            problems.append(f"line {number}: {error}")
            continue
        if line["time"] and key in dialogues:
            dialogues[key] += row["conversations"]
            continue
        if line["time"]:
            dialogues[key] = row["conversations"]
        rows.append((f"line {number}", row))
    _raise_all(path, problems)
    for turns in dialogues.values():
        pairs = sorted(zip(turns[::2], turns[1::2], strict=True), key=lambda pair: pair[0]["timestamps"])
        turns[:] = [turn for pair in pairs for turn in pair]
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, values) of each line behind the head; a column that is not there is blank everywhere."""
    text = read_utf8(path, f"a csv with the columns {', '.join(COLUMNS)}")
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    for name in names:
        if name not in COLUMNS:
            hint = did_you_mean(name, COLUMNS) or f"; expected {', '.join(COLUMNS)}"
            raise ValueError(f"{path}, line 1: unknown column {name!r}{hint}")
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"{path}, line 1: the column {missing[0]} is missing, got {', '.join(names) or 'nothing'}")
    reader.fieldnames = names
    try:
        for line in reader:
            if None in line or None in line.values():
                what = f'expected {len(names)} values; one with a comma in it stands in "..."'
                raise ValueError(f"{path}, line {reader.line_num}: {what}")
            yield reader.line_num, dict.fromkeys(COLUMNS, "") | {name: value.strip() for name, value in line.items()}
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: is not csv ({error})") from error
    if reader.line_num < 2:
        raise ValueError(f"{path}: holds no lines behind its head")


def _row_of_line(line: dict[str, str]) -> dict[str, Any]:
    for name in NEEDED:
        if not line[name]:
            raise SampleError(f"the {name} is blank")
    seconds = {name: _seconds(name, line[name]) for name in ("start", "end", "time") if line[name]}
    if ("start" in seconds) != ("end" in seconds):
        raise SampleError("start and end stand together, got one of them")
    question: dict[str, Any] = {"from": "human", "value": line["question"]}
    if "time" in seconds:
        question["timestamps"] = seconds["time"]
    row: dict[str, Any] = {"video": line["video"]}
    if "start" in seconds:
        row["clip"] = [seconds["start"], seconds["end"]]
    return {**row, "conversations": [question, {"from": "gpt", "value": line["answer"]}]}


def _seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise SampleError(f"{name} must be seconds, got {text!r}") from error


def _raise_all(path: Path, problems: list[str]) -> None:
    if problems:
        more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:NAMED])
        raise ValueError(f"{path}: {len(problems)} of its entries cannot be used; nothing is written:{shown}{more}")


def _seen_from(folder: Path, path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
