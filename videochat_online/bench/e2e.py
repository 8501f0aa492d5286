"""`bench e2e`: a ten-minute stream with twenty questions, in one pass and by encoding again at each question."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from ..streaming.session import StreamingSession

QUESTION = "What is happening now?"


def bench_e2e(
    make: Callable[..., StreamingSession], *, seconds: float = 600.0, fps: float = 2.0, num_questions: int = 20
) -> list[dict[str, Any]]:
    """Wall seconds of both ways; answers must be equal. `make(reuse_cache=...)` gives a new session."""
    num_frames = int(seconds * fps)
    pictures = list(np.random.default_rng(0).integers(0, 255, (32, 120, 160, 3), dtype=np.uint8))
    moments = [num_frames * (k + 1) // num_questions for k in range(num_questions)]

    def show(session: StreamingSession, first: int, after: int) -> None:
        session.see_many([pictures[k % 32] for k in range(first, after)], [k / fps for k in range(first, after)])

    session, latencies, ours = make(reuse_cache=True), [], []
    started, shown = time.perf_counter(), 0
    for moment in moments:
        show(session, shown, moment)
        shown = moment
        session.prefill()  # nobody has asked yet
        asked = time.perf_counter()
        ours.append(session.ask(QUESTION, max_new_tokens=8, keep=False))
        latencies.append(time.perf_counter() - asked)
    one_pass = time.perf_counter() - started

    started, theirs, cold_latencies = time.perf_counter(), [], []
    for moment in moments:
        asked = time.perf_counter()
        again = make(reuse_cache=False)
        show(again, 0, moment)
        theirs.append(again.ask(QUESTION, max_new_tokens=8, keep=False))
        cold_latencies.append(time.perf_counter() - asked)
    reencoding = time.perf_counter() - started
    if ours != theirs:
        raise AssertionError(f"one pass and re-encoding answer differently: {ours} and {theirs}")
    quarter = num_questions // 4
    return [
        {
            "way": name,
            "frames": num_frames,
            "questions": num_questions,
            "frames encoded": encoded,
            "total s": total,
            "first quarter ms a question": median(times[:quarter]) * 1e3,
            "last quarter ms a question": median(times[-quarter:]) * 1e3,
            "re-encoding/this": reencoding / total,
        }
        for name, encoded, total, times in (
            ("one pass, KV reuse", num_frames, one_pass, latencies),
            ("re-encoding", sum(moments), reencoding, cold_latencies),
        )
    ]
