"""Where a benchmark's videos lie below a folder, opened on the clock that the questions use.

Archives unpack differently from mirror to mirror, so a video is looked for at its likeliest places first and by
its name anywhere below the root after that. Knows no model and no question.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from ..media.image_source import IMAGE_SUFFIXES, images_of_folder
from ..media.readers import MediaError, VideoReader, open_video
from ..media.source import reading
from .types import VideoTask

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif")
SEGMENT_SLACK = 10.0
"""Seconds: a video that ends this soon after its annotated part begins can only be that part."""
END_SLACK = 1.0
"""Seconds a video may be shorter than its last question, for rounded durations."""


class VideoLibrary:
    """Finds videos and folders of frames below `root`. The tree is walked at most once, and only when needed."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"--videos {root}: no such folder")
        self.root = root

    def find(self, names: Sequence[str]) -> Path:
        """The first of `names` that exists, with or without a video suffix; else what is called so, wherever it lies.

        MediaError: nothing found, or several and no way to choose.
        """
        for name in names:
            for path in (self.root / name, *(self.root / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)):
                with reading(name, "cannot be looked for", "the name of a video", errors=OSError):  # too long, say
                    if path.exists():
                        return path
        last = PurePosixPath(names[0])
        found = self._by_name.get(last.name) or self._by_name.get(_without_suffix(last), [])
        if len(found) > 1:
            top = PurePosixPath(names[0]).parts[0].lower()
            found = [p for p in found if top in (part.lower() for part in p.relative_to(self.root).parts)] or found
        if len(found) == 1:
            return found[0]
        what = "not found" if not found else f"found {len(found)} times ({', '.join(map(str, found[:3]))})"
        raise MediaError(f"{names[0]}: {what} below {self.root}; expected one video or folder of frames of that name")

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """File name, file stem, or folder of frames -> where it lies."""
        places: dict[str, list[Path]] = defaultdict(list)
        for path in _media_below(self.root):
            for name in {path.name, _without_suffix(path)}:
                places[name].append(path)
        return places


def _without_suffix(path: PurePath) -> str:
    """The name without a video's suffix; other dots belong to the name."""
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name


def _media_below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Video files, and folders that hold images, in the order of their names.

    `above` are the folders on the way here: a link back to one of them has nothing new below it. What may not be read
    is left out, and its videos are not found.
    """
    try:
        place = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    here = (place.st_dev, place.st_ino)
    if here in above:
        return
    subfolders, images = [], False
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if os.path.isdir(entry):  # unlike entry.is_dir(), also where a link leads to itself
            subfolders.append(Path(entry.path))
        elif suffix in VIDEO_SUFFIXES:
            yield Path(entry.path)
        else:
            images = images or suffix in IMAGE_SUFFIXES
    if images:
        yield folder
    for subfolder in subfolders:
        yield from _media_below(subfolder, above | {here})


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


def open_task_video(task: VideoTask, library: VideoLibrary) -> OpenVideo:
    """Find and open the video of `task`. MediaError says what is wrong with it, by name."""
    path = library.find(task.names)
    reader = open_video(path, fps=task.fps or 1.0) if path.is_dir() else open_video(path)
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
