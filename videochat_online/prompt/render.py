"""Dialogue -> token ids, loss mask and image places, in one pass; the same for training and generation.

A mark of the template becomes its one id. Everything else is tokenised as plain text, so a user who types
"<|end|>" or "<IMG_CONTEXT>" has typed text. Knows nothing of frames, features or models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Tokenizer

from .messages import Message, Piece, Template, check_dialogue, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
"""Label of a token without loss, as torch's cross entropy has it."""

_WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Unicode White_Space, which a stripping token swallows; str.strip() alone would also take \\x1c to \\x1f."""


@dataclass(frozen=True)
class Rendered:
    """A prompt for the model. Raises ValueError where the parts do not fit each other."""

    ids: list[int]
    loss_mask: list[bool]
    """One a token: True where the assistant speaks (its words and the end mark)."""
    image_spans: list[tuple[int, int]]
    """(start, num_tokens) of each image's run of image tokens, in order."""
    image_token_id: int
    """Id of the template's image mark; it stands in the spans and nowhere else."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.loss_mask):
            raise ValueError(f"ids and loss_mask differ in length: {len(self.ids)} and {len(self.loss_mask)}")
        position = num_covered = 0
        for start, num_tokens in self.image_spans:
            run = self.ids[start : start + num_tokens]
            if start < position or num_tokens < 1 or run != [self.image_token_id] * num_tokens:
                raise ValueError(
                    f"image span (start {start}, {num_tokens} tokens) is not a run of image tokens behind the span "
                    f"before it; the prompt has {len(self.ids)} tokens"
                )
            position = start + num_tokens
            num_covered += num_tokens
        num_held = self.ids.count(self.image_token_id)
        if num_held != num_covered:
            raise ValueError(f"the image spans cover {num_covered} image tokens, the prompt holds {num_held}")

    @property
    def num_image_tokens(self) -> int:
        """Rows of visual features the prompt asks for."""
        return sum(num_tokens for _, num_tokens in self.image_spans)

    @property
    def labels(self) -> list[int]:
        """The ids where there is loss, IGNORE_INDEX elsewhere."""
        return [id_ if loss else IGNORE_INDEX for id_, loss in zip(self.ids, self.loss_mask, strict=True)]


def render(
    messages: Sequence[Message], template: Template, tokenizer: PreTrainedTokenizerBase, *, generate: bool = False
) -> Rendered:
    """Write a dialogue as token ids.

    Args:
        messages: an optional system message (else the template's own), then user and assistant in turn.
        generate: end with an opened answer; the last message must then be the user's.

    Raises:
        ValueError: roles out of order, a tokenizer without the template's marks, a slow tokenizer.
    """
    check_dialogue(messages, generate=generate)
    encoder = _text_encoder(tokenizer, template)
    ids, loss_mask = list(encoder.prefix), [False] * len(encoder.prefix)
    image_spans: list[tuple[int, int]] = []
    texts: list[Piece] = []
    last_mark: _Mark | None = None
    # 1. the template lays the dialogue out as marks and texts
    for piece in lay_out(messages, template, generate=generate):
        # 2. texts between two marks are tokenised together, as they would be in the whole string
        if not piece.is_mark:
            texts.append(piece)
            continue
        mark = encoder.marks[piece.text]
        encoder.write(texts, last_mark, mark, ids, loss_mask)
        # 3. a mark is its id; the places of images are noted
        if piece.text == template.image:
            image_spans.append((len(ids), piece.count))
        ids += [mark.id] * piece.count
        loss_mask += [piece.loss] * piece.count
        texts, last_mark = [], mark
    encoder.write(texts, last_mark, None, ids, loss_mask)
    return Rendered(ids, loss_mask, image_spans, encoder.marks[template.image].id)


def end_token_ids(template: Template, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer: the template's end mark first, then its stop marks and the tokenizer's end of text."""
    ends, eos = _text_encoder(tokenizer, template).ends, tokenizer.eos_token_id
    return list(ends) if eos is None or eos in ends else [*ends, eos]


def describe(rendered: Rendered, tokenizer: PreTrainedTokenizerBase, *, mark_loss: bool = False) -> str:
    """The prompt as a reader wants it: a run of n image tokens shortened to {n}, text with loss between « and »."""

    def kind(token: tuple[int, bool]) -> tuple[bool, bool]:
        return token[0] == rendered.image_token_id, mark_loss and token[1]

    texts: list[str] = []
    for (is_image, has_loss), run in groupby(zip(rendered.ids, rendered.loss_mask, strict=True), kind):
        ids = [id_ for id_, _ in run]
        text = f"{{{len(ids)}}}" if is_image else str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        texts.append(f"«{text}»" if has_loss else text)
    return "".join(texts)


class _Mark(NamedTuple):
    """A token of the template, and whether it swallows the whitespace beside it."""

    id: int
    lstrip: bool
    rstrip: bool


@dataclass(frozen=True)
class _TextEncoder:
    """What rendering needs of a tokenizer, apart from the tokenizer itself, whose settings others may change."""

    plain: Tokenizer
    """Tokenises text and knows no marks; read only, so threads share it."""
    marks: dict[str, _Mark]
    ends: list[int]
    """Ids of the template's end mark and its stop marks."""
    prefix: list[int]
    """Ids that the tokenizer puts before every sequence, such as <s>."""

    def write(
        self, texts: list[Piece], before: _Mark | None, after: _Mark | None, ids: list[int], loss_mask: list[bool]
    ) -> None:
        """Append the tokens of the texts between two marks to `ids`, and to `loss_mask` whether they have loss.

        A token has loss if all its characters have, so none of the template's.
        """
        text, has_loss = "", list[bool]()
        for piece in texts:
            text += piece.text
            has_loss += [piece.loss] * len(piece.text)
        if before is not None and before.rstrip:
            text = text.lstrip(_WHITESPACE)
            has_loss = has_loss[len(has_loss) - len(text) :]
        if after is not None and after.lstrip:
            text = text.rstrip(_WHITESPACE)
        encoding = self.plain.encode(text, add_special_tokens=False)
        ids += encoding.ids
        loss_mask += [all(has_loss[start:stop]) for start, stop in encoding.offsets]


@lru_cache(maxsize=4)
def _text_encoder(tokenizer: PreTrainedTokenizerBase, template: Template) -> _TextEncoder:
    """A private copy of the tokenizer without any added token, made once.

    `encode_special_tokens` would do the same by a setting on the object that every thread shares, and leave added
    tokens that are not flagged special (Phi-3's </s>) as they are.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f"rendering needs a fast tokenizer (one that keeps a tokenizer.json), got {type(tokenizer).__name__}: load "
            "the checkpoint's fast one with AutoTokenizer.from_pretrained, or save one beside the weights"
        )
    state = json.loads(backend.to_str())
    marks = {token["content"]: _Mark(token["id"], token["lstrip"], token["rstrip"]) for token in state["added_tokens"]}
    missing = [name for name in template.marks if name not in marks]
    if missing:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} lacks tokens the prompt needs: {', '.join(missing)}; it belongs "
            "to another template, or they must be added with tokenizer.add_tokens([...], special_tokens=True)"
        )
    ends = [marks[template.end].id]
    for mark in template.stop_marks:
        id_ = backend.token_to_id(mark)
        if id_ is not None and id_ not in ends:
            ends.append(id_)
    state |= {"added_tokens": [], "truncation": None, "padding": None}
    state["pre_tokenizer"] = _as_inner_text(state["pre_tokenizer"])
    plain = Tokenizer.from_str(json.dumps(state))
    first = plain.encode("a")
    prefix = first.ids[: first.special_tokens_mask.index(0)]
    plain.post_processor = None  # it may cut spaces off the offsets, which say which characters a token holds
    return _TextEncoder(plain, marks, ends, prefix)


def _as_inner_text(pre_tokenizer: Any) -> Any:
    """The same, for text that does not stand first (a mark always does): no dummy space before the first word."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    if pre_tokenizer.get("prepend_scheme") == "first":
        return pre_tokenizer | {"prepend_scheme": "never"}
    inner = pre_tokenizer.get("pretokenizers")
    return pre_tokenizer | {"pretokenizers": [_as_inner_text(one) for one in inner]} if inner else pre_tokenizer
