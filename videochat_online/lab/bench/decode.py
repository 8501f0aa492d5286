"""`bench decode`: reading clips as training does (frames spread over the clip, one thread), through each decoder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...extras import lacks
from ...files import SHIPPED_MODELS
from ...media.readers import Decoder, open_video
from ...media.sampling import sample_uniform
from .measure import Tables, alternate

NUM_FRAMES = 16
"""Of a clip: one in 20 to 30 of ten seconds."""
SHIPPED_CLIP = SHIPPED_MODELS["pocket"] / "sample.mp4"


def measure(options: argparse.Namespace) -> Tables:
    rows = bench_decode(options.clips or [SHIPPED_CLIP], repeats=options.repeats)
    return {"milliseconds to read a clip": rows}


def bench_decode(clips: Sequence[Path], *, repeats: int) -> list[dict[str, Any]]:
    """A row for each clip: milliseconds to open it, to read frames spread over it, and to read every frame.

    Opening walks the packets, whatever decodes; it is part of the other times. Without decord there is no ratio.
    """
    if problem := lacks("decord"):
        print(f"only PyAV is measured: {problem}", file=sys.stderr)
    return [row for clip in clips for row in _rows(clip, repeats=repeats, has_decord=not problem)]


def _rows(clip: Path, *, repeats: int, has_decord: bool) -> list[dict[str, Any]]:
    decoders: tuple[Decoder, ...] = ("pyav", "decord") if has_decord else ("pyav",)
    with open_video(clip) as video:
        num_frames, size = len(video), video.size
    choices = {f"{NUM_FRAMES} spread": sample_uniform(num_frames, NUM_FRAMES), "every": list(range(num_frames))}
    rows = []
    for what, indices in choices.items():
        runs: dict[str, Callable[[], object]] = {name: partial(_read, clip, name, indices) for name in decoders}
        seconds = alternate({"open": partial(_read, clip, "pyav", []), **runs}, repeats=repeats)
        milliseconds = {name: seconds.get(name, float("nan")) * 1e3 for name in ("open", "pyav", "decord")}
        rows.append(
            {
                "clip": f"{clip.name} {size[0]}x{size[1]}",
                "frames": f"{what} of {num_frames}",
                **{f"{name} ms": value for name, value in milliseconds.items()},
                "decord/pyav": milliseconds["decord"] / milliseconds["pyav"] if has_decord else None,
            }
        )
    return rows


def _read(clip: Path, decoder: Decoder, indices: Sequence[int]) -> None:
    with open_video(clip, decoder=decoder, num_threads=1) as video:
        for _ in video.read(indices):
            pass
