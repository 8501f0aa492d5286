"""The video of a sample, opened: which of its frames are shown, at which second, and in which turn.

Pure functions choose and assign; `open_footage` finds the file. Decodes nothing: frames are numbers here.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..media.find import find_video
from ..media.image_source import images_of_folder
from ..media.readers import VideoReader, open_video
from ..media.sampling import sample_fps, sample_uniform
from .sample import BOX_MARK, VIDEO_MARK, Box, Sample, SampleError, Turn, Video

SAME_MOMENT = 1e-6
"""Seconds: two times this close are one, apart by float noise."""
NEARLY_EQUAL = 1.05
"""A source at most this much faster than the rate asked for has no frames to skip."""


@dataclass(frozen=True)
class Footage:
    """An opened video and the times of its frames on the sample's clock."""

    reader: VideoReader
    times: np.ndarray
    """float64 (num_frames,) seconds, ascending."""
    first: int
    """First frame of the clip."""
    stop: int
    """One behind its last frame."""
    file_names: tuple[str, ...] = ()
    """Of frames that are files, in order."""

    def time_of_file(self, name: str) -> float:
        """Seconds of the frame file `name`."""
        if name in self.file_names:
            return float(self.times[self.file_names.index(name)])
        by_last_part = [Path(file).name for file in self.file_names]
        if Path(name).name not in by_last_part:
            raise SampleError(f"image_file {name!r} is none of the {len(self.file_names)} frames of {self.reader.name}")
        return float(self.times[by_last_part.index(Path(name).name)])


@dataclass(frozen=True)
class ShownFrame:
    index: int
    """Number in the source."""
    timestamp: float
    """Seconds on the sample's clock."""


@dataclass(frozen=True)
class Showing:
    """The turns of a sample, and the frames that are shown in each."""

    turns: tuple[Turn, ...]
    frames: tuple[tuple[ShownFrame, ...], ...]
    """One tuple a turn, in order of time."""


def open_footage(sample: Sample, root: Path, open_file: Callable[[Path], VideoReader] = open_video) -> Footage:
    """Open the sample's video below `root`; the caller closes the reader. MediaError, SampleError: what is wrong.

    `open_file` opens a video file; frames that are files are read as they are.
    """
    assert sample.video is not None, f"asked for the video of a sample of kind {sample.kind!r}"
    reader, files = open_reader(sample.video, root, open_file)
    names = sample.video.files or tuple(file.name for file in files)
    try:
        return _set_clock(Footage(reader, reader.timestamps, 0, reader.num_frames, names), sample)
    except ValueError:
        reader.close()
        raise


def open_reader(
    video: Video, root: Path, open_file: Callable[[Path], VideoReader] = open_video
) -> tuple[VideoReader, list[Path]]:
    """The reader of a video below `root`, and its frame files where it has such."""
    files = _frame_files(video, root)
    if not files:
        path = find_video(root / video.path)
        if not path.is_dir():
            return open_file(path), []
        files = images_of_folder(path)
    return open_video(files, fps=video.fps), files


def choose_frames(num_frames: int, video_fps: float, fps: float, max_frames: int) -> list[int]:
    """Frames of a clip at `fps`, at most `max_frames`, each once; one at least.

    As `sample_fps` has it (the middle of each period), except where there are no frames to skip: a source of `fps` or
    less gives every frame, and a clip of less than half a period its middle one.
    """
    if video_fps <= fps * NEARLY_EQUAL:
        return sample_uniform(num_frames, max_frames)
    return sorted(set(sample_fps(num_frames, video_fps, fps, max_frames))) or sample_uniform(num_frames, 1)


