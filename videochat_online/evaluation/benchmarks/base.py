"""What a benchmark is: how its annotations become questions, how a reply is judged, and its published settings.

Running, resuming, sharding, scoring and reporting exist once, outside; a benchmark is examples plus a judge.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from ...config import AnswerMode
from ...files import digest, read_json
from ...prompt.letters import read_letter
from ..predictions import Prediction
from ..questions import Question, Reply, Verdict, VideoTask, letters
from ..scoring import Headline

Protocol = Literal["causal", "published"]
"""`published`: frames, times and letters as the published scripts take them; `causal`: true times, no later frame."""
OUR_RULE = "our rule, the letter that a careful reader takes"


@dataclass(frozen=True)
class Settings:
    """Which frames a question is shown, and how it is put. ValueError, naming the flag, for what cannot be."""

    fps: float
    """Frames taken per second of video."""
    window: float | None = None
    """Seconds before a question that are shown; None: from the video's start."""
    frames: int | None = None
    """Frames shown at most for one question; None: no bound but the memory's."""
    answer: AnswerMode = "generate"
    """`likelihood`: the label the model finds most probable; open questions are generated all the same."""
    max_new_tokens: int = 128
    multi_turn: bool = False
    """Earlier questions and answers about a video stay in the dialogue (one-pass mode only)."""
    system_prompt: str | None = None
    """Replaces the template's own system text."""
    script_frames: bool = False
    """Frames and times as OVBench's published scripts take them (see `published`), later ones than the question too."""

    def __post_init__(self) -> None:
        for name in ("fps", "window", "frames"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be > 0, got {value!r}")
        if self.max_new_tokens < 1:
            raise ValueError(f"--max-new-tokens must be >= 1, got {self.max_new_tokens}")


@dataclass
class Examples:
    """What annotations hold: videos with their questions, and the records that cannot be asked."""

    tasks: list[VideoTask] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """A line for each record that cannot be asked: where it stands, and what is wrong with it."""

    @contextmanager
    def record(self, where: str) -> Iterator[None]:
        """Within it, whatever is wrong with a record becomes a line of `left_out`; the next records are read."""
        try:
            yield
        except KeyError as error:
            self.left_out.append(f"{where} has no {error}: is this file of the benchmark that was named?")
        except (TypeError, AttributeError, IndexError, OverflowError) as error:
            self.left_out.append(f"{where} is not as expected: {error}")
        except ValueError as error:
            self.left_out.append(f"{where}: {error}")


def texts(value: Any) -> list[str]:
    """The options of a record. Raises ValueError for anything but a list of texts."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise ValueError(f"the options must be a list of texts, got {value!r}")
    return value


def text_of(record: Mapping[str, Any], name: str) -> str:
    """What a record says under `name`. Raises ValueError for anything but a text: no model is asked "None"."""
    if not isinstance(value := record[name], str) or not value.strip():
        raise ValueError(f"{name} must be a text, got {value!r:.80}")
    return value


class Benchmark(ABC):
    """Examples plus a judge."""

    title: ClassVar[str]
    name: ClassVar[str]
    help: ClassVar[str]
    """Of its command, as `name`."""
    flags: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The constructor's arguments as flags of the command: name -> what argparse is to know of it."""
    headline: ClassVar[Headline]
    headline_name: ClassVar[str]
    layouts: ClassVar[tuple[tuple[str, ...], ...]]
    """Names of annotation files in a folder (`*` stands for anything); the first of these that it holds are read."""
    alone: ClassVar[tuple[str, ...]] = ()
    """One of `layouts` whose files each hold the same questions: where a folder has several, one must be named."""
    stream: ClassVar[Settings]
    """As published, for the modes streaming and prefix."""
    window: ClassVar[Settings]
    """As published, for the mode sliding_window."""
    has_scripts: ClassVar[bool] = False
    """Whether the published protocol has frames and times of its own: those of OVBench's scripts."""
    published_rule: ClassVar[str] = OUR_RULE
    """How the published scorer finds a letter, in words that follow "by"; see `published_letter`."""
    splits: ClassVar[tuple[str, ...]]
    """Parts of the benchmark that may be chosen."""
    system_prompt: str | None = None
    """Of its published settings, in every mode."""

    def __init__(self, *, protocol: Protocol = "causal", mode: str = "streaming", multi_turn: bool = False) -> None:
        """`mode`, `multi_turn`: what is run, since a published script for each may have words of its own."""
        if protocol not in get_args(Protocol):
            raise ValueError(f"unknown protocol {protocol!r}, expected one of {', '.join(get_args(Protocol))}")
        self.protocol, self.mode, self.multi_turn = protocol, mode, multi_turn
        self.script_frames = self.has_scripts and protocol == "published"

    @property
    def letter_rule(self) -> str:
        """How a letter is found in a reply, for the report."""
        return self.published_rule if self.protocol == "published" else OUR_RULE

    def published_letter(self, question: Question, text: str) -> str | None:
        """The option that a reply chooses by the published rule; ours where a benchmark publishes none."""
        return read_letter(text, letters(question.labels), question.options)

    def files(self, annotations: Path) -> list[Path]:
        """The annotation files that are read, of a folder or the one file that was named. ValueError for none."""
        if annotations.is_file():
            return [annotations]
        for names in self.layouts:
            if found := [path for name in names for path in sorted(annotations.glob(name))]:
                if names == self.alone and len(found) > 1:
                    several = ", ".join(path.name for path in found)
                    raise ValueError(f"{annotations} has the same questions in {several}; expected one of these files")
                return found
        expected = "; or ".join(map(", ".join, self.layouts))
        raise ValueError(f"no {self.title} annotations in {annotations}: expected {expected}")

    def digests(self, annotations: Path) -> dict[str, str]:
        """The files that are read, by name: what is in them, wherever they lie."""
        return {path.name: digest(path) for path in self.files(annotations)}

    @abstractmethod
    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """Add the videos of one annotation file with their questions; a record that does not fit is left out."""

    def read(self, annotations: Path, *, splits: Sequence[str] | None = None) -> Examples:
        """All that can be asked, and what cannot. ValueError for a file that holds no records at all."""
        chosen = self.splits if splits is None else tuple(splits)
        if unknown := set(chosen) - set(self.splits):
            raise ValueError(f"unknown split {sorted(unknown)}, expected some of {', '.join(self.splits)}")
        examples = Examples()
        for path in self.files(annotations):
            self.parse(path, read_json(path, list, "a list of records"), chosen, examples)
        return examples

    def load(self, annotations: Path, *, splits: Sequence[str] | None = None) -> list[VideoTask]:
        """As `read`, for annotations that must be whole: ValueError names every record that cannot be asked."""
        examples = self.read(annotations, splits=splits)
        if examples.left_out:
            raise ValueError("\n".join(examples.left_out))
        return examples.tasks

    def judge(self, question: Question, reply: Reply) -> Verdict:
        """The answer found in a reply by the protocol's rule, and whether it is right. For questions with options."""
        if self.protocol == "published":
            letter = self.published_letter(question, reply.text)
        else:
            letter = read_letter(reply.text, letters(question.labels), question.options)
        return Verdict(letter, letter == question.answer)

    def notes(self, tasks: Sequence[VideoTask], predictions: Sequence[Prediction]) -> list[str]:
        """What a reader of the scores must know, one sentence each; first, what the other protocol's rule finds."""
        questions = {question.id: question for task in tasks for question in task.questions}
        other = copy(self)
        other.protocol = "published" if self.protocol == "causal" else "causal"
        said = [(p, Reply(p.response, answered_at=p.answered_at)) for p in predictions if p.response is not None]
        right = [other.judge(questions[p.id], reply).correct for p, reply in said]
        if right == [p.correct for p, _ in said]:
            return []
        own = sum(p.correct for p, _ in said)
        return [
            f"Letters are read by {self.letter_rule}; by {other.letter_rule}, {sum(right)} instead of {own} are right."
        ]
