"""What is kept of each question, and its file: appended line by line, safe against SIGKILL, one file a process.

A line is on disk before the next question is asked. A half-written last line is cut off and its question asked
again; a question that could not be asked (a missing video) is tried again, and the later line counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..files import lock, write_text
from .questions import Question, Reply, Verdict, VideoTask

MERGED = "predictions.jsonl"


@dataclass(frozen=True)
class Prediction:
    """One line of predictions.jsonl: everything about one question that a report or a comparison needs."""

    id: str
    task_id: str
    video: str
    task: str
    category: str
    source: str
    timestamp: float
    answer: str
    response: str | None
    """The model's raw words; None where the question could not be asked."""
    extracted: str | None
    correct: bool
    error: str | None = None
    """Why the question could not be asked (missing or broken video)."""
    num_frames: int = 0
    new_frames: int = 0
    first_time: float | None = None
    last_time: float | None = None
    frame_seconds: float = 0.0
    answer_seconds: float = 0.0
    scores: tuple[float, ...] = ()
    answered_at: float | None = None
    evidence_age: float | None = None
    """Seconds, as the question has it."""

    @classmethod
    def of(cls, task: VideoTask, question: Question, reply: Reply, verdict: Verdict) -> Prediction:
        measured = asdict(reply)
        response = measured.pop("text")
        return cls(**_about(task, question), response=response, **asdict(verdict), **measured)

    @classmethod
    def unanswered(cls, task: VideoTask, question: Question, error: str) -> Prediction:
        """A question whose video could not be shown: wrong, and never dropped from the denominator."""
        return cls(**_about(task, question), response=None, extracted=None, correct=False, error=error)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Prediction:
        """Raises ValueError for other names than those of the fields."""
        values = {"evidence_age": None, **values}  # an older run knows none
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"not a prediction: {sorted(set(values) ^ names)} missing or unknown")
        return cls(**{**values, "scores": tuple(values["scores"])})


def _about(task: VideoTask, question: Question) -> dict[str, Any]:
    names = ("id", "task", "category", "source", "timestamp", "answer", "evidence_age")
    return {"task_id": task.id, "video": task.video, **{name: getattr(question, name) for name in names}}


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Prediction], None]]:
    """Gives what appends a prediction to `path`, a line that is on disk when the call returns; OSError names the file.

    Raises ValueError where another process writes there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:  # nothing is left to write, and to fail, when it is closed
        if not lock(file):
            raise ValueError(f"{path} is being written by another process; expected one process a rank")
        file.truncate(_end_of_last_line(path.read_bytes()))
        file.seek(0, os.SEEK_END)

        def append(prediction: Prediction) -> None:
            line = _line(prediction).encode()
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError as error:  # a full disk: nothing but we know which file it was
                what = f"{error.strerror}; what was answered is kept, add --resume to continue"
                raise OSError(error.errno, what, str(path)) from error

        yield append


def _line(prediction: Prediction) -> str:
    return json.dumps(asdict(prediction), ensure_ascii=False) + "\n"


def _end_of_last_line(content: bytes) -> int:
    """Bytes up to and with the last line end: what follows was cut off by a kill."""
    return content.rfind(b"\n") + 1


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions in `folder`, of every process, by question id. A later line replaces one with an error.

    Raises ValueError, naming it, for a line that holds no prediction.
    """
    found: dict[str, Prediction] = {}
    for path in sorted(folder.glob("predictions*.jsonl")):
        content = path.read_bytes()
        for number, line in enumerate(content[: _end_of_last_line(content)].splitlines(), 1):
            try:
                prediction = Prediction.from_dict(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}; expected a prediction, remove the line") from error
            if prediction.id not in found or found[prediction.id].error is not None:
                found[prediction.id] = prediction
    return found


def write_merged(folder: Path, predictions: Iterable[Prediction]) -> None:
    """Replace predictions.jsonl by all predictions in the order of their ids, at once or not at all."""
    write_text(folder / MERGED, "".join(map(_line, sorted(predictions, key=attrgetter("id")))))
