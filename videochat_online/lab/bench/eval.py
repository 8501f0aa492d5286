"""`bench eval`: what scoring a benchmark costs in each mode, on a small ShapeWorld in OVBench's layout.

The straightforward counterpart of one pass (`streaming`) is `prefix`: the stream up to each question encoded again. The
floor is reading, transforming and encoding the one pass's frames, without memory and questions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ...evaluation.benchmarks import OVBench, Settings
from ...evaluation.modes import Examiner, ModeName
from ...evaluation.questions import Reply, VideoTask
from ...evaluation.responders import SessionResponder, memory_of_all
from ...evaluation.videos import open_task_video
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


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        return {"a small benchmark": bench_eval(model, processor, Path(folder) / "world", decoder=options.decoder)}


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
            end = max(question.timestamp for question in task.questions)
            indices = sample_pass(opened.timestamps, FPS, task.start, end, video_fps=video.fps)
            frames = video.read(indices)
            while batch := list(islice(frames, 16)):
                encoder.encode(encoder.prepare([frame.image for frame in batch]))
    return time.perf_counter() - started


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
