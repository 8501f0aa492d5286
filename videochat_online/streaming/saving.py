"""The file a session is saved in: one safetensors file, what is not a tensor as json in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT = "videochat-online session 1"


def write_session(path: str | Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write the file whole or not at all: an older one stays until the new one is complete.

    Raises ValueError where it cannot be written.
    """
    unfinished = Path(f"{path}.unfinished")
    try:
        save_file(tensors, unfinished, metadata={"session": json.dumps({"format": FORMAT, **about})})
        unfinished.replace(path)
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
