"""`bench eval`: what scoring a benchmark costs in each mode, on a small ShapeWorld in OVBench's layout.

The straightforward counterpart of one pass (`streaming`) is `prefix`: the stream up to each question encoded again. The
floor is reading, transforming and encoding the one pass's frames, without memory and questions.

The second table says how much of one pass are the models' own forwards, at two densities of questions: the encoder's on
the very frames of the pass, decoded and transformed before, in batches of 16; the language model's in a run that does
nothing ahead. In wall time work that goes on side by side counts once, so that both may be more than the whole; of the
processor's time (all threads) the rest is what the models do not need.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from ...evaluation.benchmarks import OVBench, Settings
from ...evaluation.modes import Examiner, ModeName
from ...evaluation.questions import Reply, VideoTask
from ...evaluation.responders import SessionConversation, SessionResponder, memory_of_all
from ...evaluation.videos import OpenVideo, open_task_video
from ...media.find import VideoLibrary
from ...media.readers import Decoder
from ...media.sampling import sample_pass
from ...model.videochat import VideoChatOnline
from ...processing import Processor, load_model
from ...streaming.encoding import FrameEncoder
from ..shapeworld.build import WorldConfig, build_world
from .measure import Tables

WORLD = WorldConfig(videos=2, seed=0, split="test", seconds=(30.0,), level=(2,), fps=4, size=64)
FPS = 2.0
FRAMES = 64
"""Of a window, as published."""
SPARSE = replace(WORLD, seconds=(60.0,), fps=8)
"""Asked twice a video: a question for 240 frames. OVBench's streams have 248 at their 8 frames a second."""


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        return {
            "a small benchmark": bench_eval(model, processor, Path(folder) / "world", decoder=options.decoder),
            "of it the models": bench_models(model, processor, Path(folder), options.repeats, decoder=options.decoder),
        }


def bench_eval(
    model: VideoChatOnline, processor: Processor, folder: Path, *, decoder: Decoder = "pyav"
) -> list[dict[str, Any]]:
    """A row for each mode; options are scored by likelihood."""
    build_world(folder, WORLD, progress=False)
    benchmark, library = OVBench(), VideoLibrary(folder / "videos", decoder=decoder)
    tasks = benchmark.load(folder / "ovbench")
    stream = Settings(FPS, answer="likelihood", system_prompt=benchmark.system_prompt)
    window = replace(stream, window=32.0, frames=FRAMES)
    ours = SessionResponder(model, processor)
    every_frame = replace(ours, memory=memory_of_all(FRAMES, model.config.memory_config))
    ways: tuple[tuple[ModeName, SessionResponder, Settings], ...] = (
        ("streaming", ours, stream), ("prefix", ours, stream), ("sliding_window", every_frame, window)
    )  # fmt: skip
    found = {mode: _timed(Examiner(responder, mode, settings), tasks, library) for mode, responder, settings in ways}
    floor = _frames_alone(FrameEncoder(model, processor), tasks, library)
    return [_row(name, *found[name], found["prefix"], found["streaming"], floor) for name in found]