def assign_frames(frame_times: Sequence[float], turn_times: Sequence[float]) -> list[list[int]]:
    """For each turn the frames that are new in it; both ascend, in seconds.

    A frame belongs to the first turn whose time is not before it. A turn asked after the last frame has it too;
    frames after the last turn belong to none.

    >>> assign_frames([0.0, 1.0, 2.0, 3.0], [1.0, 1.5, 2.9])
    [[0, 1], [], [2]]
    """
    ends = [bisect.bisect_right(frame_times, time + SAME_MOMENT) for time in turn_times]
    return [list(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def show(sample: Sample, footage: Footage, *, fps: float, max_frames: int, rng: random.Random) -> Showing:
    """Which frames are shown in which turn, `fps` a second and at most `max_frames` in all.

    1. A plain video is shown whole before its first question.
    2. A dialogue is shown frame by frame up to each question; a turn that says nothing and brings no frame is left out.
    3. Tracking begins at a random box and goes on frame by frame.
    """
    if sample.kind == "tracking":
        return _show_tracking(sample, footage, fps=fps, max_frames=max_frames, rng=rng)
    turn_times = turn_seconds(sample, footage)
    stop = footage.stop
    if turn_times:
        stop = min(stop, int(np.searchsorted(footage.times, turn_times[-1] + SAME_MOMENT, side="right")))
    if stop <= footage.first:
        raise SampleError(
            f"the last question, at {turn_times[-1]:.1f} s, comes before the first frame of {footage.reader.name} "
            f"({footage.times[footage.first]:.1f} s): nothing has been seen"
        )
    chosen = choose_frames(stop - footage.first, footage.reader.fps, fps, max_frames)
    frames = [ShownFrame(footage.first + n, float(footage.times[footage.first + n])) for n in chosen]
    if not turn_times:
        return Showing(sample.turns, (tuple(frames), *((),) * (len(sample.turns) - 1)))
    return _interleave(sample.turns, turn_times, frames)


def turn_seconds(sample: Sample, footage: Footage) -> list[float]:
    """When each turn of an online dialogue is asked, seconds on the sample's clock; none for other samples.

    A named frame file says it exactly; `timestamps` otherwise.
    """
    if sample.kind != "online":
        return []
    times = []
    for turn in sample.turns:
        if turn.image_file is not None:
            times.append(footage.time_of_file(turn.image_file))
        else:
            assert turn.timestamp is not None, "Sample checks that every turn of an online dialogue has its time"
            times.append(turn.timestamp)
    if any(later < earlier for earlier, later in pairwise(times)):
        raise SampleError(f"the turns of {sample.name} must not go back in time, got seconds {times}")
    return times


def _interleave(turns: Sequence[Turn], times: Sequence[float], frames: Sequence[ShownFrame]) -> Showing:
    groups = assign_frames([frame.timestamp for frame in frames], times)
    kept = [
        (turn, tuple(frames[n] for n in group))
        for turn, group in zip(turns, groups, strict=True)
        if group or turn.question.replace(VIDEO_MARK, "").strip()
    ]
    return Showing(tuple(turn for turn, _ in kept), tuple(group for _, group in kept))


def _show_tracking(sample: Sample, footage: Footage, *, fps: float, max_frames: int, rng: random.Random) -> Showing:
    """Frames are those with a box, so that every answer can be seen; the dialogue begins at a random one of them."""
    boxed = [(index, box) for index, box in boxed_frames(sample, footage) if footage.first <= index < footage.stop]
    kept = [boxed[n] for n in due_moments([box.timestamp for _, box in boxed], fps)]
    if not kept:
        raise SampleError(f"no box of {sample.name} lies within its clip")
    kept = [kept[n] for n in sample_uniform(len(kept), max_frames)]
    frames = [ShownFrame(index, box.timestamp) for index, box in kept]
    turns = tracking_turns(sample.turns[0], [box for _, box in kept], start=rng.randrange(len(kept)))
    return _interleave(turns, [turn.timestamp or 0.0 for turn in turns], frames)


def due_moments(times: Sequence[float], fps: float) -> list[int]:
    """Places of the times that are taken, from the first on: each a period or more after the one taken before.

    >>> due_moments([0.0, 0.1, 0.9, 1.0, 1.5, 2.1], fps=1.0)
    [0, 3, 5]
    """
    taken: list[int] = []
    for place, time in enumerate(times):
        if not taken or time - times[taken[-1]] >= 1 / fps - SAME_MOMENT:
            taken.append(place)
    return taken


def tracking_turns(query: Turn, boxes: Sequence[Box], *, start: int) -> tuple[Turn, ...]:
    """The dialogue that begins at box `start`: where it has been so far, then one turn for each later box."""
    lines = [f"At {box.timestamp:.1f}s, {box.text}" for box in boxes]
    question = query.question.replace(BOX_MARK, boxes[start].text)
    first = replace(query, question=question, answer="\n".join(lines[: start + 1]), timestamp=boxes[start].timestamp)
    later = (Turn(VIDEO_MARK + "\n", lines[n], boxes[n].timestamp) for n in range(start + 1, len(boxes)))
    return first, *later


def boxed_frames(sample: Sample, footage: Footage) -> list[tuple[int, Box]]:
    """(frame number, box) of each box: one a frame where the numbers are equal, the frame of its time otherwise."""
    if len(sample.boxes) == footage.reader.num_frames:
        return list(enumerate(sample.boxes))
    half_frame = 0.5 / footage.reader.fps
    found = []
    for box in sample.boxes:
        index = int(np.abs(footage.times - box.timestamp).argmin())
        if abs(footage.times[index] - box.timestamp) > half_frame + SAME_MOMENT:
            raise SampleError(
                f"the box at {box.timestamp} s has no frame: those of {sample.name} are at "
                f"{footage.times[0]:.1f} to {footage.times[-1]:.1f} s"
            )
        found.append((index, box))
    return found


def _set_clock(footage: Footage, sample: Sample) -> Footage:
    """Cut the clip out and set the clock: the video's, that of named frame files, or one that starts with the clip."""
    video = sample.video
    assert video is not None
    start, end = video.clip or (0.0, footage.reader.duration)
    first = int(np.searchsorted(footage.times, start - SAME_MOMENT, side="left"))
    stop = int(np.searchsorted(footage.times, end + SAME_MOMENT, side="right"))
    if first >= stop:
        raise SampleError(
            f"the clip {start:g} to {end:g} s holds no frame of {footage.reader.name}, "
            f"which lasts {footage.reader.duration:.1f} s"
        )
    footage = replace(footage, first=first, stop=stop)
    if video.reset_timestamps:
        return replace(footage, times=footage.times - footage.times[first])
    anchor = next((turn for turn in sample.turns if turn.image_file and turn.timestamp is not None), None)
    if anchor is not None and anchor.image_file is not None and anchor.timestamp is not None:
        return replace(footage, times=footage.times + (anchor.timestamp - footage.time_of_file(anchor.image_file)))
    return footage


def _frame_files(video: Video, root: Path) -> list[Path]:
    """Where the named frame files lie: below the video's folder, or below `root` itself."""
    if not video.files:
        return []
    folder = root / video.path
    if video.path and not (folder / video.files[0]).exists() and (root / video.files[0]).exists():
        folder = root
    return [folder / name for name in video.files]
