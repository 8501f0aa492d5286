"""The video of a sample, opened: which of its frames are shown, at which second, and in which turn.

`open_clip` finds the file, cuts the clip out and sets the clock; pure functions choose the frames and give them to
turns. Decodes nothing: frames are numbers here.
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
from ..media.sampling import sample_fps, sample_uniform, thin
from ..media.source import reading
from .sample import BOX_MARK, VIDEO_MARK, Box, Sample, SampleError, Turn, Video
from .settings import DataSettings

SAME_MOMENT = 1e-6
"""Seconds: two times this close are one, apart by float noise."""
NEARLY_EQUAL = 1.05
"""A source at most this much faster than the wanted rate has no frames to skip."""

OpenFile = Callable[[Path], VideoReader]
"""Opens a video file."""


@dataclass(frozen=True)
class VideoClip:
    """The part of an open video that a sample is about, and the times of the frames on the sample's clock."""

    reader: VideoReader
    """Of the whole video; the caller of `open_clip` closes it."""
    times: np.ndarray
    """float64 (num_frames,) seconds of all frames of the video, ascending."""
    first: int
    """First frame of the clip."""
    stop: int
    """One behind its last frame."""
    file_names: tuple[str, ...]
    """Of frames that are files, in order."""

    def time_of_file(self, name: str) -> float:
        """Seconds of the frame file `name`, whole or its last part. SampleError if it is none of the frames."""
        names, wanted = list(self.file_names), name
        if name not in names:
            names, wanted = [Path(file).name for file in names], Path(name).name
        if wanted not in names:
            raise SampleError(f"image_file {name!r} is none of the {len(names)} frames of {self.reader.name}")
        return float(self.times[names.index(wanted)])


@dataclass(frozen=True)
class ShownFrame:
    index: int
    """Number in the video."""
    timestamp: float
    """Seconds on the sample's clock."""


TurnFrames = tuple[Turn, Sequence[ShownFrame]]
"""A turn, and the frames that are new in it, in order of time."""


def open_clip(sample: Sample, root: Path, open_file: OpenFile, settings: DataSettings) -> VideoClip:
    """Open the sample's video below `root`; the caller closes the reader.

    `open_file` opens a video file; frames that are image files are read as they are. A clock that is reset starts with
    the clip here, and `frames_of_turns` may move it to the first frame that is shown. MediaError for a file that cannot
    be read, SampleError for a clip or a frame file that the video does not have.
    """
    video = sample.video
    assert video is not None, f"a sample of kind {sample.kind!r} has no video to open"
    reader, files = open_reader(video, root, open_file)
    try:
        return cut_clip(sample, reader, files, settings)
    except ValueError:
        reader.close()
        raise


def cut_clip(sample: Sample, reader: VideoReader, files: Sequence[Path], settings: DataSettings) -> VideoClip:
    """The sample's clip of its open video, whose frames are `files` where it has such. SampleError: see `open_clip`."""
    video = sample.video
    assert video is not None, f"a sample of kind {sample.kind!r} has no video to cut"
    # 1. the part that is used
    first, stop = clip_frames(video.clip, reader, settings) if video.clip else (0, reader.num_frames)
    clip = VideoClip(reader, reader.timestamps, first, stop, video.files or tuple(file.name for file in files))
    # 2. the sample's clock: it starts with the clip, or shows a named frame file's time, or is the video's own
    if video.reset_timestamps:
        return replace(clip, times=clip.times - clip.times[first])
    for turn in sample.turns:
        if turn.image_file and turn.timestamp is not None:
            return replace(clip, times=clip.times + (turn.timestamp - clip.time_of_file(turn.image_file)))
    return clip


