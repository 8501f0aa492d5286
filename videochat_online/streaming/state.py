"""What a session counts, and the one safetensors file that it is saved in.

In the file, what is not a tensor stands as json in the header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import whole

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
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a session written by StreamingSession.save: expected format {FORMAT!r}")
    if wrong := next(_wrong(about, HEADER, ""), None):
        raise ValueError(f"{path} is not a session as StreamingSession.save writes it: {wrong}")
    return about, tensors


# ---- what stands in the header --------------------------------------------------------------------------------------

Kind = tuple[str, Callable[[Any], bool]]
"""In words, and whether a value is one."""


def _or_null(kind: Kind) -> Kind:
    return f"{kind[0]} or null", lambda value: value is None or kind[1](value)


TEXT: Kind = "a text", lambda value: isinstance(value, str)
BOOL: Kind = "true or false", lambda value: isinstance(value, bool)
WHOLE: Kind = "an integer >= 0", lambda value: type(value) is int and value >= 0
NUMBER: Kind = "a number", lambda value: type(value) in (int, float) and isfinite(value)
OBJECT: Kind = "an object", lambda value: isinstance(value, dict)
SIZE: Kind = (
    "a height and a width in pixels",
    lambda value: isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value),
)
POINT: Kind = (
    "a second and a probability",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(NUMBER[1], value)),
)

TURN = {"question": TEXT, "answer": TEXT, "num_seen": WHOLE, "timestamp": _or_null(NUMBER)}
EVENT = {
    "id": WHOLE, "standing": TEXT, "instruction": TEXT, "time": NUMBER, "probability": NUMBER, "text": TEXT,
    "quiet?": BOOL,
}  # fmt: skip
STANDING = {
    "key": TEXT, "text": TEXT, "question": TEXT, "expect": TEXT, "curve": [POINT], "is_armed": BOOL, "num_seen": WHOLE,
    "probability": _or_null(NUMBER), "fired_at": _or_null(NUMBER), "is_paused?": BOOL, "webhook?": _or_null(TEXT),
    "rule": {"threshold": NUMBER, "refractory": NUMBER, "once": BOOL, "quiet_hours": _or_null(TEXT)},
    "last": (EVENT,),
}  # fmt: skip
HEADER = {
    "timestamps?": BOOL, "system_prompt?": _or_null(TEXT), "encode_batch_size?": WHOLE, "skip_below?": _or_null(NUMBER),
    "reuse_cache?": BOOL, "max_cache_bytes?": _or_null(WHOLE), "max_prompt_tokens?": _or_null(WHOLE),
    "recall?": _or_null(TEXT), "picture_size?": _or_null(SIZE), "memory": OBJECT, "model": OBJECT, "turns": [TURN],
    "encode_seconds": NUMBER, "num_skipped": WHOLE, "num_forgotten": WHOLE, "looks?": [NUMBER],
    "watchlist?": {"num_events": WHOLE, "num_given": WHOLE, "events": [EVENT], "standing": [STANDING]},
}  # fmt: skip
"""A name with "?" may be missing: an older file knows fewer."""


def _wrong(value: Any, expected: Any, where: str) -> Iterator[str]:
    """Whatever is not as expected: of a Kind, an object with at least these fields, each item of a [list]; (this,)
    or null."""
    if isinstance(expected, tuple) and len(expected) == 1:
        if value is not None:
            yield from _wrong(value, expected[0], where)
    elif isinstance(expected, tuple):
        if not expected[1](value):
            yield f"{where} must be {expected[0]}, got {value!r:.80}"
    elif not isinstance(value, type(expected)):
        kind = "an object" if isinstance(expected, dict) else "a list"
        yield f"{where} must be {kind}, got {value!r:.80}"
    elif isinstance(expected, list):
        for number, each in enumerate(value):
            yield from _wrong(each, expected[0], f"{where}[{number}]")
    else:
        for field, kind in expected.items():
            name = field.removesuffix("?")
            if name in value:
                yield from _wrong(value[name], kind, f"{where}.{name}".removeprefix("."))
            elif name == field:
                yield f"it has no {where}.{name}".replace(" .", " ")
