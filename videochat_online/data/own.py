"""Data of one's own: the list of a bare annotation file; rows and list made of a table, others' json, or tar shards.

A table is a csv (or tsv) with the columns video, question, answer and, optionally, start, end (the part of the video)
and time (when it is asked), in seconds. Of tar shards, as webdataset writes them, every one is walked once, header by
header; with the places of its files known, a shard is random-access like a folder. Existing files are never replaced.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..extras import did_you_mean
from ..files import write_json, write_text
from ..media.find import VIDEO_SUFFIXES, find_video
from ..media.image_source import IMAGE_SUFFIXES
from ..media.readers import MediaError
from ..media.shards import member_name
from .formats import read_row, with_own_fields
from .registry import Annotations, DataSet, is_table, read_utf8
from .sample import SampleError

COLUMNS = ("video", "question", "answer", "start", "end", "time")
NEEDED = COLUMNS[:3]
NAMED = 20
"""Problems of a file that one error names."""

PlacedRow = tuple[int, Mapping[str, Any]]
"""The number of a row, or of the line that it begins with, and the row."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


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
    rows_path = _rows_path(path)
    source = _table_in(source) if source.is_dir() else source
    root = media or source.parent
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
        shown = _listed([f"{word} {number}: {problems[number]}" for number in sorted(problems)])
        raise ValueError(f"{source}: {len(problems)} {word}s cannot be used, nothing is written:{shown}")
    # 3. the files
    _write_rows(path, rows_path, rows, root)
    return rows_path, len(rows)


def _rows_path(path: Path) -> Path:
    """Where the rows of a list to write go. ValueError for a list without its suffix, and where a file is there."""
    if path.suffix != ".json":
        raise ValueError(f"{path}: the list to write needs a name that ends in .json")
    rows_path = path.with_name(f"{path.stem}_rows.jsonl")
    for place in (path, rows_path):
        _refuse_existing(place)
    return rows_path


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} is there already and is not replaced; expected a new file")


def _listed(problems: Sequence[str]) -> str:
    more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return "".join(f"\n  {problem}" for problem in problems[:NAMED]) + more


def _write_rows(path: Path, rows_path: Path, rows: Iterable[Mapping[str, Any]], root: Path) -> None:
    """The rows first: a list never names what is not there."""
    write_text(rows_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_list(path, DataSet(path.stem, rows_path, root))


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


def index_shards(patterns: Sequence[str], path: Path) -> tuple[Path, int, int]:
    """Write the rows of shards and their list `path`; returns the file of rows, how many, and of how many shards.

    ValueError for everything that cannot be used, and nothing is written then.
    """
    # 1. the shards
    shards = [shard for pattern in patterns for shard in expanded(pattern)]
    rows_path = _rows_path(path)
    root = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    if twice := [str(shard) for shard, times in Counter(map(Path.absolute, shards)).items() if times > 1]:
        raise ValueError(f"{twice[0]} is named twice, and its rows would be learnt twice; expected each shard once")
    # 2. their rows, with their media's places
    rows: list[Mapping[str, Any]] = []
    problems: list[str] = []
    for shard in shards:
        for key, row in _rows_of(shard, str(shard.absolute().relative_to(root)), problems):
            try:
                read_row(row)
                rows.append(row)
            except SampleError as error:
                problems.append(f"{shard}, {key}: {error}")
    if not rows and not problems:
        problems.append(f"{', '.join(patterns)}: no sample holds a json file with its row")
    if problems:
        raise ValueError(f"{len(problems)} problems, nothing is written:{_listed(problems)}")
    # 3. the files
    _write_rows(path, rows_path, rows, root)
    return rows_path, len(rows), len(shards)


def expanded(pattern: str) -> list[Path]:
    """part-{000..127}.tar as 128 files, and * as what is there, by name. ValueError where a shard is missing."""
    if match := BRACES.search(pattern):
        first, last = match.groups()
        if int(first) > int(last):
            raise ValueError(f"{pattern}: expected numbers that rise, such as {{{last}..{first}}}")
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        return [one for n in numbers for one in expanded(pattern[: match.start()] + n + pattern[match.end() :])]
    found = [Path(one) for one in ([pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern)))]
    if wrong := [one for one in found if one.suffix != ".tar"]:
        hint = "parquet and compressed tars cannot be read at any place: repack them as tar" if wrong else ""
        raise ValueError(f"{wrong[0]} is no tar shard; expected NAME.tar ({hint})")
    if not found:
        raise ValueError(f"{pattern}: no such file; expected tar shards, such as part-{{000..127}}.tar")
    return found


def _rows_of(shard: Path, called: str, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, row) of each sample of a shard; what is wrong with others goes to `problems`."""
    members: dict[str, str] = {}
    of_keys: dict[str, list[str]] = {}
    rows: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):  # as webdataset passes over
                    continue
                key = _key(member.name)
                try:
                    if any("\ud800" <= letter <= "\udfff" for letter in member.name):  # no list can hold it
                        raise SampleError("its name is not UTF-8")
                    if member.name in seen:
                        raise SampleError("two files have this name, and only one of them would be read")
                    if PurePosixPath(member.name) == PurePosixPath(f"{key}.json"):
                        rows[key] = _row(tar.extractfile(member))
                    else:
                        members[member.name] = member_name(called, member.offset_data, member.size, member.name)
                        of_keys.setdefault(key, []).append(member.name)
                except SampleError as error:
                    problems.append(f"{shard}, {member.name!r}: {error}")
                seen.add(member.name)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        problems.append(f"{shard}: cannot be read as a tar of samples ({error})")
        return
    for key, row in rows.items():
        try:
            yield key, _placed(with_own_fields(row), key, members, of_keys.get(key, ()))
        except SampleError as error:
            problems.append(f"{shard}, {key}: {error}")


def _row(file: IO[bytes] | None) -> dict[str, Any]:
    """What a json file holds, {} where that is no row. SampleError where it is no json."""
    try:
        row = json.loads(file.read()) if file else {}
    except (ValueError, RecursionError) as error:
        raise SampleError(f"is no json ({error})") from error
    return row if isinstance(row, dict) else {}


def _key(name: str) -> str:
    """What the files of a sample share: all before the first dot of the name, as webdataset has it."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _placed(row: Mapping[str, Any], key: str, members: Mapping[str, str], own: Sequence[str]) -> dict[str, Any]:
    """The row with its media's places. A row that names none has the media of its key."""
    found = dict(row)

    def place(name: Any) -> str:
        """Of a name as the row has it, of the member of that suffix that the sample has, else of that name."""
        same = [one for one in own if isinstance(name, str) and one.endswith(PurePosixPath(name).suffix or "/")]
        for one in (name, f"{PurePosixPath(key).parent}/{name}", *(same if len(same) == 1 else ())):
            if one in members:
                return members[one]
        raise SampleError(f"names {name!r}, which is not in its shard")

    if files := found.get("all_image_files"):
        found["all_image_files"] = [place(f"{found.get('video') or '.'}/{name}".removeprefix("./")) for name in files]
        found.pop("video", None)
        return found
    for field, suffixes in (("image", IMAGE_SUFFIXES), ("video", VIDEO_SUFFIXES)):
        value = found.get(field)
        if not any(found.get(one) for one in ("image", "video")):
            value = [name for name in own if PurePosixPath(name).suffix.lower() in suffixes]
            value = value[0] if len(value) == 1 else value
        if value:
            found[field] = place(value) if isinstance(value, str) else [place(name) for name in value]
    return found
