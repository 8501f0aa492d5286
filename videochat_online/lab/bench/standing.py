"""`bench standing`: what standing instructions cost after each frame, beside the prefill that runs without them, too.

Sessions with 0, 1, 4 and 16 instructions watch the same random pictures in turn, their memories full. Nothing fires.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import median

import numpy as np

from ...processing import load_model
from ...streaming.session import StreamingSession
from .measure import Tables

NUMBERS = (0, 1, 4, 16)
WARM_FRAMES = 24


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    sessions = {number: StreamingSession(model, processor) for number in NUMBERS}
    for number, session in sessions.items():
        session.is_tended = True  # read out below, not by `see`
        for k in range(number):
            session.watch_for(f"Tell me when object {k + 1} moves to the left.", threshold=1 - 1e-9)
    rng, found = np.random.default_rng(0), defaultdict(list)
    for k in range(WARM_FRAMES + 3 * options.repeats):
        picture = rng.integers(0, 256, (96, 96, 3), np.uint8)
        for number, session in sessions.items():
            session.see(picture, float(k))
            started = time.perf_counter()
            prefilled = session.prefill() or 0
            between = time.perf_counter()
            read = session.read_standing() or 0
            if k >= WARM_FRAMES:
                found[number].append((prefilled, between - started, read, time.perf_counter() - between))
    rows = []
    for number, measured in found.items():
        prefilled, first, read, second = (median(column) for column in zip(*measured, strict=True))
        each = {"positions each": round(read / number, 1) if number else 0}
        prefill = {"prefill positions": prefilled, "prefill ms": round(1000 * first, 1)}
        more = {"readout positions": read, **each, "readout ms": round(1000 * second, 1)}
        rows.append(
            {"instructions": number, **prefill, **more, "whole prompt": len(sessions[number].prompt("?")[0].ids)}
        )
    return {"after each frame (medians)": rows}
