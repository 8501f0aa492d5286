"""What the user decides about data, apart from which sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .mixing import Mixing

FrameTimes = Literal["online", "always", "never"]


@dataclass(frozen=True)
class DataSettings:
    """The defaults are the published recipe's."""

    fps: float = 1.0
    """Frames a second that are shown of a video."""
    max_frames: int = 64
    """Frames a sample may show."""
    max_length: int = 32768
    """Tokens of a sample. A longer one is shown fewer frames or tiles; text is never cut."""
    max_dynamic_patch: int | None = None
    """Tiles a still image is cut into at most, where its set does not say; None: the model's number."""
    frame_times: FrameTimes = "online"
    """Whose frames carry their second: those of dialogues with timestamps, all, or none."""
    mixing: Mixing = "proportional"
    """`sqrt`: a set's share of an epoch goes with the square root of its size."""
    seed: int = 0
    """Of every random choice: rows of a fractional repeat_time, the start of tracking, JPEG qualities, replacements."""
    max_failed_share: float = 0.05
    """Share of the samples read that may be unreadable before training stops."""
    frame_cache: str = ""
    """Folder that keeps decoded frames (see frame_cache.py); empty: every sample decodes its own."""

    def __post_init__(self) -> None:
        for name in ("max_frames", "max_length", "max_dynamic_patch"):
            value = getattr(self, name)
            optional = name == "max_dynamic_patch" and value is None
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not self.fps > 0:
            raise ValueError(f"fps must be a number of frames a second > 0, got {self.fps!r}")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share must be a share from 0 to 1, got {self.max_failed_share!r}")
        for name, allowed in (("frame_times", FrameTimes), ("mixing", Mixing)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {getattr(self, name)!r}")
