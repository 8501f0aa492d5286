"""The rows of one annotation file, kept as bytes and parsed one by one.

A row is a fresh object each time, so the raw data cannot be changed. And a million rows are two arrays, which
worker processes share instead of copying (Python objects would be copied page by page as they are counted).
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DECODER = json.JSONDecoder()


class AnnotationError(ValueError):
    """An annotation file that is missing or is not a list of rows."""


class Annotations:
    """Rows of a json or jsonl file. AnnotationError with line and column for what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _read_text(path)
        start = _skip_blanks(text, 0)
        spans = _list_spans(path, text, start) if text[start : start + 1] == "[" else _line_spans(path, text)
        rows, ends = bytearray(), array("q")  # one object each, not one a row
        for first, last in spans:
            rows += text[first:last].encode("utf-8")
            ends.append(len(rows))
        if not ends:
            raise AnnotationError(f"{path}: holds no rows; expected a json list or jsonl with at least one")
        self._bytes = np.frombuffer(rows, dtype=np.uint8)
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Row `number`, from 0; a new object each time. IndexError where there is none."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path}: row {number} is out of range, expected 0 <= row < {len(self)}")
        start = int(self._ends[number - 1]) if number else 0
        return json.loads(self._bytes[start : self._ends[number]].tobytes())


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise AnnotationError(f"annotation {path} does not exist; expected a json list or jsonl of rows") from error
    except OSError as error:
        raise AnnotationError(f"annotation {path} cannot be read ({error.strerror}); expected json or jsonl") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"annotation {path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _list_spans(path: Path, text: str, start: int) -> Iterator[tuple[int, int]]:
    """(first, after last) character of each row of a json list that opens at `start`."""
    number = 0
    position = _skip_blanks(text, start + 1)
    while text[position : position + 1] != "]":
        if number:
            if text[position : position + 1] != ",":
                raise _bad_json(path, json.JSONDecodeError("expected ',' or ']' after a row", text, position))
            position = _skip_blanks(text, position + 1)
        after = _row_end(path, text, position, number)
        yield position, after
        number += 1
        position = _skip_blanks(text, after)
    if text[position + 1 :].strip():
        raise _bad_json(path, json.JSONDecodeError("more text after the list", text, position + 1))


def _line_spans(path: Path, text: str) -> Iterator[tuple[int, int]]:
    """The same for one row a line; blank lines are left out."""
    number = 0
    for match in re.finditer(r"[^\n]+", text):
        if match.group().strip():
            first = _skip_blanks(text, match.start())
            after = _row_end(path, text, first, number)
            if after > match.end():
                expected = "a json file is a list of rows, a jsonl file has one row a line"
                raise AnnotationError(f"{path}: holds an object that goes over several lines; {expected}")
            if text[after : match.end()].strip():
                raise _bad_json(path, json.JSONDecodeError("more text after the row", text, after))
            yield first, after
            number += 1


def _row_end(path: Path, text: str, position: int, number: int) -> int:
    try:
        row, after = DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise _bad_json(path, error) from error
    except RecursionError as error:
        raise AnnotationError(f"{path}: row {number} is nested too deeply") from error
    if not isinstance(row, dict):
        raise AnnotationError(f"{path}: row {number} must be an object, got {type(row).__name__}")
    return after


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def _bad_json(path: Path, error: json.JSONDecodeError) -> AnnotationError:
    return AnnotationError(f"{path}, line {error.lineno}, column {error.colno}: not json ({error.msg})")
