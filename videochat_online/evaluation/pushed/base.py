"""What a benchmark of speaking unasked is: rows with standing instructions, and its score of when was spoken.

Readouts, thresholds, players that never look and the report exist once, in evaluation/standing.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ...files import read_json
from ...streaming.reading import StandingRow
from ..benchmarks.base import Examples

Said = Sequence[Sequence[float]]
"""The seconds of every word about each row."""
Words = Sequence[Sequence[str]]
"""What was said then."""
Judge = Callable[[list[dict[str, Any]]], str]
"""Chat messages -> the reply of the model that judges."""
Figures = dict[str, float]
"""Of 1."""


def yes_or_no(question: str) -> str:
    return f"{question}? Answer Yes or No."


def finite(value: Any) -> float:
    """A number, also where it stands as text. Raises ValueError for anything else: NaN compares with nothing."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise ValueError(f"expected a number, got {value!r:.80}")
    return number


def span_of(value: Any) -> tuple[float, float]:
    """Of [start, end]. Raises ValueError for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"expected [start, end] in seconds, got {value!r:.80}")
    return finite(value[0]), finite(value[1])


class Pushed(ABC):
    """Rows plus a score."""

    name: ClassVar[str]
    title: ClassVar[str]
    layout: ClassVar[str]
    """Names of its annotation files below a folder."""
    tasks: ClassVar[tuple[str, ...]]
    """The figures whose mean is the headline; those that are there."""
    needs_words: ClassVar[bool] = False
    """Its score is of what was said, too."""

    @abstractmethod
    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """Of one record. What does not fit raises whatever it raises, and the record is left out."""

    @abstractmethod
    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        """By the authors' rule."""

    def score_words(self, rows: Sequence[StandingRow], said: Said, words: Words, judge: Judge | None) -> Figures:
        """What counts the words as well, by the authors' rule; nothing where a judge is needed and there is none."""
        return {}

    def words_prompt(self, row: StandingRow) -> str:
        """What the words are the answer to."""
        return row.text

    def headline(self, figures: Figures) -> float:
        return fmean([figures[task] for task in self.tasks if task in figures] or [0.0])

    def read(self, annotations: Path) -> tuple[list[StandingRow], list[str]]:
        """Rows, those of a video together, and a line for each record that is left out. ValueError: none is left."""
        files = sorted(annotations.glob(self.layout)) if annotations.is_dir() else [annotations]
        if not files:
            raise ValueError(f"no {self.title} annotations in {annotations}: expected {self.layout}")
        rows: list[StandingRow] = []
        examples = Examples()
        for path in files:
            for number, record in enumerate(read_json(path, list, "a list of records")):
                with examples.record(f"{path.name}, item {number}"):
                    rows += self.rows_of(record, path)
        if not rows:
            why = f", such as {examples.left_out[0]}" if examples.left_out else ""
            raise ValueError(f"{annotations} has no rows of {self.title}{why}")
        return sorted(rows, key=lambda row: (row.video, row.start)), examples.left_out
