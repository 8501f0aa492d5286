"""A video up to the moment it is asked about: as a visual of lmms-eval, and as frames for any model.

`load_video` reads files and folders of frames alike and never returns a frame later than that moment. Which frames
are taken is decided by videochat_online's own evaluation modes, so that every model is shown what our runner shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videochat_online.evaluation.benchmarks import Settings
from videochat_online.evaluation.modes import Examiner
from videochat_online.evaluation.questions import Question, VideoTask
from videochat_online.evaluation.videos import OpenVideo, known_times
from videochat_online.media.readers import MediaError, open_video


@dataclass(frozen=True)
class Stream:
    """A video, from where it is shown to the moment of a question. Seconds on the clock of the questions."""

    path: str
    """A video file or a folder of frames."""
    start: float = 0.0
    end: float | None = None
    """The moment of the question; None: the video's end, as in questions about a whole video."""
    fps: float | None = None
    """Frames per second of a folder of frames."""
    first_frame_at: float = 0.0
    """When the first stored frame is shown (AVA's segments begin at 900 s)."""
    moments: tuple[float, ...] = ()
    """All moments at which this video is asked about, so that one pass over it can serve every question."""
    clip_end: float | None = None
    """No later frame is part of the clip that is asked about as a whole; None: the video's end."""

    def to_visual(self) -> dict[str, Any]:
        """What a task hands to a model: plain values, under the names that lmms-eval uses for parts of videos."""
        return {
            "type": "video",
            "url": self.path,
            "video_start": self.start,
            "video_end": self.end,
            "fps": self.fps,
            "first_frame_at": self.first_frame_at,
            "moments": list(self.moments),
            "clip_end": self.clip_end,
        }

    @classmethod
    def of(cls, visual: str | PathLike[str] | Mapping[str, Any]) -> Stream:
        """From a path (the whole video) or a visual of some task."""
        if isinstance(visual, str | PathLike):
            return cls(fspath(visual))
        path = visual.get("url") or visual.get("path") or visual.get("video") or ""
        return cls(
            path=str(path),
            start=float(visual.get("video_start") or 0.0),
            end=None if visual.get("video_end") is None else float(visual["video_end"]),
            fps=visual.get("fps"),
            first_frame_at=float(visual.get("first_frame_at") or 0.0),
            moments=tuple(visual.get("moments") or ()),
            clip_end=visual.get("clip_end"),
        )

    def open(self) -> OpenVideo:
        """MediaError says what is wrong with the video, by name."""
        if not self.path:
            raise MediaError("this video was not found when the questions were read")
        reader = open_video(self.path, fps=self.fps) if Path(self.path).is_dir() else open_video(self.path)
        return OpenVideo(reader, reader.timestamps + self.first_frame_at)


def one_pass(
    video: OpenVideo,
    streams: Sequence[Stream],
    prompts: Sequence[str],
    options: Sequence[tuple[str, ...]] = (),
    *,
    script_frames: bool = False,
) -> tuple[VideoTask, set[str]]:
    """Questions about one video as our evaluation modes take them, and the ids of those that are not to be asked.

    Args:
        video: the streams' video, opened.
        streams: one a question; they differ in their ends only. The questions' ids are `0`, `1`, ...
        options: the possible answers of each question, where the likeliest is looked for.
        script_frames: a frame is known by the end of its display, as in the published scripts.

    Moments without a question this time stay in, so that frames are always shown in the same batches.
    """
    last = float(known_times(video)[-1] if script_frames else video.timestamps[-1])
    clip_end = np.inf if streams[0].clip_end is None else streams[0].clip_end
    last = min(last, clip_end)
    ends = [last if stream.end is None else stream.end for stream in streams]
    choices = options or [()] * len(prompts)
    asked = [_question(str(number), *words) for number, words in enumerate(zip(ends, prompts, choices, strict=True))]
    others = [_question(f"at {moment}", moment, "?", ()) for moment in set(streams[0].moments) - set(ends)]
    path = streams[0].path
    task = VideoTask(path, path, (path,), (*asked, *others), start=streams[0].start, clip_end=clip_end)
    return task, {question.id for question in others}


def _question(name: str, moment: float, prompt: str, labels: tuple[str, ...]) -> Question:
    """A question whose answer is judged elsewhere."""
    return Question(name, moment, prompt, answer="", task="", category="", source="", kind="count", labels=labels)


@dataclass
class Clip:
    """Frames of a video in the order of time."""

    frames: list[Image.Image] = field(default_factory=list)
    """RGB."""
    timestamps: list[float] = field(default_factory=list)
    """Seconds on the clock of the question, one a frame."""


def load_video(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    fps: float = 2.0,
    window: float | None = 32.0,
    max_frames: int | None = 64,
) -> Clip:
    """The frames before a question. The defaults are OVBench's published sliding window.

    Args:
        source: what `doc_to_visual` gave your model, or the path of a video file or a folder of frames.
        fps: frames per second.
        window: seconds before the question; None: from the start of the video.
        max_frames: more are thinned evenly; None: no bound.

    MediaError (a ValueError) says what is wrong with the video, by name.
    """
    stream = Stream.of(source)
    video = stream.open()
    with video.reader:
        recorder, settings = _Recorder(), Settings(fps, window, max_frames)
        task, unasked = one_pass(video, [stream], ["?"])
        for _, outcome in Examiner(recorder, "sliding_window", settings).examine(task, video, unasked):
            if isinstance(outcome, MediaError):
                raise outcome
    return recorder.clip


class _Recorder:
    """In the place of a model: keeps what it is shown and has nothing to say."""

    def __init__(self) -> None:
        self.clip = Clip()

    def open(self, system_prompt: str | None) -> _Recorder:
        return self

    def see(self, frames: Sequence[np.ndarray], timestamps: Sequence[float]) -> None:
        self.clip.frames += [Image.fromarray(frame) for frame in frames]
        self.clip.timestamps += list(timestamps)

    def ask(self, prompt: str, *, max_new_tokens: int, keep: bool) -> str:
        return ""

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        return [0.0] * len(options)
