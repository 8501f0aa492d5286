"""`bench e2e`: a ten-minute stream with twenty questions, in one pass and by encoding again at each question.

The floor is the encoder's forward alone over every frame once, without decoding, transform, memory and answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from ...processing import load_model
from ...streaming.session import StreamingSession
from .measure import Tables, seconds_per_call

QUESTION = "What is happening now?"
PICTURES = 32
"""Different frames; the stream repeats them."""


@dataclass
class WatchingWay:
    """One way to watch a stream and answer, and what it cost."""

    name: str
    frames_encoded: int = 0
    total: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds from each question to its whole answer."""
    answers: list[str] = field(default_factory=list)


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    return bench_e2e(lambda **more: StreamingSession(model, processor, **more), seconds=options.seconds)


def bench_e2e(
    make: Callable[..., StreamingSession],
    *,
    seconds: float = 600.0,
    fps: float = 2.0,
    num_questions: int = 20,
    must_agree: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Wall seconds of both ways; answers must be equal if `must_agree`. `make(reuse_cache=...)` gives a new session."""
    num_frames = int(seconds * fps)
    pictures = list(np.random.default_rng(0).integers(0, 255, (PICTURES, 120, 160, 3), dtype=np.uint8))
    moments = [num_frames * (k + 1) // num_questions for k in range(num_questions)]

    def show(session: StreamingSession, first: int, after: int) -> None:
        shown = [pictures[k % PICTURES] for k in range(first, after)]
        session.see_many(shown, [k / fps for k in range(first, after)])

    ours = _one_pass(make(reuse_cache=True), show, moments)
    theirs = _encoding_again(lambda: make(reuse_cache=False), show, moments)
    if must_agree and ours.answers != theirs.answers:
        raise AssertionError(f"one pass and re-encoding answer differently: {ours.answers} and {theirs.answers}")
    floor = _encoder_alone(make(), pictures) * num_frames
    questions = [
        {"at s": moment / fps, "frames so far": moment, "one pass ms": one * 1e3, "re-encoding ms": other * 1e3}
        for moment, one, other in zip(moments, ours.latencies, theirs.latencies, strict=True)
    ]
    return {
        "a stream with questions": [_row(way, num_frames, theirs.total, floor) for way in (ours, theirs)],
        "each question": questions,
    }


def _one_pass(session: StreamingSession, show: Callable[..., None], moments: list[int]) -> WatchingWay:
    way, started, shown = WatchingWay("one pass, KV reuse", moments[-1]), time.perf_counter(), 0
    for moment in moments:
        show(session, shown, moment)
        shown = moment
        session.prefill()  # nobody has asked yet; its time counts in the total
        asked = time.perf_counter()
        way.answers.append(session.ask(QUESTION, max_new_tokens=8, keep=False))
        way.latencies.append(time.perf_counter() - asked)
    way.total = time.perf_counter() - started
    return way


def _encoding_again(make: Callable[[], StreamingSession], show: Callable[..., None], moments: list[int]) -> WatchingWay:
    """What published code does: at each question a fresh start over all frames so far."""
    way, started = WatchingWay("re-encoding", sum(moments)), time.perf_counter()
    for moment in moments:
        asked = time.perf_counter()
        session = make()
        show(session, 0, moment)
        way.answers.append(session.ask(QUESTION, max_new_tokens=8, keep=False))
        way.latencies.append(time.perf_counter() - asked)
    way.total = time.perf_counter() - started
    return way


@torch.no_grad()
def _encoder_alone(session: StreamingSession, pictures: list[np.ndarray]) -> float:
    """Seconds a frame."""
    pixels = session.encoder.prepare(pictures[: session.encode_batch_size])
    return seconds_per_call(lambda: session.encoder.encode(pixels), repeats=9) / len(pixels)


def _row(way: WatchingWay, num_frames: int, reencoding: float, floor: float) -> dict[str, Any]:
    quarter = max(1, len(way.latencies) // 4)
    first, last = median(way.latencies[:quarter]), median(way.latencies[-quarter:])
    return {
        "way": way.name,
        "frames": num_frames,
        "questions": len(way.latencies),
        "frames encoded": way.frames_encoded,
        "total s": way.total,
        "encoder alone s": floor,
        "first quarter ms a question": first * 1e3,
        "last quarter ms a question": last * 1e3,
        "last/first quarter": last / first,
        "this/encoder alone": way.total / floor,
        "re-encoding/this": reencoding / way.total,
    }
