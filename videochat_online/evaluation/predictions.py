"""The file of predictions: appended line by line, safe against SIGKILL at any moment, one file a process.

A line is on disk before the next question is asked. A half-written last line is cut off and its question asked
again; a question that could not be asked (a missing video) is tried again, and the later line counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..files import lock
from .types import Prediction

MERGED = "predictions.jsonl"


def rank_file(folder: Path, rank: int, world_size: int) -> Path:
    """Where process `rank` writes: predictions.jsonl alone, predictions.rank0.jsonl and so on together."""
    return folder / (MERGED if world_size == 1 else f"predictions.rank{rank}.jsonl")


class PredictionWriter:
    """Appends to one file, which it alone may write to. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = open(path, "ab")  # noqa: SIM115  closed in __exit__
        if not lock(self._file):
            self._file.close()
            raise ValueError(f"{path} is being written by another process; expected one process a rank")
        self._file.truncate(_end_of_last_line(path))
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, prediction: Prediction) -> None:
        """Append one line and wait until it is on disk."""
        self._file.write(json.dumps(prediction.to_dict(), ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _end_of_last_line(path: Path) -> int:
    """Bytes up to and with the last line end: what follows was cut off by a kill."""
    return path.read_bytes().rfind(b"\n") + 1


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions in `folder`, of every process, by question id. An error gives way to any later line."""
    found: dict[str, Prediction] = {}
    for path in sorted(folder.glob("predictions*.jsonl")):
        for prediction in _read_file(path):
            earlier = found.get(prediction.id)
            if earlier is None or earlier.error is not None:
                found[prediction.id] = prediction
    return found


def _read_file(path: Path) -> Iterable[Prediction]:
    complete = path.read_bytes()[: _end_of_last_line(path)]
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            yield Prediction.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: {error}; expected a prediction, remove the line") from error


def write_merged(folder: Path, predictions: Iterable[Prediction]) -> None:
    """Replace predictions.jsonl by all predictions in the order of their ids, at once or not at all."""
    ordered = sorted(predictions, key=lambda prediction: prediction.id)
    text = "".join(json.dumps(prediction.to_dict(), ensure_ascii=False) + "\n" for prediction in ordered)
    replace_file(folder / MERGED, text)


def replace_file(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename it over `path`: a reader sees the old or the new, never a half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
