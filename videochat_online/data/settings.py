"""What the user decides about data, apart from which sets. Training's configuration adds its own settings to these.

A text under a field is the help of its flag.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..media.readers import Decoder

FrameTimes = Literal["online", "always", "never"]
Mixing = Literal["proportional", "sqrt"]


def own_cores() -> int:
    """Cores for each of the training processes that torchrun has started on this machine, of those that may be used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class SettingError(ValueError):
    """A setting with a value it cannot have. Names the flag."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The defaults are the published recipe's; docs/train.md sets them beside ours, rule by rule.

    Raises SettingError for all values that fields cannot have.
    """

    seed: int = 42
    """of every random choice: samples and their order, drop path, new weights"""
    num_frames: int = 64
    """frames of a video at most"""
    fps: float = 1.0
    """frames taken a second"""
    max_length: int = 32768
    """tokens of a sequence at most; a longer sample is shown fewer frames or tiles, text is never cut"""
    max_dynamic_patch: int | None = None
    """tiles a still image is cut into at most, where its set does not say (default: the model's number)"""
    frame_times: FrameTimes = "online"
    """whose frames carry their second: those of dialogues with timestamps, all, or none"""
    pair_order: Literal["shuffled", "listed"] = "shuffled"
    """of VideoChat2-IT pairs, another in each epoch; listed: for later questions that build on earlier ones"""
    pair_joint: Literal["space", "newline"] = "space"
    """between instruction and question of such a pair; newline: the instruction stands apart"""
    listed_frames: Literal["all", "fps"] = "all"
    """frames of all_image_files and of boxes; fps: --fps of them a second, as of a video, which costs fewer tokens"""
    box_text: Literal["json", "short"] = "json"
    """numbers of a box as Python prints them, [0.0, 1.0]; short: [0, 1], six digits at most, fewer tokens"""
    clock_zero: Literal["sampled", "clip"] = "sampled"
    """with need_reset_timestamp, time starts with the first frame shown; clip: with the clip, as its questions do"""
    clip_bounds: Literal["frames", "seconds"] = "frames"
    """a clip by its count of frames, at the mean rate; seconds: by each frame's own time, right at varying rates"""
    frames_over: Literal["clip", "asked"] = "clip"
    """what --num-frames are spread over; asked: the part before the last question, so that none is left out"""
    mixing: Mixing = "proportional"
    """sqrt: a set's share of an epoch goes with the square root of its size"""
    max_failed_share: float = 0.05
    """share of samples that may be unreadable before the run ends with an error; 1: any"""
    frame_cache: str = ""
    """folder that keeps the decoded frames of video files, each a size x size x 3 bytes; they are decoded once then"""
    decoder: Decoder = "pyav"
    """what reads video files: pyav, or decord (an extra; docs/performance.md says when it pays)"""

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise SettingError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        """What is wrong with each field, all of it."""
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                expected = f"one of {', '.join(get_args(hint))}"
                yield from self._unless(getattr(self, name) in get_args(hint), name, expected)
            elif hint is float:
                yield from self._unless(math.isfinite(getattr(self, name)), name, "a finite number")
        for name in ("num_frames", "max_length", "max_dynamic_patch"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            is_right = (whole and value >= 1) or (name == "max_dynamic_patch" and value is None)
            yield from self._unless(is_right, name, "at least 1")
        yield from self._unless(self.fps > 0, "fps", "above 0")
        yield from self._unless(0 <= self.max_failed_share <= 1, "max_failed_share", "from 0 to 1")

    def _unless(self, holds: bool, name: str, what: str) -> Iterator[str]:
        if not holds:
            yield f"{flag(name)} must be {what}, got {getattr(self, name)!r}"


def flag(name: str) -> str:
    """The flag of a setting: learning_rate -> --learning-rate."""
    return "--" + name.replace("_", "-")


PUBLISHED = DataSettings()
OURS: dict[str, Any] = {
    "pair_order": "listed",
    "pair_joint": "newline",
    "listed_frames": "fps",
    "box_text": "short",
    "clock_zero": "clip",
    "clip_bounds": "seconds",
    "frames_over": "asked",
}
"""The other way of each rule: as version 0.1 had them, and as the pocket model is trained."""
