"""Where training data lies: lists of sets, and the rows of each set's annotation file. Opens no media.

A list is a json file {name: {annotation, data_root, data_augment, repeat_time, max_dynamic_patch?}}. ${NAME} in a path
is taken from the environment, relative paths start at the list's folder. A list anno_data/NAME that is not in the
working folder is the one that comes with the program.
"""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from ..extras import did_you_mean
from ..files import shipped
from .sample import is_number

VARIABLE = re.compile(r"\$\{(\w+)\}")
BLANKS = re.compile(r"\s*")
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class DataSet:
    """One entry of a list. ValueError for a value that a key cannot have."""

    name: str
    annotation: Path
    """json (a list of rows) or jsonl (a row a line)."""
    data_root: Path
    """Folder that the rows' media paths start at."""
    data_augment: bool = False
    """Compress each picture again as JPEG of a random quality, as InternVL trains."""
    repeat_time: float = 1
    """How often an epoch shows each row; below 1 it shows that share of the rows, chosen once."""
    max_dynamic_patch: int | None = None
    """Tiles a still image is cut into at most; None: the settings' or the model's number."""

    def __post_init__(self) -> None:
        patches = self.max_dynamic_patch
        if not isinstance(self.data_augment, bool):
            raise ValueError(f"data set {self.name!r}: data_augment must be true or false, got {self.data_augment!r}")
        if not is_number(self.repeat_time) or not math.isfinite(self.repeat_time) or self.repeat_time <= 0:
            raise ValueError(f"data set {self.name!r}: repeat_time must be a number > 0, got {self.repeat_time!r}")
        if patches is not None and (not isinstance(patches, int) or isinstance(patches, bool) or patches < 1):
            raise ValueError(f"data set {self.name!r}: max_dynamic_patch must be an integer >= 1, got {patches!r}")


KEYS = tuple(field.name for field in fields(DataSet) if field.name != "name")
NEEDED = tuple(field.name for field in fields(DataSet) if field.name != "name" and field.default is MISSING)


def read_lists(paths: Iterable[str | os.PathLike[str]], environment: Mapping[str, str] | None = None) -> list[DataSet]:
    """The sets of several lists, in order. ValueError with everything that is wrong, naming file, set and key.

    `environment` stands in for os.environ.
    """
    sets, problems = collect_lists(paths, environment)
    if problems:
        raise ValueError("\n".join(problems))
    return sets


def collect_lists(
    paths: Iterable[str | os.PathLike[str]], environment: Mapping[str, str] | None = None
) -> tuple[list[DataSet], list[str]]:
    """The sets that are well described, and what is wrong with the others, a line each."""
    environment = os.environ if environment is None else environment
    sets: dict[str, DataSet] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        if path.parts[:1] == ("anno_data",) and not path.exists():
            path = shipped(path)
        try:
            entries = _read_entries(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        unset = _unset_variables(entries, environment)
        for variable, names in unset.items():
            problems.append(
                f"{path}: the environment variable {variable} is not set, {len(names)} of {len(entries)} data sets "
                f"need it ({names[0]!r}, ...); export {variable}=/a/folder"
            )
        left_out = set().union(*unset.values())
        for name, values in entries.items():
            if name in left_out:
                continue
            try:
                data_set = _data_set(name, values, path.absolute().parent, environment)
            except ValueError as error:
                problems.append(f"{path}: {error}")
                continue
            if name in sets:
                problems.append(f"{path}: data set {name!r} stands in two lists; give each set one name")
            sets.setdefault(name, data_set)
    if not sets and not problems:
        problems.append("no data sets: give at least one list that names one")
    return list(sets.values()), problems


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name, as a spreadsheet saves it."""
    return path.suffix.lower() in (".csv", ".tsv")


def holds_rows(path: Path) -> bool:
    """Whether a file holds rows, and no data-set list. A file that cannot be read counts as a list."""
    try:
        text = read_utf8(path, "rows or a data-set list").lstrip()
        if path.suffix == ".jsonl" or text.startswith("["):
            return True
        first, _ = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and any(isinstance(value, list) for value in first.values())


def _read_entries(path: Path) -> dict[str, Any]:
    """The sets of a list. ValueError with line and column where it is not json; a key that stands twice is an error."""
    expected = "a data-set list {name: {annotation, data_root, ...}}"
    if is_table(path):
        raise ValueError(f"{path} is a table: `videochat-online data import {path} LIST` makes a list of it")
    if holds_rows(path):
        hint = f"`videochat-online data check {path}` writes their list"
        raise ValueError(f"{path}: a data-set list is an object {{name: {{...}}}}, got rows; {hint}")
    text = read_utf8(path, expected)
    try:
        entries = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise _not_json(path, error) from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply; expected {expected}") from error
    except ValueError as error:  # of the hook
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a data-set list is an object {{name: {{...}}}}, got {type(entries).__name__}")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would keep the last of two equal keys without a word."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r} stands twice in one object; expected each once")
        values[key] = value
    return values


def _unset_variables(entries: dict[str, Any], environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Each variable that paths name and that is not set -> the sets that need it."""
    unset: dict[str, list[str]] = {}
    for name, values in entries.items():
        texts = [values[key] for key in NEEDED if isinstance(values, dict) and isinstance(values.get(key), str)]
        for variable in dict.fromkeys(VARIABLE.findall(" ".join(texts))):
            if not environment.get(variable):
                unset.setdefault(variable, []).append(name)
    return unset


def _data_set(name: str, values: Any, folder: Path, environment: Mapping[str, str]) -> DataSet:
    """The set of one entry of a list in `folder`; all variables are set."""
    where = f"data set {name!r}"
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object with {', '.join(NEEDED)}, got {values!r:.80}")
    for key in values:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS, show=repr)
            raise ValueError(f"{where}: unknown key {key!r}, expected {', '.join(KEYS)}{hint}")
    paths = {}
    for key in NEEDED:
        if not isinstance(values.get(key), str) or not values[key]:
            raise ValueError(f"{where}: {key} must be a path, got {values.get(key)!r}")
        filled = VARIABLE.sub(lambda match: environment[match.group(1)], values[key])
        paths[key] = folder / Path(filled).expanduser()
    return DataSet(name, **{**values, **paths})


