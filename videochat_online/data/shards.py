"""Tar shards as webdataset writes them -> rows whose media names say where in which shard they lie, and their list.

Every shard is walked once, header by header. With the places known, shards are random-access like a folder: the plan
of a run, its exact resume, grouping and packing need nothing else. Knows no pixels.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..files import write_text
from ..media.find import VIDEO_SUFFIXES
from ..media.image_source import IMAGE_SUFFIXES
from ..media.shards import member_name
from .formats import read_row, with_own_fields
from .own import NAMED, write_list
from .registry import DataSet
from .sample import SampleError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def index_shards(patterns: Sequence[str], path: Path) -> tuple[Path, int, int]:
    """Write the rows of shards and their list `path`; returns the file of rows, how many, and of how many shards.

    ValueError for everything that cannot be used, and nothing is written then.
    """
    # 1. the shards
    shards = [shard for pattern in patterns for shard in expanded(pattern)]
    rows_path = path.with_name(f"{path.stem}_rows.jsonl")
    if path.suffix != ".json":
        raise ValueError(f"{path}: the list to write needs a name that ends in .json")
    for place in (path, rows_path):
        if place.exists():
            raise ValueError(f"{place} is there already and is not replaced; expected a new file")
    root = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    if twice := [str(shard) for shard, times in Counter(map(Path.absolute, shards)).items() if times > 1]:
        raise ValueError(f"{twice[0]} is named twice, and its rows would be learnt twice; expected each shard once")
    # 2. their rows, with their media's places
    lines: list[str] = []
    problems: list[str] = []
    for shard in shards:
        for key, row in _rows_of(shard, str(shard.absolute().relative_to(root)), problems):
            try:
                read_row(row)
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
            except SampleError as error:
                problems.append(f"{shard}, {key}: {error}")
    if not lines and not problems:
        problems.append(f"{', '.join(patterns)}: no sample holds a json file with its row")
    if problems:
        more = f"\n  and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:NAMED])
        raise ValueError(f"{len(problems)} problems, nothing is written:{shown}{more}")
    # 3. the rows first: a list never names what is not there
    write_text(rows_path, "".join(lines))
    write_list(path, DataSet(path.stem, rows_path, root))
    return rows_path, len(lines), len(shards)


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
                    _check_name(member.name, seen)
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


def _check_name(name: str, others: Container[str]) -> None:
    """SampleError for a name that a list cannot hold, and for one that another file of the shard has."""
    if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise SampleError("its name is not UTF-8")
    if name in others:
        raise SampleError("two files have this name, and only one of them would be read")


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
