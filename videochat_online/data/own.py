"""Data of one's own: the list of a bare annotation file, and rows and list made of a table or of others' json.

A table is a csv (or tsv) with the columns video, question, answer and, optionally, start, end (the part of the video)
and time (when it is asked), in seconds. Existing files are never replaced.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..extras import did_you_mean
from ..files import write_json, write_text
from ..media.find import find_video
from ..media.readers import MediaError
from .formats import read_row, with_own_fields
from .registry import Annotations, DataSet, is_table, read_utf8
from .sample import SampleError

COLUMNS = ("video", "question", "answer", "start", "end", "time")
NEEDED = COLUMNS[:3]
NAMED = 20
"""Problems of a file that one error names."""

PlacedRow = tuple[int, Mapping[str, Any]]
"""The number of a row, or of the line that it begins with, and the row."""


def write_list(path: Path, data_set: DataSet) -> None:
    """Write the list of one set; paths below its folder are relative. Raises ValueError where there is a file."""
    _refuse_existing(path)
    folder, entry = path.absolute().parent, {}
    for key, place in (("annotation", data_set.annotation), ("data_root", data_set.data_root)):
        place = place.absolute()
        entry[key] = str(place.relative_to(folder) if place.is_relative_to(folder) else place)
    write_json(path, {data_set.name: {**entry, "data_augment": False, "repeat_time": 1}})


def import_rows(source: Path, path: Path, media: Path | None = None) -> tuple[Path, int]:
    """Make the list `path`, and NAME_rows.jsonl beside it, of a csv (or a folder with one), json or jsonl.

    Returns the rows' file and their number. `media`: the folder that names of files start at; default: that of the csv
    or json. Raises ValueError, with line or row, for what is wrong, and writes nothing then.
    """
    # 1. what there is, and where it goes
    if path.suffix != ".json":
        raise ValueError(f"{path}: the list to write needs a name that ends in .json")
    source = _table_in(source) if source.is_dir() else source
    rows_path, root = path.with_name(f"{path.stem}_rows.jsonl"), media or source.parent
    for place in (path, rows_path):
        _refuse_existing(place)
    # 2. the rows, each read as training reads it
    rows: list[Mapping[str, Any]] = []
    problems: dict[int, str] = {}
    placed: Iterable[PlacedRow]
    if is_table(source):
        word, placed = "line", _rows_of_table(source, problems)
    else:
        annotations = Annotations(source)
        word, placed = "row", ((number, annotations[number]) for number in range(len(annotations)))
    for number, row in placed:
        try:
            sample = read_row(row)
            for name in (*sample.images, *(video.path for video in sample.videos)):
                find_video(root / name)
            rows.append(with_own_fields(row))
        except (SampleError, MediaError) as error:
            problems[number] = str(error)
    if problems:
        more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        shown = "".join(f"\n  {word} {number}: {problems[number]}" for number in sorted(problems)[:NAMED])
        raise ValueError(f"{source}: {len(problems)} {word}s cannot be used, nothing is written:{shown}{more}")
    # 3. the rows first: a list never names what is not there
    write_text(rows_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_list(path, DataSet(path.stem, rows_path, root))
    return rows_path, len(rows)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} is there already and is not replaced; expected a new file")


def _table_in(folder: Path) -> Path:
    found = [path for path in sorted(folder.iterdir()) if is_table(path)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder}: expected one csv with the columns {', '.join(COLUMNS)}, found {names}")
    return found[0]


def _rows_of_table(path: Path, problems: dict[int, str]) -> list[PlacedRow]:
    """A row of each line; lines with a time are one dialogue for each video and part, in order of time.

    What is wrong with a line's values goes to `problems`.
    """
    rows: list[PlacedRow] = []
    dialogues: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for number, line in _lines(path):
        try:
            row = _row_of_line(line)
        except SampleError as error:
            problems[number] = str(error)
            continue
        turns = dialogues.setdefault((line["video"], line["start"], line["end"]), []) if line["time"] else []
        if not turns:
            rows.append((number, {**row, "conversations": turns}))
        turns += row["conversations"]
    for turns in dialogues.values():
        pairs = sorted(zip(turns[::2], turns[1::2], strict=True), key=lambda pair: pair[0]["timestamps"])
        turns[:] = [turn for pair in pairs for turn in pair]
    return rows


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, values) of each line behind the head; a column that is not there is blank everywhere."""
    text = read_utf8(path, f"a csv with the columns {', '.join(COLUMNS)}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    names = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    for name in names:
        if name not in COLUMNS:
            hint = did_you_mean(name, COLUMNS) or f"; expected {', '.join(COLUMNS)}"
            raise ValueError(f"{path}, line 1: unknown column {name!r}{hint}")
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"{path}, line 1: the column {missing[0]} is missing, got {', '.join(names) or 'nothing'}")
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
    """SampleError for a blank, and for seconds that are none."""
    for name in NEEDED:
        if not line[name]:
            raise SampleError(f"the {name} is blank")
    seconds: dict[str, float] = {}
    for name in ("start", "end", "time"):
        try:
            seconds |= {name: float(line[name])} if line[name] else {}
        except ValueError as error:
            raise SampleError(f"{name} must be seconds, got {line[name]!r}") from error
    if ("start" in seconds) != ("end" in seconds):
        raise SampleError("start and end stand together, got one of them")
    clip = {"clip": [seconds["start"], seconds["end"]]} if "start" in seconds else {}
    time = {"timestamps": seconds["time"]} if "time" in seconds else {}
    turns = [{"from": "human", "value": line["question"], **time}, {"from": "gpt", "value": line["answer"]}]
    return {"video": line["video"], **clip, "conversations": turns}
