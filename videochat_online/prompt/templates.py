"""How each family of models writes a dialogue: marks (one token each) and the plain text around them.

The forms are fixed by the published checkpoints. Knows no tokenizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .messages import Image, Message

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


def lay_out(messages: Sequence[Message], template: Template, *, generate: bool = False) -> Iterator[Piece]:
    """Pieces of the prompt in order; their texts, joined, are the prompt as a string.

    The template's system message stands first unless the dialogue brings its own; `generate` opens an answer.
    """
    if not messages or messages[0].role != "system":
        yield from _message_pieces(Message("system", (template.system_message,)), template)
    for message in messages:
        yield from _message_pieces(message, template)
    if generate:
        yield from _opener_pieces(template.assistant)


def _message_pieces(message: Message, template: Template) -> Iterator[Piece]:
    spoken = message.role == "assistant"
    yield from _opener_pieces(getattr(template, message.role))
    for part in message.parts:
        if isinstance(part, Image):
            yield Piece(IMG_START, is_mark=True)
            yield Piece(IMG_CONTEXT, is_mark=True, count=part.num_tokens)
            yield Piece(IMG_END, is_mark=True)
        else:
            yield Piece(part, loss=spoken)
    yield Piece(template.end, is_mark=True, loss=spoken)
    yield Piece(template.after_end)


def _opener_pieces(opener: tuple[str, str]) -> Iterator[Piece]:
    mark, text = opener
    yield Piece(mark, is_mark=True)
    yield Piece(text)


_INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


def _chatml(name: str, *, after_end: str = "", system_message: str, stop_marks: tuple[str, ...] = ()) -> Template:
    return Template(
        name=name,
        system=("<|im_start|>", "system\n"),
        user=("<|im_start|>", "user\n"),
        assistant=("<|im_start|>", "assistant\n"),
        end="<|im_end|>",
        after_end=after_end,
        system_message=system_message,
        stop_marks=stop_marks,
    )


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            name="phi3-chat",
            system=("<|system|>", "\n"),
            user=("<|user|>", "\n"),
            assistant=("<|assistant|>", "\n"),
            end="<|end|>",
            after_end="",
            system_message=_INTERNVL2_SYSTEM,
        ),
        _chatml("Hermes-2", system_message=_INTERNVL2_SYSTEM, stop_marks=("<|endoftext|>",)),
        _chatml("internlm2-chat", system_message=_INTERNVL2_SYSTEM),
        _chatml("internvl2_5", after_end="\n", system_message=_INTERNVL2_5_SYSTEM),
    )
}


def get_template(name: str) -> Template:
    """The template of this name, as `config.json` of a checkpoint gives it."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown prompt template {name!r}, expected one of {', '.join(TEMPLATES)}{hint}")