def clip_frames(clip: tuple[float, float], reader: VideoReader, settings: DataSettings) -> tuple[int, int]:
    """First frame of a clip of (start, end) seconds, and one behind its last. SampleError where it holds none."""
    start, end = clip
    if settings.clip_bounds == "frames":  # as published; a clip shorter than a frame has one all the same
        first = int(start * reader.fps)
        stop = min(first + max(1, int((end - start) * reader.fps)), reader.num_frames)
    else:
        first = int(np.searchsorted(reader.timestamps, start - SAME_MOMENT, side="left"))
        stop = int(np.searchsorted(reader.timestamps, end + SAME_MOMENT, side="right"))
    if first >= stop:
        lasts = f"{reader.name}, which lasts {reader.duration:.1f} s"
        raise SampleError(f"the clip {start:g} to {end:g} s holds no frame of {lasts}")
    return first, stop


def open_reader(video: Video, root: Path, open_file: OpenFile) -> tuple[VideoReader, list[Path]]:
    """The reader of a video below `root`, and its frame files where it has such. MediaError if it cannot be read."""
    folder = root / video.path
    if video.files:  # below the video's folder, or below `root` itself
        with reading(folder, "cannot be looked for", "a folder of frames", errors=OSError):  # too long a name, say
            in_root = not (folder / video.files[0]).exists() and (root / video.files[0]).exists()
        files = [(root if in_root else folder) / name for name in video.files]
    else:
        path = find_video(folder)
        if not path.is_dir():
            return open_file(path), []
        files = images_of_folder(path)
    return open_video(files, fps=video.fps), files


def frames_of_turns(
    sample: Sample, clip: VideoClip, settings: DataSettings, *, max_frames: int, rng: random.Random
) -> list[TurnFrames]:
    """The turns of a sample with the frames that each shows: at the settings' rate, at most `max_frames` in all.

    A plain video is shown whole before its first question, a dialogue frame by frame up to each question; tracking
    begins at a random box. Of several videos, `clip` being one, each may show an equal share of `max_frames`, one at
    least. SampleError where a time has no frame.
    """
    max_frames = frame_share(sample, max_frames)
    if sample.kind == "tracking":
        return _frames_of_tracking(sample, clip, settings, max_frames=max_frames, rng=rng)
    # 1. the frames of the whole clip, and the clock that may start with them
    chosen = _chosen(sample, clip, settings, clip.stop, max_frames)
    clip = _reset_clock(sample, clip, settings, chosen[0])
    # 2. those up to the last question
    if turn_times := _turn_times(sample, clip):
        stop = min(clip.stop, int(np.searchsorted(clip.times, turn_times[-1] + SAME_MOMENT, side="right")))
        if stop <= clip.first:
            raise SampleError(
                f"the last question, at {turn_times[-1]:.1f} s, comes before the first frame of {clip.reader.name} "
                f"({clip.times[clip.first]:.1f} s): nothing has been seen"
            )
        if settings.frames_over == "asked" or chosen[0] >= stop:  # a question before all of them sees one as well
            chosen = _chosen(sample, clip, settings, stop, max_frames)
            clip = _reset_clock(sample, clip, settings, chosen[0])
    frames = [ShownFrame(number, float(clip.times[number])) for number in chosen]
    # 3. each in its turn; one that says nothing and brings no frame is left out
    if not turn_times:
        return [(turn, () if number else frames) for number, turn in enumerate(sample.turns)]
    groups = assign_frames([frame.timestamp for frame in frames], turn_times)
    shown = [(turn, [frames[n] for n in group]) for turn, group in zip(sample.turns, groups, strict=True)]
    return [(turn, new) for turn, new in shown if new or turn.question.replace(VIDEO_MARK, "").strip()]