LARGEST_HELD = 2**26
"""Bytes of annotations that each process holds in memory."""


class Annotations:
    """The rows of a json or jsonl file: where each lies, and parsed when it is asked for. ValueError for what is wrong.

    A row is a fresh object each time, so the raw data cannot be changed. And a million rows are one array, which
    worker processes share instead of copying (Python objects would be copied page by page as they are counted). The
    words of a large file are read from it row by row: they stay in the system's cache, once for all training processes
    of a machine. What is smaller is held, and may be edited meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._state = path, _state_of(path)
        self._file: int | None = None
        text = read_utf8(path, "a json list or jsonl of rows")
        self._held = b"" if self._state[0] > LARGEST_HELD else path.read_bytes()
        start = _skip_blanks(text, 0)
        spans = _list_spans(path, text, start + 1) if text[start : start + 1] == "[" else _line_spans(path, text)
        places, position, place = array("q"), 0, self._state[0] - _num_bytes(text)  # behind a byte order mark
        for first, last in spans:
            place += _num_bytes(text[position:first])
            places.append(place)
            place += _num_bytes(text[first:last])
            places.append(place)
            position = last
        if not places:
            raise ValueError(f"{path}: holds no rows; expected a json list or jsonl with at least one")
        self._places = np.frombuffer(places, dtype=np.int64).reshape(-1, 2)
        """int64 (num_rows, 2): the first byte of each row, and the one behind its last."""

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Row `number`, from 0; a new object each time. IndexError where there is none."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path}: row {number} is out of range, expected 0 <= row < {len(self)}")
        first, last = self._places[number].tolist()
        if self._held:
            return json.loads(self._held[first:last].decode("utf-8"))
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
            finalize(self, os.close, self._file)
        if _state_of(self._file) != self._state:
            raise ChangedError(f"{self.path} has changed since its rows were counted: leave it alone while it is read")
        return json.loads(os.pread(self._file, last - first, first).decode("utf-8"))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}  # another process opens it for itself


class ChangedError(ValueError):
    """Annotations are not what they were. Not a sample's fault: training ends with it."""


def _state_of(file: Path | int) -> tuple[int, int]:
    """(bytes, nanoseconds of its last change); ValueError where there is no such file."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); expected a json list or jsonl of rows") from error
    return status.st_size, status.st_mtime_ns


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _list_spans(path: Path, text: str, start: int) -> Iterator[tuple[int, int]]:
    """(first, after last) character of each row of a json list whose bracket stands before `start`."""
    number, position = 0, _skip_blanks(text, start)
    while text[position : position + 1] != "]":
        if number:
            if text[position : position + 1] != ",":
                raise _not_json(path, json.JSONDecodeError("expected ',' or ']' after a row", text, position))
            position = _skip_blanks(text, position + 1)
        after = _row_end(path, text, position, number)
        yield position, after
        number, position = number + 1, _skip_blanks(text, after)
    if text[position + 1 :].strip():
        raise _not_json(path, json.JSONDecodeError("more text after the list", text, position + 1))


def _line_spans(path: Path, text: str) -> Iterator[tuple[int, int]]:
    """The same for one row a line; blank lines are left out."""
    lines = (line for line in re.finditer(r"[^\r\n]+", text) if line.group().strip())
    for number, line in enumerate(lines):
        first = _skip_blanks(text, line.start())
        after = _row_end(path, text, first, number)
        if after > line.end():
            expected = "a json file is a list of rows, a jsonl file has one row a line"
            raise ValueError(f"{path}: holds an object that goes over several lines; {expected}")
        if text[after : line.end()].strip():
            raise _not_json(path, json.JSONDecodeError("more text after the row", text, after))
        yield first, after


def _row_end(path: Path, text: str, position: int, number: int) -> int:
    try:
        row, after = DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _not_json(path, error) from error
    except RecursionError as error:
        raise ValueError(f"{path}: row {number} is nested too deeply") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}: row {number} must be an object, got {type(row).__name__}")
    return after


def _skip_blanks(text: str, position: int) -> int:
    return BLANKS.match(text, position).end()  # type: ignore[union-attr]  # it matches anywhere


def read_utf8(path: Path, expected: str) -> str:
    """The text of a file. ValueError, which says what was `expected`, where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # line ends as they are: rows are found again by their bytes
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text ({error.reason} at byte {error.start})"
        raise ValueError(f"{path}: {what}; expected {expected}") from error


def _not_json(path: Path, error: json.JSONDecodeError) -> ValueError:
    return ValueError(f"{path}, line {error.lineno}, column {error.colno}: not json ({error.msg})")
