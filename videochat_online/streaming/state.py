"""What a session counts, and the one safetensors file that it is saved in.

In the file, what is not a tensor stands as json in the header.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypedDict, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import whole
from ..prompt.messages import AnsweredQuestion
from .standing import Standing, StandingEvent

FORMAT = "videochat-online session 1"


class SessionStats(TypedDict):
    """Counters of one session."""

    frames_seen: int
    frames_skipped: int
    """Of these, not encoded because they looked like the one before."""
    frames_held: list[int]
    """Per level, finest first."""
    tokens: int
    """Visual tokens held."""
    bytes: int
    """Memory storage, allocated once; with recall, that of the archive (in host memory), too."""
    encode_fps: float | None
    """Frames a second through transform, encoder and memory, over all frames seen."""
    last_timestamp: float | None
    """Seconds."""
    questions: int
    """Kept in the dialogue, or forgotten."""
    turns_forgotten: int
    """Oldest turns that the dialogue had to give up to fit a prompt."""
    cache_bytes: int
    """Keys, values and projected frames kept of the last prompt."""
    cache_bytes_at_most: int
    """What keys and values may come to: `max_cache_bytes`, or those of the longest prompt that is taken."""
    prompt_tokens: int | None
    """Of the last question, like what follows."""
    cached_tokens: int | None
    """Prompt tokens that were not computed again."""
    time_to_first_token: float | None
    latency: float | None
    """Seconds for the whole answer."""


def write_session(path: str | Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write the file whole or not at all: an older one stays until the new one is complete.

    Raises ValueError where it cannot be written.
    """
    try:
        with whole(Path(path)) as beside:
            save_file(tensors, beside, metadata={"session": json.dumps({"format": FORMAT, **about})})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the session cannot be written to {path}: {error}") from error


def read_session(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(about, tensors). Raises ValueError where the file is none of ours."""
    try:
        with safe_open(str(path), framework="pt") as file:
            written = (file.metadata() or {}).get("session", "null")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a session written by StreamingSession.save ({error})") from error
    try:
        about = json.loads(written)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a session written by StreamingSession.save: expected format {FORMAT!r}")
    try:
        _check(about, HEADER, "")
    except ValueError as error:
        raise ValueError(f"{path} is not a session as StreamingSession.save writes it: {error}") from None
    return about, tensors


# ---- what stands in the header --------------------------------------------------------------------------------------

IN_WORDS: dict[Any, str] = {
    str: "a text", bool: "true or false", int: "an integer >= 0", float: "a number", dict: "an object", list: "a list",
    tuple[int, int]: "a height and a width in pixels", tuple[float, float]: "a second and a probability",
}  # fmt: skip
HEADER: dict[str, Any] = {
    "timestamps?": bool, "system_prompt?": str | None, "encode_batch_size?": int, "skip_below?": float | None,
    "reuse_cache?": bool, "max_cache_bytes?": int | None, "max_prompt_tokens?": int | None, "recall?": str | None,
    "picture_size?": tuple[int, int] | None, "memory": dict, "model": dict, "turns": list[AnsweredQuestion],
    "encode_seconds": float, "num_skipped": int, "num_forgotten": int, "looks?": list[float],
    "watchlist?": {
        "num_events": int, "num_given": int, "events": list[StandingEvent], "standing": list[Standing],
    },
}  # fmt: skip
"""A name with "?" may be missing: an older file knows fewer."""
ADDED = ("quiet", "is_paused", "webhook")
"""Fields of dataclasses that an older file does not know either."""
LEFT_OUT = ("readout",)
"""Fields that are not restored."""
MOST = 2**63
"""No number is greater: beyond it tensors and clocks fail, each in its own way."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which json can hold and no text."""


def _check(value: Any, kind: Any, where: str) -> None:
    """Raise ValueError unless a value of the header is of this kind; an object has at least the fields of its own."""
    or_null = " or null" if type(None) in get_args(kind) else ""
    if or_null and value is None:
        return
    kind = get_args(kind)[0] if or_null else kind
    is_object = isinstance(kind, dict) or is_dataclass(kind)
    holder = dict if is_object else list if get_origin(kind) in (list, deque) else kind
    if not _is_of(value, holder):
        raise ValueError(f"{where} must be {IN_WORDS[holder]}{or_null}, got {value!r:.80}")
    if holder is list:
        for number, each in enumerate(value):
            _check(each, get_args(kind)[0], f"{where}[{number}]")
    elif is_object:
        for field, of_field in (kind if isinstance(kind, dict) else get_type_hints(kind)).items():
            name = field.removesuffix("?")
            place = f"{where}.{name}".removeprefix(".")
            if name in value and name not in LEFT_OUT:
                _check(value[name], of_field, place)
            elif name == field and name not in (*ADDED, *LEFT_OUT):
                raise ValueError(f"it has no {place}")


def _is_of(value: Any, kind: Any) -> bool:
    if parts := get_args(kind):
        is_pair = isinstance(value, list) and len(value) == len(parts)
        return is_pair and all(map(_is_of, value, parts)) and (parts[0] is float or 0 not in value)
    if kind in (int, float):
        is_number = type(value) in (int, kind) and abs(value) < MOST  # NaN is not
        return is_number and (kind is float or value >= 0)
    return isinstance(value, kind) and (kind is not str or value.isascii() or not SURROGATE.search(value))