def bench_models(
    model: VideoChatOnline, processor: Processor, folder: Path, repeats: int, *, decoder: Decoder = "pyav"
) -> list[dict[str, Any]]:
    """A row for each density of questions: medians of `repeats` turns."""
    rows = []
    for name, world, fps in (("dense", WORLD, FPS), ("as OVBench", SPARSE, 8.0)):
        build_world(folder / name, world, progress=False)
        benchmark, library = OVBench(), VideoLibrary(folder / name / "videos", decoder=decoder)
        tasks = benchmark.load(folder / name / "ovbench")
        if world is SPARSE:
            tasks = [replace(task, questions=task.questions[len(task.questions) // 2 - 1 :: 8]) for task in tasks]
        settings = Settings(fps, answer="likelihood", system_prompt=benchmark.system_prompt)
        turns = [_shares(model, processor, settings, tasks, library) for _ in range(repeats)]
        costs = {key: median(turn[key] for turn in turns) for key in turns[0]}
        questions, models = costs.pop("questions"), costs["encoder ms"] + costs["language model ms"]
        used = costs["encoder cpu ms"] + costs["language model cpu ms"]
        rows.append(
            {
                "questions": name,
                "frames a question": costs.pop("frames") / questions,
                **{key: value / questions for key, value in costs.items()},
                "encoder/this": costs["encoder ms"] / costs["this ms"],
                "both models/this": models / costs["this ms"],
                "rest of the cpu time": 1 - used / costs["this cpu ms"],
            }
        )
    return rows


def _shares(
    model: VideoChatOnline, processor: Processor, settings: Settings, tasks: Sequence[VideoTask], library: VideoLibrary
) -> dict[str, float]:
    """Milliseconds of one pass, and of the models' forwards alone: on the clock, and of all the processor's cores."""
    clock, late = _Clock(), SessionResponder(model, processor)
    examiner = Examiner(late, "streaming", settings)
    # 1. the run itself
    with clock.counted("this"):
        _, replies = _timed(examiner, tasks, library)
    # 2. the encoder on the same frames, as pixels in memory
    encoder = FrameEncoder(model, processor)
    for task in tasks:
        with (opened := open_task_video(task, library)).reader as video:
            pixels = encoder.prepare([frame.image for frame in video.read(_pass(settings.fps, task, opened))])
        with clock.counted("encoder"):
            for batch in pixels.split(16):
                encoder.encode(batch)
    # 3. the language model, while nothing else runs
    before = model.register_forward_pre_hook(lambda *_: clock.start())
    behind = model.register_forward_hook(lambda *_: clock.stop("language model"))
    _timed(replace(examiner, responder=_Late(late)), tasks, library)
    before.remove()
    behind.remove()
    frames = sum(reply.new_frames for reply in replies.values())
    return {"frames": frames, "questions": len(replies), **clock.spent}


@dataclass
class _Late:
    """A model that makes nothing ready ahead."""

    base: SessionResponder

    def open(self, system_prompt: str | None) -> SessionConversation:
        return self.base.open(system_prompt)


class _Clock:
    """Milliseconds on the clock and of all cores, by what they were spent for."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self, name: str) -> None:
        self.spent[f"{name} ms"] += (time.perf_counter() - self._began[0]) * 1e3
        self.spent[f"{name} cpu ms"] += (time.process_time() - self._began[1]) * 1e3

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        self.start()
        yield
        self.stop(name)


def _timed(examiner: Examiner, tasks: Sequence[VideoTask], library: VideoLibrary) -> tuple[float, dict[str, Reply]]:
    """Seconds, and each question's reply."""
    replies: dict[str, Reply] = {}
    started = time.perf_counter()
    for task in tasks:
        with (opened := open_task_video(task, library)).reader:
            for question, outcome in examiner.examine(task, opened):
                assert isinstance(outcome, Reply), f"a video that was just made cannot be read: {outcome}"
                replies[question.id] = outcome
    return time.perf_counter() - started, replies


def _frames_alone(encoder: FrameEncoder, tasks: Sequence[VideoTask], library: VideoLibrary) -> float:
    """Seconds to read, transform and encode what one pass shows."""
    started = time.perf_counter()
    for task in tasks:
        with (opened := open_task_video(task, library)).reader as video:
            frames = video.read(_pass(FPS, task, opened))
            while batch := list(islice(frames, 16)):
                encoder.encode(encoder.prepare([frame.image for frame in batch]))
    return time.perf_counter() - started


def _pass(fps: float, task: VideoTask, video: OpenVideo) -> list[int]:
    """The frames of one pass."""
    end = max(question.timestamp for question in task.questions)
    return sample_pass(video.timestamps, fps, task.start, end, video_fps=video.reader.fps)


def _row(
    name: str,
    seconds: float,
    replies: dict[str, Reply],
    prefix: tuple[float, dict[str, Reply]],
    streaming: tuple[float, dict[str, Reply]],
    floor: float,
) -> dict[str, Any]:
    same = sum(reply.text == streaming[1][key].text for key, reply in replies.items())
    return {
        "mode": name,
        "questions": len(replies),
        "frames encoded": sum(reply.new_frames for reply in replies.values()),
        "ms a question": seconds / len(replies) * 1e3,
        "of it frames ms": sum(reply.frame_seconds for reply in replies.values()) / len(replies) * 1e3,
        "frames alone ms": floor / len(replies) * 1e3,
        "answers as in streaming": same,
        "prefix/this": prefix[0] / seconds,
        "this/frames alone": seconds / floor,
    }
