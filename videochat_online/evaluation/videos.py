"""The video of a task, opened on the clock that its questions use, and what keeps them from being asked.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..media.find import VideoLibrary
from ..media.image_source import images_of_folder
from ..media.readers import MediaError, VideoReader, open_video
from .questions import VideoTask

SEGMENT_SLACK = 10.0
"""Seconds: a video that ends this soon after its annotated part begins can only be that part."""
END_SLACK = 1.0
"""Seconds a video may be shorter than its last question, for rounded durations."""


@dataclass(frozen=True)
class OpenVideo:
    """A video and the times of its frames on the clock of its questions."""

    reader: VideoReader
    timestamps: np.ndarray
    """(num_frames,) float64 seconds, ascending: the start of each frame's display."""

    @property
    def end(self) -> float:
        """Seconds at which the last frame's display ends."""
        return float(self.timestamps[0]) + self.reader.duration

    def first_index(self, start: float, needed: float) -> int:
        """The first frame that starts at `start` or later; where none does by `needed`, the one on screen then."""
        first = int(np.searchsorted(self.timestamps, start))
        late = first == len(self.timestamps) or self.timestamps[first] > needed
        return max(0, first - 1) if late else first


def open_task_video(task: VideoTask, library: VideoLibrary) -> OpenVideo:
    """Find and open the video of `task`. MediaError says what is wrong with it, by name."""
    path = library.find(task.names)
    reader = open_video(path, decoder=library.decoder, fps=(task.fps or 1.0) if path.is_dir() else None)
    return OpenVideo(reader, reader.timestamps + _clock_offset(task, path, reader))


def _clock_offset(task: VideoTask, path: Path, reader: VideoReader) -> float:
    """Seconds on the questions' clock at which the first stored frame is shown."""
    if task.segment_start and reader.duration <= task.segment_start + SEGMENT_SLACK:
        return task.segment_start
    number = _anchor_index(task, path)
    if task.anchor is None or number is None:  # as published: the first frame of a folder is second 0
        return 0.0
    offset = task.anchor[1] - float(reader.timestamps[number])
    return offset if abs(offset) > 0.5 / reader.fps else 0.0


def _anchor_index(task: VideoTask, path: Path) -> int | None:
    """Number of the frame whose time is known, in the folder's order."""
    if task.anchor is None or not path.is_dir():
        return None
    names = [image.name for image in images_of_folder(path)]
    return names.index(task.anchor[0]) if task.anchor[0] in names else None


def refuse_where_none_is_found(tasks: Sequence[VideoTask], library: VideoLibrary) -> None:
    """ValueError where the library has not one video of `tasks`: a wrong folder, and no score of a model."""
    problem = None
    for task in tasks:
        try:
            library.find(task.names)
        except MediaError as error:
            problem = problem or error
        else:
            return
    if problem:
        raise ValueError(f"--videos {library.root} has none of the {len(tasks)} videos asked about: {problem}")


def check_video(task: VideoTask, library: VideoLibrary) -> str | None:
    """What keeps the questions of `task` from being asked, or None: missing, empty, broken, too short."""
    try:
        path = library.find(task.names)
        video = open_task_video(task, library)
    except MediaError as error:
        return str(error)
    with video.reader:
        if task.anchor and path.is_dir() and _anchor_index(task, path) is None:
            return f"{path}: holds no {task.anchor[0]}, so its first frame would be taken for second 0"
        if video.end + END_SLACK < task.end:
            return f"{task.video}: ends at {video.end:.1f} s, but a question is asked at {task.end:.1f} s"
        if video.timestamps[0] > task.questions[0].timestamp:
            first = task.questions[0].timestamp
            return f"{task.video}: begins at {video.timestamps[0]:.1f} s, but a question is asked at {first:.1f} s"
    return None
