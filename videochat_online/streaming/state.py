"""What a session counts, and the one safetensors file that it is saved in.

In the file, what is not a tensor stands as json in the header.
"""

from __future__ import annotations

import json
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
            about = json.loads((file.metadata() or {}).get("session", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a session written by StreamingSession.save ({error})") from error
    if not about or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a session written by StreamingSession.save: expected format {FORMAT!r}")
    return about, tensors
