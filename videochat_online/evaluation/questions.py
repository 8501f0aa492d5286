"""What travels through an evaluation: a video with its questions, a reply, its verdict.

Plain data that checks itself; knows no benchmark, no model and no file format. Times are seconds on
the video's own clock; a question is never shown a frame later than its timestamp.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Literal, get_args

Kind = Literal["choice", "yes_no", "count", "proactive"]


def letters(options: Sequence[object]) -> str:
    """A letter for each option: `ABCD` for four."""
    return "".join(map(chr, range(ord("A"), ord("A") + len(options))))


def named(ids: Collection[str]) -> str:
    """The first ten of them, for an error."""
    return ", ".join([*map(repr, islice(ids, 10)), *(["..."] if len(ids) > 10 else [])])


def age_of(evidence: Iterable[Sequence[float]], time: float) -> float:
    """Seconds, at `time`, since the oldest of the pieces (start, end) that an answer needs was last to be seen.

    ValueError for pieces that end at no second, or before they begin.
    """
    pieces = [(float(start), float(end)) for start, end in evidence]
    if not all(start <= end and math.isfinite(end) for start, end in pieces):
        raise ValueError(f"evidence must be pieces of time, [start, end] in seconds, got {evidence!r:.80}")
    return max(0.0, time - min(end for _, end in pieces))


@dataclass(frozen=True)
class Poll:
    """A question that waits for its moment: `prompt` is asked each second until the model says yes."""

    prompt: str
    start: float
    """First time of asking, seconds."""
    end: float
    """Last time of asking, seconds."""
    due: float
    """When the right moment is, seconds."""

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"a poll needs start <= end, got {self}")

    def times(self) -> list[float]:
        """All times of asking, in order: one a second."""
        return [self.start + second for second in range(int(self.end - self.start) + 1)]


@dataclass(frozen=True)
class Question:
    """One question at one moment of one video, in the exact words that are sent to the model."""

    id: str
    timestamp: float
    """Seconds; the last frame the model may have seen is not later."""
    prompt: str
    """The user's turn, word for word as the benchmark publishes it."""
    answer: str
    """The right answer as it is scored: an option's letter, Yes or No, a number, a phrase."""
    task: str
    """The sub-task, the finest group that is reported."""
    category: str
    source: str
    kind: Kind = "choice"
    labels: tuple[str, ...] = ()
    """The answers one may give, as they are printed in the prompt (`(A)`, `A`, `Yes`); empty: an open answer."""
    options: tuple[str, ...] = ()
    """Texts of the options, without their letters."""
    poll: Poll | None = None
    evidence_age: float | None = None
    """Seconds at its timestamp, see `age_of`; None where the annotations do not tell."""

    def __post_init__(self) -> None:
        for name in ("id", "prompt", "answer"):
            text = getattr(self, name)
            may_be_empty = name == "answer" and self.kind != "proactive"  # lmms-eval judges elsewhere
            if not isinstance(text, str) or not (text.strip() or may_be_empty):
                raise ValueError(f"a question needs a text as {name}, got {text!r}")
            text.encode()  # half a surrogate pair, which JSON may hold, can neither be tokenized nor written
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind {self.kind!r}, expected one of {get_args(Kind)}")
        if not math.isfinite(self.timestamp) or self.timestamp < 0:
            raise ValueError(f"timestamp must be seconds >= 0, got {self.timestamp!r}")
        if self.options and len(self.options) != len(self.labels):
            raise ValueError(f"{len(self.options)} options but {len(self.labels)} labels")
        if self.kind == "choice" and self.answer not in tuple(letters(self.labels)):
            raise ValueError(f"answer {self.answer!r} is none of the options {letters(self.labels)}")
        if (self.kind == "proactive") != (self.poll is not None):
            raise ValueError(f"exactly the proactive questions have a poll, got kind {self.kind!r}")

    @property
    def chance(self) -> float:
        """Probability of a right answer by guessing among the labels; 0 for an open answer."""
        return 1.0 / len(self.labels) if self.labels else 0.0

    def written(self, number: int) -> tuple[str, ...]:
        """The ways in which a model may write label `number`: `(B)`, `B`, with the option's text, and that alone."""
        label = self.labels[number]
        forms = [label, letters(self.labels)[number]] if self.kind == "choice" else [label]
        if self.options:
            text, dot = self.options[number], "" if label.startswith("(") else "."
            forms += [f"{label}{dot} {text}", text]
        return tuple(dict.fromkeys(forms))

    @property
    def moments(self) -> list[float]:
        """When it is asked, in order: at its timestamp, or each second of its poll."""
        return self.poll.times() if self.poll else [self.timestamp]

    @property
    def last_time(self) -> float:
        """Latest moment of the video this question may need, seconds."""
        return self.poll.end if self.poll else self.timestamp


@dataclass(frozen=True)
class VideoTask:
    """One video with its questions in the order of time: the unit that is run, resumed and sharded."""

    id: str
    video: str
    """Name in reports; intervals resample whole videos by this name."""
    names: tuple[str, ...]
    """Where the video may lie below the videos' root, likeliest first (files, or folders of frames)."""
    questions: tuple[Question, ...]
    start: float = 0.0
    """Seconds; earlier frames are not shown."""
    fps: float | None = None
    """Frames per second of a folder of frames."""
    segment_start: float = 0.0
    """Seconds at which the video begins where only its annotated part is stored (AVA: 900); 0: always whole."""
    clip_end: float = math.inf
    """Seconds: the published streaming scripts show no later frame."""
    last: str | None = None
    """Id of the question that is listed last: these scripts show it the whole clip."""
    anchor: tuple[str, float] | None = None
    """(file name of a frame, its seconds): puts a folder that holds more frames than the clip on the clip's clock."""

    def __post_init__(self) -> None:
        if not self.questions or not self.names:
            raise ValueError(f"video {self.id!r} needs at least one question and one place to look for it")
        if not all(isinstance(name, str) and name.strip() for name in (self.video, *self.names)):
            raise ValueError(f"a video needs a text as name, got {self.video!r}")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"video {self.id!r}: fps must be > 0, got {self.fps!r}")
        if not math.isfinite(self.start) or math.isnan(self.clip_end):
            raise ValueError(f"video {self.id!r}: it must start at a second, got {self.start!r} to {self.clip_end!r}")
        ordered = tuple(sorted(self.questions, key=attrgetter("timestamp", "id")))
        object.__setattr__(self, "questions", ordered)

    @property
    def end(self) -> float:
        """Latest moment any question needs, seconds."""
        return max(question.last_time for question in self.questions)


@dataclass(frozen=True)
class Reply:
    """What came back for one question, and what it cost."""

    text: str = ""
    num_frames: int = 0
    """Frames the model has been shown for this question."""
    new_frames: int = 0
    """Of these, frames read and encoded for this question (the rest were kept from earlier ones)."""
    first_time: float | None = None
    """Timestamp of the earliest frame shown, seconds."""
    last_time: float | None = None
    frame_seconds: float = 0.0
    """Waiting for the new frames and showing them: what was read and encoded while others were answered costs none."""
    answer_seconds: float = 0.0
    scores: tuple[float, ...] = ()
    """Log-likelihood of each label, where the answer was chosen by likelihood."""
    answered_at: float | None = None
    """Proactive questions: when the model said it was time, seconds."""


@dataclass(frozen=True)
class Verdict:
    """`extracted` None: no answer could be found in the reply, which counts as wrong and is reported."""

    extracted: str | None
    correct: bool
