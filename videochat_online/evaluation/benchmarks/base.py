"""What a benchmark is: how its annotations become questions, how a reply is judged, and its published settings.

Running, resuming, sharding, scoring and reporting exist once, outside; a benchmark is examples plus a judge.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Examples:
    """What annotations hold: videos with their questions, and the records that cannot be asked."""

    tasks: list[VideoTask] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """A line for each record that cannot be asked: where it stands, and what is wrong with it."""

    @contextmanager
    def record(self, where: str) -> Iterator[None]:
        """Within it, whatever is wrong with a record becomes a line of `left_out`, and reading goes on."""
        try:
            yield
        except KeyError as error:
            self.left_out.append(f"{where} has no {error}: is this file of the benchmark that was named?")
        except (TypeError, AttributeError, IndexError, OverflowError) as error:
            self.left_out.append(f"{where} is not as expected: {error}")
        except ValueError as error:
            self.left_out.append(f"{where}: {error}")


def read_records(path: Path) -> list[Any]:
    """The records of an annotation file. Raises ValueError, naming it, where it holds no list in JSON."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8 is one, too
        raise ValueError(f"{path} cannot be read as JSON (cut off, or another kind of file?): {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of records, got {type(records).__name__}")
    return records


def texts(value: Any) -> list[str]:
    """The options of a record. Raises ValueError for anything but a list of texts."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(f"the options must be a list of texts, got {value!r}")
    return value


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

    splits: ClassVar[tuple[str, ...]]
    """Parts of the benchmark that may be chosen."""

    @abstractmethod
    def files(self, annotations: Path) -> list[Path]:
        """The annotation files that are read, of a folder or the one file that was named."""

    @abstractmethod
    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """Add the videos of one annotation file with their questions; a record that does not fit is left out."""

    def read(self, annotations: Path, *, splits: tuple[str, ...] | None = None) -> Examples:
        """All that can be asked, and what cannot. ValueError for a file that holds no records at all."""
        chosen = self.splits if splits is None else splits
        if unknown := set(chosen) - set(self.splits):
            raise ValueError(f"unknown split {sorted(unknown)}, expected some of {', '.join(self.splits)}")
        examples = Examples()
        for path in self.files(annotations):
            self.parse(path, read_records(path), chosen, examples)
        return examples

    def load(self, annotations: Path, *, splits: tuple[str, ...] | None = None) -> list[VideoTask]:
        """As `read`, for annotations that must be whole: ValueError names every record that cannot be asked."""
        examples = self.read(annotations, splits=splits)
        if examples.left_out:
            raise ValueError("\n".join(examples.left_out))
        return examples.tasks

    @abstractmethod
    def judge(self, question: Question, reply: Reply) -> Verdict:
        """The answer found in a reply, and whether it is right."""

    def notes(self, tasks: list[VideoTask], predictions: list[Prediction]) -> list[str]:
        """What a reader of the scores must know, computed from the questions."""
        return []
