"""Data-set lists: json files that name sets, where their rows and media lie, and how often they are seen.

{name: {annotation, data_root, data_augment, repeat_time, max_dynamic_patch?}}. ${NAME} in a path is taken from the
environment, relative paths start at the list's folder. A list anno_data/NAME that is not in the working folder is the
one that comes with the program. Opens no annotation.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ..extras import did_you_mean
from ..files import shipped
from .sample import is_number

VARIABLE = re.compile(r"\$\{(\w+)\}")


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
        if not isinstance(self.data_augment, bool):
            raise ValueError(f"data set {self.name!r}: data_augment must be true or false, got {self.data_augment!r}")
        if not is_number(self.repeat_time) or not math.isfinite(self.repeat_time) or self.repeat_time <= 0:
            raise ValueError(f"data set {self.name!r}: repeat_time must be a number > 0, got {self.repeat_time!r}")
        patches = self.max_dynamic_patch
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
    for path in map(_find_list, paths):
        try:
            entries = _read_entries(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        unset = _unset_variables(entries, environment)
        problems += [
            f"{path}: the environment variable {variable} is not set, {len(names)} of {len(entries)} data sets need it "
            f"({names[0]!r}, ...); export {variable}=/a/folder"
            for variable, names in unset.items()
        ]
        left_out = {name for names in unset.values() for name in names}
        for name, values in entries.items():
            if name in left_out:
                continue
            try:
                data_set = _data_set(path, name, values, environment)
            except ValueError as error:
                problems.append(str(error))
                continue
            if name in sets:
                problems.append(f"{path}: data set {name!r} stands in two lists; give each set one name")
            sets.setdefault(name, data_set)
    if not sets and not problems:
        problems.append("no data sets: give at least one list that names one")
    return list(sets.values()), problems


def _find_list(path: str | os.PathLike[str]) -> Path:
    named = Path(path)
    return shipped(named) if named.parts[:1] == ("anno_data",) and not named.exists() else named


def _read_entries(path: Path) -> dict[str, Any]:
    """The sets of a list. ValueError with line and column where it is not json; a key that stands twice is an error."""
    expected = "a data-set list {name: {annotation, data_root, ...}}"
    try:
        entries = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start}); expected {expected}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: not json ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply; expected {expected}") from error
    except ValueError as error:  # of the hook
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: a data-set list is an object {{name: {{...}}}}, got {type(entries).__name__}")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python would keep the last of two equal keys without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} stands twice in one object; expected each once")
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


def _data_set(path: Path, name: str, values: Any, environment: Mapping[str, str]) -> DataSet:
    where = f"{path}: data set {name!r}"
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
        paths[key] = path.absolute().parent / Path(filled).expanduser()
    try:
        return DataSet(name, **{**values, **paths})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
