"""A dialogue as data: who says what, and where a frame stands in it. Knows no template and no tokenizer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Image:
    """The place of one frame, tile or still image in a message."""

    num_tokens: int
    """Visual tokens it costs: the grid of its memory level, squared."""

    def __post_init__(self) -> None:
        if not isinstance(self.num_tokens, int) or isinstance(self.num_tokens, bool) or self.num_tokens < 1:
            raise ValueError(f"Image.num_tokens must be an integer >= 1, got {self.num_tokens!r}")


@dataclass(frozen=True)
class Message:
    """One turn: texts and images in the order in which they stand. Nothing is put between the parts."""

    role: Role
    parts: tuple[str | Image, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r}, expected one of {', '.join(ROLES)}")
        if not isinstance(self.parts, tuple):
            raise ValueError(f"Message.parts must be a tuple of texts and images, got {type(self.parts).__name__}")
        for part in self.parts:
            if isinstance(part, str):
                _check_text(part)
            elif not isinstance(part, Image):
                raise ValueError(f"a part of a message is a str or an Image, got {type(part).__name__}")
            elif self.role != "user":
                raise ValueError(f"only the user shows images, got one in a message of role {self.role!r}")


def check_dialogue(messages: Sequence[Message], *, generate: bool = False) -> None:
    """Raise ValueError unless it is: an optional system message, then user and assistant in turn.

    `generate` asks that the user has the last word, so that there is something to answer.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            position = number + len(messages) - len(turns)
            raise ValueError(
                f"message {position} has role {message.role!r}, expected {expected!r}: after an optional first "
                "'system' message the roles alternate, beginning with 'user'"
            )
    if generate and len(turns) % 2 == 0:
        last = messages[-1].role if messages else None
        raise ValueError(f"to generate an answer the last message must be the user's, got {last!r}")


def frame_line(frame_index: int, timestamp: float | None = None) -> str:
    """What stands before a frame: its number in the stream and, where given, its time.

    Args:
        frame_index: counted from 0 over the whole stream; the text counts from 1.
        timestamp: seconds.
    """
    if frame_index < 0:
        raise ValueError(f"frame_index must be >= 0, got {frame_index}")
    if timestamp is None:
        return f"Frame{frame_index + 1}: "
    if not math.isfinite(timestamp):
        raise ValueError(f"the timestamp of frame {frame_index} must be finite seconds, got {timestamp}")
    return f"Frame{frame_index + 1} at {timestamp:.1f}s: "


def frame_parts(frames: Iterable[tuple[int, float | None, int]]) -> tuple[str | Image, ...]:
    """The lines of several frames, each closed by a newline: what stands before the question in a user's message.

    Args:
        frames: (frame_index from 0, timestamp in seconds or None, num_tokens) of each frame, in time order.
    """
    parts: list[str | Image] = []
    for frame_index, timestamp, num_tokens in frames:
        parts += [frame_line(frame_index, timestamp), Image(num_tokens), "\n"]
    return tuple(parts)


def _check_text(text: str) -> None:
    """A command line or a broken file can carry lone surrogates, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a message holds text that is not Unicode, at character {error.start}: {text!r}") from error
