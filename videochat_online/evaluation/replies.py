"""Replies that were made elsewhere, read from a file: by question id, with words, time of answering, or an error.

Rows of jsonl, json, csv, tsv or xlsx: ours, the samples that lmms-eval logs, VLMEvalKit's predictions, the result files
of OVO-Bench's authors. Knows no benchmark and judges nothing.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from ..extras import require
from ..files import read_json
from ..prompt.messages import check_text
from .questions import named

ID_FIELDS = ("id", "sample_id", "question_id", "index")
REPLY_FIELDS = ("reply", "response", "prediction", "filtered_resps", "resps")
"""Ours; our predictions.jsonl and OVO-Bench's; VLMEvalKit; lmms-eval. The first that a row has is read."""
NOT_ANSWERED = "Failed to obtain answer"
"""VLMEvalKit writes so what it could not ask."""


@dataclass(frozen=True)
class Given:
    """One reply. `text` None: the question could not be asked, and `error` says why."""

    text: str | None
    answered_at: float | None = None
    error: str | None = None


def read_replies(
    paths: Sequence[Path], id_field: str | None = None, reply_field: str | None = None
) -> dict[str, Given]:
    """All replies of some files by question id. ValueError, naming file and row, for rows without id or reply.

    Ids that stand twice are an error, too: which of the two counts would be a guess.
    """
    found: dict[str, Given] = {}
    twice: list[str] = []
    for path in paths:
        for number, row in enumerate(_rows(path), 1):
            try:
                for question_id, given in _given(row, id_field, reply_field):
                    if question_id in found:
                        twice.append(question_id)
                    found[question_id] = given
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, row {number}: {error}") from error
    if twice:
        raise ValueError(f"ids with more than one reply: {named(twice)}")
    if not found:
        raise ValueError(f"no replies in {', '.join(map(str, paths))}")
    return found


def matched(replies: Mapping[str, Given], known: Collection[str]) -> dict[str, Given]:
    """The replies under the benchmark's ids. ValueError names those of no question."""
    under = {one if one in known else re.sub(r"__q(\d+)$", r"#q\1", one): given for one, given in replies.items()}
    if unknown := [one for one in under if one not in known]:
        raise ValueError(
            f"{len(unknown)} of {len(under)} ids are of no question: {named(unknown)}; ids here are such as "
            f"{named(sorted(known)[:3])} (--id-field names the column they stand in)"
        )
    return under


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a file by its ending. ValueError for a file of another kind, or one that is cut off."""
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".jsonl": _json_lines, ".json": _json, ".csv": _separated, ".tsv": _separated, ".xlsx": _sheet,
    }  # fmt: skip
    kind = path.suffix.lower()
    if kind not in readers:
        raise ValueError(f"{path}: replies are read from {', '.join(readers)}; got {path.suffix or 'no ending'}")
    try:
        yield from readers[kind](path)
    except (csv.Error, UnicodeDecodeError) as error:
        what = f"{path} cannot be read as {path.suffix} (cut off, or another kind of file?)"
        raise ValueError(f"{what}: {error}") from error


def _json_lines(path: Path) -> Iterator[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # some tools mark UTF-8
    for number, line in ((number, line) for number, line in enumerate(lines, 1) if line.strip()):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise ValueError(f"{path}, line {number}: cannot be read as JSON (cut off?): {error}") from error


def _json(path: Path) -> Iterator[Any]:
    """A list of rows, or lists of rows by name, as OVO-Bench's authors keep their three regimes."""
    content: Any = read_json(path, object, "a list of rows")
    parts = list(content.values()) if isinstance(content, dict) else [content]
    if not all(isinstance(part, list) for part in parts):
        raise ValueError(f"{path}: expected a list of rows, or lists of rows by name")
    yield from (row for part in parts for row in part)


def _separated(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(1 << 27)  # VLMEvalKit keeps pictures beside the words
        # strict: else what stands behind a quote that is not closed, as in a file cut off, is quietly one reply
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)


def _sheet(path: Path) -> Iterator[Any]:
    require("openpyxl")
    from openpyxl import load_workbook

    try:
        rows = load_workbook(path, read_only=True).worksheets[0].iter_rows(values_only=True)
    except (BadZipFile, KeyError) as error:
        raise ValueError(f"{path} cannot be read as .xlsx: {error}") from error
    heads = next(rows, ())
    yield from (dict(zip(heads, row, strict=True)) for row in rows if any(cell is not None for cell in row))


def _given(row: Any, id_field: str | None, reply_field: str | None) -> Iterator[tuple[str, Given]]:
    """What one row says; a row of OVO-Bench's forward tasks holds a reply for each of its moments."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a row with an id and a reply, got {row!r:.80}")
    ids, texts = (id_field,) if id_field else ID_FIELDS, (reply_field,) if reply_field else REPLY_FIELDS
    # lmms-eval keeps the question's own fields in what its task's metrics get
    inside = (value for value in row.values() if isinstance(value, dict))
    source = next((one for one in (row, *inside) if any(_there(one, name) for name in ids)), None)
    if source is None:
        raise ValueError(f"no id: expected one of {', '.join(ids)}, got {', '.join(map(str, row))}; see --id-field")
    question_id = _plain(next(source[name] for name in ids if _there(source, name)))
    if isinstance(source.get("test_info"), list):
        for place, moment in enumerate(source["test_info"]):
            yield f"{question_id}_{place}", _reply(moment, ("response",))
        return
    yield question_id, _reply(row if any(name in row for name in texts) else source, texts)


def _reply(row: Mapping[str, Any], names: Sequence[str]) -> Given:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise ValueError(f"no reply: expected one of {', '.join(names)}, got {', '.join(map(str, row))}")
    value = row[name]
    while isinstance(value, list):
        value = value[0] if value else None
    if value is None or (isinstance(value, str) and value.startswith(NOT_ANSWERED)):
        return Given(None, error=str(row.get("error") or "the file holds no reply"))
    if isinstance(value, dict):
        raise ValueError(f"{name}: expected the words of a reply, got {value!r:.80}")
    check_text(str(value), name)
    at = row.get("answered_at")
    return Given(_plain(value), None if at in (None, "") else float(at))


def _there(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) not in (None, "")


def _plain(value: Any) -> str:
    """A table keeps 12 as 12.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
