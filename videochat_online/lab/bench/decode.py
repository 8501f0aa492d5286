"""`bench decode`: reading clips against the decoder alone, and against decord: every frame, some, and in any order.

The decoder alone is PyAV's decoding and the same filters by the shortest loop that can do it: it knows beforehand which
frame lies where, checks nothing and skips nothing. What we add (an index of all frames, checks) and what we save
(frames that nobody asked for and no other frame needs) is in our time, the opening of the file too.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import lacks
from ...files import SHIPPED_MODELS
from ...media.container import open_stream
from ...media.readers import Decoder, open_video
from ...media.sampling import sample_uniform
from ...media.video_index import VideoIndex, index_video
from .measure import Tables, alternate

NUM_FRAMES = 16
"""Of a clip, as a training sample takes them: one in 20 to 30 of ten seconds."""
SHIPPED_CLIP = SHIPPED_MODELS["pocket"] / "sample.mp4"


def measure(options: argparse.Namespace) -> Tables:
    rows = bench_decode(options.clips or [SHIPPED_CLIP], repeats=options.repeats)
    return {"milliseconds to read a clip": rows}


def bench_decode(clips: Sequence[Path], *, repeats: int) -> list[dict[str, Any]]:
    """A row for each clip, number of threads and choice of frames: milliseconds, and our share of the decoder's speed.

    `open` is the walk over the packets alone; it is part of `pyav` and `decord`. Without decord there is no ratio.
    """
    if problem := lacks("decord"):
        print(f"only PyAV is measured: {problem}", file=sys.stderr)
    choices = product(clips, (1, 2))
    return [row for clip, threads in choices for row in _rows(clip, threads, repeats, has_decord=not problem)]


def _rows(clip: Path, threads: int, repeats: int, *, has_decord: bool) -> list[dict[str, Any]]:
    index = index_video(clip, strict=True)  # the decoder alone checks nothing, and would end at the first damage
    num_frames = len(index.timestamps)
    spread = sample_uniform(num_frames, NUM_FRAMES)
    anywhere = random.Random(0).sample(range(num_frames), min(NUM_FRAMES, num_frames))
    rows = []
    for what, indices in {"every": list(range(num_frames)), "spread": spread, "any order": anywhere}.items():
        runs: dict[str, Callable[[], object]] = {
            "open": partial(_read, clip, "pyav", [], threads),
            "alone": partial(_read_alone, index, indices, threads),
            "pyav": partial(_read, clip, "pyav", indices, threads),
        }
        if has_decord:
            runs["decord"] = partial(_read, clip, "decord", indices, threads)
        seconds = alternate(runs, repeats=repeats)
        rows.append(
            {
                "clip": f"{clip.name} {index.size[0]}x{index.size[1]}",
                "threads": threads,
                "frames": f"{what}: {len(indices)} of {num_frames}",
                **{f"{name} ms": seconds[name] * 1e3 if name in seconds else None for name in (*runs, "decord")},
                "alone/pyav": seconds["alone"] / seconds["pyav"],
                "decord/pyav": seconds["decord"] / seconds["pyav"] if has_decord else None,
            }
        )
    return rows


def _read(clip: Path, decoder: Decoder, indices: Sequence[int], threads: int) -> None:
    with open_video(clip, decoder=decoder, num_threads=threads) as video:
        for _ in video.read(indices):
            pass


def _read_alone(index: VideoIndex, indices: Sequence[int], threads: int) -> None:
    """The frames `indices` of a file whose frames have times, by PyAV: a seek where a keyframe is nearer, no checks."""
    from av.filter import Graph

    keyframes, ticks = index.times.keyframes, index.times.ticks
    before = keyframes[np.searchsorted(keyframes, indices, side="right") - 1]
    container, stream = open_stream(index.path, num_threads=threads)
    with container:
        graph = Graph()
        nodes = [graph.add("scale", f"{index.size[0]}:{index.size[1]}:flags=bilinear"), graph.add("format", "rgb24")]
        graph.link_nodes(graph.add_buffer(template=stream), *nodes, graph.add("buffersink")).configure()
        frames, position = container.decode(stream), 0
        for number, keyframe in zip(indices, before, strict=True):
            if not keyframe <= position <= number:
                container.seek(int(ticks[keyframe]), stream=stream)
                frames = container.decode(stream)
            graph.vpush(next(frame for frame in frames if frame.pts == ticks[number]))
            graph.vpull().to_ndarray()
            position = number + 1
