"""What a benchmark is: how its annotations become questions, how a reply is judged, and its published settings.

Running, resuming, sharding, scoring and reporting exist once, outside; a benchmark is examples plus a judge.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..types import Prediction, Question, Reply, Verdict, VideoTask

Headline = Literal["tasks", "categories", "pooled"]


@dataclass(frozen=True)
class ModeSettings:
    """Which frames of a video a mode shows."""

    fps: float
    """Frames taken per second of video."""
    window: float | None = None
    """Seconds before a question that are shown; None: from the video's start."""
    frames: int | None = None
    """Frames shown at most for one question; None: no bound but the memory's."""

    def __post_init__(self) -> None:
        for name in ("fps", "window", "frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be > 0, got {value!r}")


def read_json(path: Path) -> Any:
    """What an annotation file holds. Raises ValueError, naming it, where it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8 is one, too
        raise ValueError(f"{path} cannot be read as JSON (cut off, or another kind of file?): {error}") from error


@contextmanager
def in_record(where: str) -> Iterator[None]:
    """Within it a field that is missing or of another kind becomes a ValueError that names the record."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where} has no {error}: is this file of the benchmark that was named?") from error
    except (TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} is not as expected: {error}") from error


class Benchmark(ABC):
    """Examples plus a judge."""

    name: ClassVar[str]
    title: ClassVar[str]
    headline: ClassVar[Headline]
    """How sub-task accuracies become the one number: mean of sub-tasks, mean of category means, or pooled."""
    headline_name: ClassVar[str]
    max_new_tokens: ClassVar[int]
    presets: ClassVar[Mapping[str, ModeSettings]]
    """The published settings of each mode."""
    system_prompt: str | None = None
    """Replaces the template's own system text."""

    @abstractmethod
    def files(self, annotations: Path) -> list[Path]:
        """The annotation files that `load` reads, of a folder or the one file that was named."""

    @abstractmethod
    def load(self, annotations: Path, *, splits: tuple[str, ...]) -> list[VideoTask]:
        """Videos with their questions; ValueError names the file and record that do not fit."""

    @abstractmethod
    def judge(self, question: Question, reply: Reply) -> Verdict:
        """The answer found in a reply, and whether it is right."""

    def notes(self, tasks: list[VideoTask], predictions: list[Prediction]) -> list[str]:
        """What a reader of the scores must know, computed from the questions."""
        return []
