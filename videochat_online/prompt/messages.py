"""A dialogue as data: who says what, where a frame stands in it, and how each family of models writes it.

A template lays messages out as marks (one token each) and the plain text around them; the forms are fixed by the
published checkpoints. Knows no tokenizer and no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..extras import did_you_mean

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


def _check_text(text: str) -> None:
    """A command line or a broken file can carry lone surrogates, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a message holds text that is not Unicode, at character {error.start}: {text!r}") from error


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


@dataclass(frozen=True)
class AnsweredQuestion:
    """One turn of a stream's dialogue so far."""

    question: str
    answer: str
    num_seen: int
    """Frames seen when it was asked: earlier ones belong to this turn or to one before it."""
    timestamp: float | None
    """Seconds, of the last frame seen when it was asked."""


def stream_dialogue(
    turns: Sequence[AnsweredQuestion],
    question: str,
    frames: Sequence[tuple[int, float | None, int]],
    *,
    system_prompt: str | None,
) -> list[Message]:
    """The prompt of a new question: each frame stands in front of the first question asked after it.

    Args:
        frames: oldest first, as for `frame_parts`.
        system_prompt: instead of the template's own system message.
    """
    messages = [] if system_prompt is None else [Message("system", (system_prompt,))]
    for turn in turns:
        shown = [frame for frame in frames if frame[0] < turn.num_seen]
        frames = frames[len(shown) :]
        messages.append(Message("user", (*frame_parts(shown), turn.question)))
        messages.append(Message("assistant", (turn.answer,)))
    return [*messages, Message("user", (*frame_parts(frames), question))]


# ---- templates ------------------------------------------------------------------------------------------------------

IMG_START, IMG_CONTEXT, IMG_END = "<img>", "<IMG_CONTEXT>", "</img>"


@dataclass(frozen=True)
class Template:
    """One way to write a dialogue. `dataclasses.replace` makes a variant, such as another system message."""

    name: str
    system: tuple[str, str]
    """Opens the system message: a mark, and the text that follows it."""
    user: tuple[str, str]
    """Opens a user's message, likewise."""
    assistant: tuple[str, str]
    """Opens an answer, likewise."""
    end: str
    """The mark that ends every message; the model writes it itself at the end of an answer."""
    after_end: str
    """Text after the end mark, not the model's."""
    system_message: str
    """Used where a dialogue brings no system message of its own."""
    stop_marks: tuple[str, ...] = ()
    """Further marks that end an answer, where the tokenizer has them."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark a prompt may hold, each once; a tokenizer must have them all as single tokens."""
        openers = (self.system[0], self.user[0], self.assistant[0])
        return tuple(dict.fromkeys((*openers, self.end, IMG_START, IMG_CONTEXT, IMG_END)))


@dataclass(frozen=True)
class Piece:
    """A stretch of the prompt: a mark, `count` times over, or a text."""

    text: str
    is_mark: bool = False
    loss: bool = False
    """The assistant says it, so training asks for it."""
    count: int = 1


def lay_out(messages: Sequence[Message], template: Template, *, generate: bool = False) -> list[Piece]:
    """Pieces of the prompt in order; their texts, joined, are the prompt as a string.

    The template's system message stands first unless the dialogue brings its own; `generate` opens an answer.
    """
    if not messages or messages[0].role != "system":
        messages = [Message("system", (template.system_message,)), *messages]
    pieces: list[Piece] = []
    for message in messages:
        mark, text = getattr(template, message.role)
        pieces += [Piece(mark, is_mark=True), Piece(text)]
        spoken = message.role == "assistant"
        for part in message.parts:
            if isinstance(part, Image):
                pieces.append(Piece(IMG_START, is_mark=True))
                pieces.append(Piece(IMG_CONTEXT, is_mark=True, count=part.num_tokens))
                pieces.append(Piece(IMG_END, is_mark=True))
            else:
                pieces.append(Piece(part, loss=spoken))
        pieces += [Piece(template.end, is_mark=True, loss=spoken), Piece(template.after_end)]
    if generate:
        mark, text = template.assistant
        pieces += [Piece(mark, is_mark=True), Piece(text)]
    return pieces


_INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


_PHI3 = Template(
    name="phi3-chat",
    system=("<|system|>", "\n"),
    user=("<|user|>", "\n"),
    assistant=("<|assistant|>", "\n"),
    end="<|end|>",
    after_end="",
    system_message=_INTERNVL2_SYSTEM,
)
_CHATML = Template(
    name="internlm2-chat",
    system=("<|im_start|>", "system\n"),
    user=("<|im_start|>", "user\n"),
    assistant=("<|im_start|>", "assistant\n"),
    end="<|im_end|>",
    after_end="",
    system_message=_INTERNVL2_SYSTEM,
)
TEMPLATES: dict[str, Template] = {
    "phi3-chat": _PHI3,
    "Hermes-2": replace(_CHATML, name="Hermes-2", stop_marks=("<|endoftext|>",)),
    "internlm2-chat": _CHATML,
    "internvl2_5": replace(_CHATML, name="internvl2_5", after_end="\n", system_message=_INTERNVL2_5_SYSTEM),
}


def get_template(name: str) -> Template:
    """The template of this name, as `config.json` of a checkpoint gives it."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    hint = did_you_mean(name, TEMPLATES, show=repr)
    raise ValueError(f"unknown prompt template {name!r}, expected one of {', '.join(TEMPLATES)}{hint}")
