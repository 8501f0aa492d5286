"""The video of a task: opened on the clock that its questions use, what keeps them from being asked, its frames.

The published scripts of OVBench show frames and print times of their own, to the frame. A frame of a file is known to
them by the END of its display, in single precision; one of a folder by its start. The frame on screen is later than the
question by its printed time, and the last question of a video sees the whole clip. Checked against recordings of the
scripts: tests/golden/eval_frames.json.

While a question is answered, the frames of the next ones are on their way: decoded in one thread, encoded in another.
Batches follow from what is shown alone, never from which questions are still open, so that a run that was cut off gives
the very same answers. Knows no model: whoever asks gives what makes a batch ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..media.find import VideoLibrary
from ..media.image_source import ImageListReader, images_of_folder
from ..media.readers import MediaError, VideoReader, open_video
from ..media.sampling import thin
from ..streaming.threads import Pieces
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


# ---- for published numbers only: frames and times of the scripts -----------------------------------------------------


def known_times(video: OpenVideo) -> np.ndarray:
    """(num_frames,) float64 seconds by which the scripts know each frame, and which they print, ascending."""
    if isinstance(video.reader, ImageListReader):
        return video.timestamps
    return _single(video.reader.ends + (video.timestamps[0] - video.reader.timestamps[0]))  # a part begins later


def printed_times(video: OpenVideo, indices: Sequence[int]) -> list[float]:
    """The known times of these frames rounded to a tenth, in the precision they have."""
    times = known_times(video)[list(indices)]
    if isinstance(video.reader, ImageListReader):
        return [round(second, 1) for second in times.tolist()]
    return times.astype(np.float32).round(1).astype(np.float64).round(1).tolist()  # 2.1, not 2.0999999


def published_window(
    video: OpenVideo, moment: float, *, start: float, seconds: float, fps: float, max_frames: int | None
) -> list[int]:
    """What the sliding window shows: counted back from the frame that is on screen at `moment`.

    It reaches to the first frame not before the window's opening (where there is none, to the video's first), never
    before `start`.
    """
    times, is_folder = known_times(video), isinstance(video.reader, ImageListReader)
    starts = video.timestamps if is_folder else _single(video.timestamps)
    last = int(np.searchsorted(starts, moment, side="right")) - 1
    first = int(np.searchsorted(times, max(start, moment - seconds))) % len(times)
    step = max(1, round(round(video.reader.fps / fps, 6)))
    return thin(list(reversed(range(last, first - 1, -step))), max_frames)


def published_pass(video: OpenVideo, *, start: float, end: float, fps: float, multi_turn: bool) -> list[int]:
    """The frames of a clip that a streaming script shows: the first not before `start` to the last not after `end`.

    Every how many of the file's frames: the rates' quotient rounded (half to even); for folders, and in the script that
    keeps the dialogue, the quotient of whole numbers.
    """
    times, rate = known_times(video), video.reader.fps
    whole = multi_turn or isinstance(video.reader, ImageListReader)
    step = int(int(rate) // fps) if whole else round(round(rate / fps, 6))
    return list(range(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")), max(1, step)))


def _single(seconds: np.ndarray) -> np.ndarray:
    """As decord gives them: single precision, compared in double."""
    return seconds.astype(np.float32).astype(np.float64)


# ---- frames made ready before they are shown -------------------------------------------------------------------------

BATCH = 16
"""Frames read and encoded together at most."""
AHEAD = 8
"""Encoded batches that wait to be shown, at most: some seconds of video, which are encoded while an answer is made."""

Batch = tuple[int, Sequence[Any] | MediaError]
"""Of which showing, and frames as `ready` gives them; the error where the rest of that showing cannot be read."""
Emit = Callable[[Batch], None]


class FramesAhead:
    """Makes the frames of several showings ready, in their order, from now on. Close it before the reader."""

    def __init__(
        self,
        reader: VideoReader,
        showings: Sequence[Sequence[int]],
        ready: Callable[[Sequence[np.ndarray]], Sequence[Any]] | None = None,
    ) -> None:
        """`showings`: frame numbers of each, ascending. `ready`: what is shown of uint8 (H, W, 3); None: themselves."""
        self._reader, self._showings, self._ready = reader, showings, ready
        self._showing = 0
        self._rest: Batch | None = None
        self._batches = Pieces(self._read, depth=1) if ready is None else Pieces(self._make_ready, depth=AHEAD)

    def take(self, showing: int, num: int) -> Iterator[Sequence[Any]]:
        """The next `num` frames of a showing, in pieces; showings before it are left. Raises MediaError."""
        self._showing = showing
        while num > 0:
            number, piece = self._rest or next(self._batches)
            self._rest = None
            if number < showing:
                continue
            if isinstance(piece, MediaError):
                raise piece
            if len(piece) > num:
                self._rest = number, piece[num:]
            yield piece[:num]
            num -= len(piece)

    def close(self) -> None:
        self._batches.close()

    def _read(self, emit: Emit, stop: threading.Event) -> None:
        for number, indices in enumerate(self._showings):
            batch: list[np.ndarray] = []
            error: MediaError | None = None
            try:
                for frame in self._reader.read(indices):
                    if stop.is_set() or number < self._showing:  # nobody waits for these any more
                        batch = []
                        break
                    batch.append(frame.image)
                    if len(batch) == BATCH:
                        emit((number, batch))
                        batch = []
            except MediaError as found:
                error = found
            if batch:
                emit((number, batch))
            if error:
                emit((number, error))

    def _make_ready(self, emit: Emit, stop: threading.Event) -> None:
        assert self._ready is not None
        with closing(Pieces(self._read, depth=1)) as batches:
            for number, batch in batches:
                if stop.is_set():
                    return
                if number >= self._showing:
                    emit((number, batch if isinstance(batch, MediaError) else self._ready(batch)))
