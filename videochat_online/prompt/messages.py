"""A dialogue as data: who says what, where a frame stands in it, and how each family of models writes it.

A template lays messages out as marks (one token each) and the plain text around them; the forms are fixed by the
published checkpoints. Knows no tokenizer and no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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
                check_text(part)
            elif not isinstance(part, Image):
                raise ValueError(f"a part of a message is a str or an Image, got {type(part).__name__}")
            elif self.role != "user":
                raise ValueError(f"only the user shows images, got one in a message of role {self.role!r}")


def check_text(text: str, what: str = "a message") -> None:
    """ValueError for lone surrogates, which a command line or a broken file can carry and no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds text that is not Unicode, at character {error.start}: {text!r:.80}") from error


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


@dataclass(frozen=True)
class FrameStyle:
    """The words around a frame. {number} counts from 1, {seconds} is its time, {clock} the same as 01:05."""

    timed: str = "Frame{number} at {seconds:.1f}s: "
    """Before a frame whose time is given."""
    untimed: str = "Frame{number}: "
    """Before one whose time is not."""
    after: str = "\n"
    after_all: str = ""
    """Between the last frame and what is said of it."""


def frame_line(frame_index: int, timestamp: float | None = None, style: FrameStyle = FrameStyle()) -> str:
    """What stands before a frame: its number in the stream and, where given, its time.

    Args:
        frame_index: counted from 0 over the whole stream; the text counts from 1.
        timestamp: seconds.
    """
    if frame_index < 0:
        raise ValueError(f"frame_index must be >= 0, got {frame_index}")
    if timestamp is None:
        return style.untimed.format(number=frame_index + 1)
    if not math.isfinite(timestamp):
        raise ValueError(f"the timestamp of frame {frame_index} must be finite seconds, got {timestamp}")
    clock = f"{int(timestamp) // 60:02d}:{int(timestamp) % 60:02d}"
    return style.timed.format(number=frame_index + 1, seconds=timestamp, clock=clock)


def frame_parts(
    frames: Iterable[tuple[int, float | None, int]],
    style: FrameStyle = FrameStyle(),
) -> tuple[str | Image, ...]:
    """The lines of several frames, each closed by a newline: what stands before the question in a user's message.

    Args:
        frames: (frame_index from 0, timestamp in seconds or None, num_tokens) of each frame, in time order.
    """
    parts: list[str | Image] = []
    for frame_index, timestamp, num_tokens in frames:
        parts += [frame_line(frame_index, timestamp, style), Image(num_tokens), style.after]
    if parts and style.after_all:
        parts.append(style.after_all)
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
    style: FrameStyle = FrameStyle(),
) -> list[Message]:
    """The prompt of a new question: each frame stands in front of the first question asked after it.

    Args:
        frames: oldest first, each once, as for `frame_parts`.
        system_prompt: instead of the template's own system message.

    Raises ValueError for frames in another order: the maps that go with them would stand in the wrong places.
    """
    for before, after in pairwise(frame[0] for frame in frames):
        if after <= before:
            raise ValueError(f"frames stand in a prompt oldest first, each once: got number {after} behind {before}")
    messages = [] if system_prompt is None else [Message("system", (system_prompt,))]
    for turn in turns:
        shown = [frame for frame in frames if frame[0] < turn.num_seen]
        frames = frames[len(shown) :]
        messages.append(Message("user", (*frame_parts(shown, style), turn.question)))
        messages.append(Message("assistant", (turn.answer,)))
    return [*messages, Message("user", (*frame_parts(frames, style), question))]


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
    system_message: str | None
    """Used where a dialogue brings no system message of its own; None: such a dialogue has none."""
    begin: str = ""
    """A mark that opens the whole dialogue."""
    before_image: tuple[str, ...] = (IMG_START,)
    """Marks before the visual tokens of a picture."""
    image: str = IMG_CONTEXT
    """The mark that stands for one visual token."""
    after_image: tuple[str, ...] = (IMG_END,)
    before_answer: str = ""
    """What the model says before the first word of an answer, and nobody is shown: a space, say."""
    stop_marks: tuple[str, ...] = ()
    """Further marks that end an answer, where the tokenizer has them."""
    frame: FrameStyle = FrameStyle()
    """The words around a frame of a stream."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark a prompt may hold, each once; a tokenizer must have them all as single tokens."""
        openers = (self.begin, self.system[0], self.user[0], self.assistant[0])
        used = (*openers, self.end, *self.before_image, self.image, *self.after_image)
        return tuple(mark for mark in dict.fromkeys(used) if mark)


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
    if template.system_message is not None and (not messages or messages[0].role != "system"):
        messages = [Message("system", (template.system_message,)), *messages]
    pieces = _mark(template.begin)
    for message in messages:
        mark, text = getattr(template, message.role)
        if isinstance(next((part for part in message.parts if part), None), Image):
            text = text.rstrip(" ")  # "User:<image>", but "User: Hello"
        pieces += [*_mark(mark), Piece(text)]
        spoken = message.role == "assistant"
        if spoken and template.before_answer:
            pieces.append(Piece(template.before_answer, loss=True))
        for part in message.parts:
            if isinstance(part, Image):
                pieces += _mark(*template.before_image)
                pieces.append(Piece(template.image, is_mark=True, count=part.num_tokens))
                pieces += _mark(*template.after_image)
            else:
                pieces.append(Piece(part, loss=spoken))
        pieces += [Piece(template.end, is_mark=True, loss=spoken), Piece(template.after_end)]
    if generate:
        mark, text = template.assistant
        pieces += [*_mark(mark), Piece(text)]
    return pieces


