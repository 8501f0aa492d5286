"""The neutral form of a training sample: what is said, when, and which media it is about. All frozen, all checked:
SampleError where parts contradict each other.

Every raw format becomes a Sample (formats.py); nothing behind that border knows where a sample came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Kind = Literal["text", "image", "video", "online", "tracking"]

IMAGE_MARK, VIDEO_MARK, BOX_MARK = "<image>", "<video>", "<bbox>"
"""Placeholders in the text of a question."""


class SampleError(ValueError):
    """A row that cannot become an example: an unknown format, parts that contradict each other, too many tokens."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    """May hold placeholders for the sample's pictures."""
    answer: str
    timestamp: float | None = None
    """Seconds at which it is asked; None where time plays no part."""
    image_file: str | None = None
    """Last frame file that has been seen when it is asked, where frames are named files."""

    def __post_init__(self) -> None:
        for name, text in (("question", self.question), ("answer", self.answer)):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise SampleError(f"the {name} is not Unicode text at character {error.start}: {text!r:.80}") from error
        if self.timestamp is not None and not math.isfinite(self.timestamp):
            raise SampleError(f"timestamps must be finite seconds, got {self.timestamp}")

    @property
    def is_timed(self) -> bool:
        return self.timestamp is not None or self.image_file is not None


@dataclass(frozen=True)
class Box:
    """Where the tracked object is at a moment."""

    timestamp: float
    """Seconds."""
    text: str
    """As the model reads and writes it, such as "[0.10, 0.22, 0.40, 0.81]"."""


@dataclass(frozen=True)
class Video:
    """A video, or frames that are files."""

    path: str = ""
    """File (its suffix may be missing) or folder of frames, from the set's data_root."""
    files: tuple[str, ...] = ()
    """Frame files in order, from `path` or from data_root; empty: `path` holds the frames."""
    fps: float | None = None
    """Frames a second of a folder or a list of files; a video file knows its own."""
    clip: tuple[float, float] | None = None
    """(start, end) seconds of the part that is used; None: all."""
    reset_timestamps: bool = False
    """The sample's clock starts with the clip, or with the first frame that is shown of it."""
    is_listed: bool = False
    """`files` are the frames to show (all_image_files), not a recording to sample from."""

    def __post_init__(self) -> None:
        if not self.path and not self.files:
            raise SampleError("a video needs a path or a list of frame files, got neither")
        if self.clip is not None and not 0 <= self.clip[0] < self.clip[1] < math.inf:
            raise SampleError(f"a clip is [start, end] in seconds with 0 <= start < end, got {list(self.clip)}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise SampleError(f"fps must be a number > 0, got {self.fps}")

    @property
    def name(self) -> str:
        """For messages."""
        return self.path or self.files[0]


@dataclass(frozen=True)
class Sample:
    """A dialogue about pictures, a video, a stream, or nothing."""

    kind: Kind
    turns: tuple[Turn, ...]
    """Answered questions. Tracking has one, a template that is filled in and continued when frames are chosen."""
    images: tuple[str, ...] = ()
    """Still images, from the set's data_root."""
    video: Video | None = None
    system: str | None = None
    """System message; None: the template's own."""
    boxes: tuple[Box, ...] = ()
    """Of tracking, in order of time."""
    any_order: bool = False
    """The turns are pairs of VideoChat2-IT that do not build on each other."""
    more_videos: tuple[Video, ...] = ()
    """Further videos, of a row that shows several, each whole."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise SampleError("the sample holds no answered question: there is nothing to learn from it")
        if self.kind != "tracking" and not any(turn.answer.strip() for turn in self.turns):
            raise SampleError(f"all {len(self.turns)} answers are blank: there is nothing to learn from it")
        if bool(self.images) != (self.kind == "image"):
            raise SampleError(f"a sample of kind {self.kind!r} with {len(self.images)} still images")
        if (self.video is not None) != (self.kind in ("video", "online", "tracking")):
            raise SampleError(f"a sample of kind {self.kind!r} and video {self.video}")
        if self.more_videos and self.kind != "video":
            what = f"{len(self.videos)} videos ({self.name}) with times or boxes"
            raise SampleError(f"{what}, which are of one: make a row of each video")
        if self.kind == "online":
            self._check_times()
        boxed = [box.timestamp for box in self.boxes]
        if self.kind == "tracking" and not boxed:
            raise SampleError("a tracking sample needs image_bboxes, got none")
        if boxed != sorted(set(boxed)):
            raise SampleError(f"the timestamps of image_bboxes must ascend, got {boxed}")
        if self.kind == "tracking" and self.turns[0].question.count(BOX_MARK) != 1:
            raise SampleError(f"query_template must hold one {BOX_MARK}, got {self.turns[0].question!r}")

    def _check_times(self) -> None:
        """Each turn of an online dialogue has its time, and time does not go back."""
        for number, turn in enumerate(self.turns):
            if not turn.is_timed:
                raise SampleError(
                    f"turn {number} of an online dialogue has neither timestamps nor image_file, others have: "
                    "when is it asked?"
                )
        times = [turn.timestamp for turn in self.turns if turn.timestamp is not None]
        for earlier, later in pairwise(times):
            if later < earlier:
                raise SampleError(f"timestamps must not go back, got {later} s after {earlier} s")

    @property
    def videos(self) -> tuple[Video, ...]:
        """All its videos, in order."""
        return (self.video, *self.more_videos) if self.video else ()

    @property
    def name(self) -> str:
        """The media it is about, for messages."""
        names = [video.name for video in self.videos] or self.images
        return ", ".join(names) or f"text {self.turns[0].question!r:.60}"


def is_number(value: Any) -> bool:
    """Whether a json value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