def frame_share(sample: Sample, max_frames: int) -> int:
    """How many frames each video of a sample may show."""
    return max(1, max_frames // max(1, len(sample.videos)))


def _chosen(sample: Sample, clip: VideoClip, settings: DataSettings, stop: int, max_frames: int) -> list[int]:
    """The frames of a clip that are shown, of those before frame `stop`."""
    count = stop - clip.first
    if sample.video is not None and sample.video.is_listed and settings.listed_frames == "all":
        places = thin(list(range(count)), max_frames)
    else:
        places = choose_frames(count, clip.reader.fps, settings.fps, max_frames)
    return [clip.first + place for place in places]


def _reset_clock(sample: Sample, clip: VideoClip, settings: DataSettings, first: int) -> VideoClip:
    """The clip with its clock at 0 where frame `first` begins, if that is the sample's clock."""
    if sample.video is None or not sample.video.reset_timestamps or settings.clock_zero != "sampled":
        return clip
    return replace(clip, times=clip.times - clip.times[first])


def choose_frames(num_frames: int, video_fps: float, fps: float, max_frames: int) -> list[int]:
    """Frames of a clip at `fps`, at most `max_frames`, each once; one at least.

    The middle of each period, as `sample_fps` has it, except where there are no frames to skip: a source of `fps` or
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


def _turn_times(sample: Sample, clip: VideoClip) -> list[float]:
    """When each turn of an online dialogue is asked, by its frame file or its timestamp; none for other samples."""
    if sample.kind != "online":
        return []
    times = []
    for turn in sample.turns:
        time = turn.timestamp if turn.image_file is None else clip.time_of_file(turn.image_file)
        assert time is not None, "Sample checks that every turn of an online dialogue has its time"
        times.append(time)
    if any(later < earlier for earlier, later in pairwise(times)):
        raise SampleError(f"the turns of {sample.name} must not go back in time, got seconds {times}")
    return times


def _frames_of_tracking(
    sample: Sample, clip: VideoClip, settings: DataSettings, *, max_frames: int, rng: random.Random
) -> list[TurnFrames]:
    """Frames are those with a box, so that every answer can be seen; the dialogue begins at a random one of them."""
    boxed = [(index, box) for index, box in _boxed_frames(sample, clip) if clip.first <= index < clip.stop]
    if not boxed:
        raise SampleError(f"no box of {sample.name} lies within its clip")
    kept = [boxed[place] for place in boxes_shown([box.timestamp for _, box in boxed], settings, max_frames)]
    start = rng.randrange(len(kept))
    # the first turn shows all that has been seen so far, each later one its frame
    frames = [ShownFrame(index, box.timestamp) for index, box in kept]
    turns = tracking_turns(sample.turns[0], [box for _, box in kept], start=start)
    return list(zip(turns, [frames[: start + 1], *([frame] for frame in frames[start + 1 :])], strict=True))


def _boxed_frames(sample: Sample, clip: VideoClip) -> list[tuple[int, Box]]:
    """(frame number, box) of each box: one a frame where the numbers are equal, the frame of its time otherwise."""
    if len(sample.boxes) == clip.reader.num_frames:
        return list(enumerate(sample.boxes))
    half_frame = 0.5 / clip.reader.fps
    found = []
    for box in sample.boxes:
        index = int(np.abs(clip.times - box.timestamp).argmin())
        if abs(clip.times[index] - box.timestamp) > half_frame + SAME_MOMENT:
            raise SampleError(
                f"the box at {box.timestamp} s has no frame: those of {sample.name} are at "
                f"{clip.times[0]:.1f} to {clip.times[-1]:.1f} s"
            )
        found.append((index, box))
    return found


def boxes_shown(times: Sequence[float], settings: DataSettings, max_frames: int) -> list[int]:
    """Places of the boxes that are spoken of, given their seconds; `max_frames` at most."""
    if settings.listed_frames == "all":
        return thin(list(range(len(times))), max_frames)
    due = due_moments(times, settings.fps)
    return [due[place] for place in sample_uniform(len(due), max_frames)]


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
    """The dialogue that begins at box `start`: where the object has been so far, then one turn for each later box."""
    lines = [f"At {box.timestamp:.1f}s, {box.text}" for box in boxes]
    question = query.question.replace(BOX_MARK, boxes[start].text)
    first = replace(query, question=question, answer="\n".join(lines[: start + 1]), timestamp=boxes[start].timestamp)
    later = (Turn(VIDEO_MARK + "\n", lines[n], boxes[n].timestamp) for n in range(start + 1, len(boxes)))
    return first, *later