def _mark(*texts: str) -> list[Piece]:
    return [Piece(text, is_mark=True) for text in texts if text]


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
# Of transformers' own families: as the chat templates of their checkpoints write a dialogue.
_PLAIN = replace(_CHATML, name="internvl-hf", after_end="\n", system_message=None, stop_marks=("<|endoftext|>",))
_QWEN = replace(_PLAIN, before_image=("<|vision_start|>",), image="<|image_pad|>", after_image=("<|vision_end|>",))
_QUIET = FrameStyle(untimed="")
TEMPLATES: dict[str, Template] = {
    "phi3-chat": _PHI3,
    "Hermes-2": replace(_CHATML, name="Hermes-2", stop_marks=("<|endoftext|>",)),
    "internlm2-chat": _CHATML,
    "internvl2_5": replace(_CHATML, name="internvl2_5", after_end="\n", system_message=_INTERNVL2_5_SYSTEM),
    "internvl-hf": _PLAIN,
    "qwen3-vl": replace(_QWEN, name="qwen3-vl", frame=FrameStyle("<{seconds:.1f} seconds>", "", "")),
    "qwen2.5-vl": replace(_QWEN, name="qwen2.5-vl", system_message="You are a helpful assistant."),
    "smolvlm": Template(
        name="smolvlm",
        begin="<|im_start|>",
        system=("", "System: "),
        user=("", "User: "),
        assistant=("", "Assistant:"),
        before_answer=" ",
        end="<end_of_utterance>",
        after_end="\n",
        system_message=None,
        before_image=("<fake_token_around_image>", "<global-img>"),
        image="<image>",
        after_image=("<fake_token_around_image>",),
        frame=FrameStyle("\nFrame from {clock}:", "", "", after_all="\n\n"),
    ),
    "llava-onevision": replace(
        _PLAIN, name="llava-onevision", before_image=(), image="<image>", after_image=(), frame=_QUIET
    ),
}


def get_template(name: str) -> Template:
    """The template of this name, as `config.json` of a checkpoint gives it."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    hint = did_you_mean(name, TEMPLATES, show=repr)
    raise ValueError(f"unknown prompt template {name!r}, expected one of {', '.join(TEMPLATES)}{hint}")
