"""The dialogue of one stream so far, and how it becomes a prompt: each frame in the turn in which it was seen.

Knows no model and no tokens; frames come as what the memory holds now.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..prompt.messages import Message, frame_parts

if TYPE_CHECKING:
    from ..model.memory_bank import MemoryFrame
    from ..prompt.render import Rendered
    from .answering import Answer


class PromptTooLong(ValueError):
    """What must be in the prompt leaves no room for an answer."""


class HeldFrame(Protocol):
    """What a prompt needs to know of a frame in memory."""

    @property
    def index(self) -> int: ...
    @property
    def timestamp(self) -> float: ...
    @property
    def num_tokens(self) -> int: ...


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str
    num_seen: int
    """Frames seen when it was asked: earlier ones belong to this turn or to one before it."""
    timestamp: float | None
    """Seconds, of the last frame seen when it was asked."""


@dataclass(frozen=True)
class Asked:
    """One question with everything its answer depends on, as it was when it came."""

    question: str
    rendered: Rendered
    frames: Sequence[MemoryFrame]
    num_seen: int
    timestamp: float | None
    started: float
    """When it came (time.perf_counter)."""
    num_resets: int
    """Of the session so far: a question about a stream that was forgotten is not answered."""


class StreamedAnswer(Iterator[str]):
    """An answer piece by piece, and in `asked` what it is an answer to. Closing or dropping it ends the answer."""

    def __init__(self, asked: Asked, pieces: Generator[str, None, None], answers: Sequence[Answer]) -> None:
        """`answers`: the whole answer will be in it when its last piece has come."""
        self.asked, self._pieces, self._answers = asked, pieces, answers

    @property
    def answer(self) -> Answer | None:
        """The whole answer with what it cost; None before it is complete."""
        return self._answers[0] if self._answers else None

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        self._pieces.close()


def dialogue(
    turns: Sequence[Turn],
    question: str,
    frames: Iterable[HeldFrame],
    *,
    timestamps: bool,
    system_prompt: str | None,
) -> list[Message]:
    """The prompt of a new question: frames (oldest first) stand in front of the first question asked after them."""
    waiting = list(frames)
    messages = [] if system_prompt is None else [Message("system", (system_prompt,))]
    for turn in turns:
        shown = [frame for frame in waiting if frame.index < turn.num_seen]
        waiting = waiting[len(shown) :]
        messages += [_user_message(shown, turn.question, timestamps), Message("assistant", (turn.answer,))]
    return [*messages, _user_message(waiting, question, timestamps)]


def _user_message(frames: Sequence[HeldFrame], question: str, timestamps: bool) -> Message:
    lines = frame_parts((f.index, f.timestamp if timestamps else None, f.num_tokens) for f in frames)
    return Message("user", (*lines, question))
