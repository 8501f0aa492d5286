"""Do a checkpoint's tensors fit the model? One error that lists every one that does not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded as it is. The three lists name tensors by their key in the model."""

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshapen = tuple(misshapen)


def check_keys(source: str, loading_info: dict[str, Any]) -> None:
    """Raise CheckpointError unless every tensor of the model was loaded and every tensor loaded had a place.

    `loading_info` is what transformers reports after loading; shapes are those of the checkpoint, then the model's.
    """
    shapes = {
        key: f"{key} {tuple(theirs)}, expected {tuple(ours)}" for key, theirs, ours in loading_info["mismatched_keys"]
    }
    misshapen = sorted(shapes)
    missing = sorted(set(loading_info["missing_keys"]) - set(shapes))
    unexpected = sorted(loading_info["unexpected_keys"])
    listed = {"missing": missing, "unexpected": unexpected, "of the wrong shape": [shapes[key] for key in misshapen]}
    parts = [f"{len(keys)} {what}:\n    " + "\n    ".join(keys) for what, keys in listed.items() if keys]
    if parts:
        message = f"{source} does not hold this model's tensors\n  " + "\n  ".join(parts)
        raise CheckpointError(message, missing=missing, unexpected=unexpected, misshapen=misshapen)
