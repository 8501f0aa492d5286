"""`bench standing`: what standing instructions cost after each frame, beside the prefill that runs without them, too.

Sessions with 0, 1, 4 and 16 instructions, decided by likelihood and by the gate where the model has one, watch the same
random pictures in turn, their memories full. Nothing fires.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from statistics import median

import numpy as np

from ...processing import load_model
from ...streaming.gate import Gate, gate_file
from ...streaming.session import StreamingSession
from .measure import Tables

NUMBERS = (0, 1, 4, 16)
WARM_FRAMES = 24


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    path, sessions = gate_file(options.model), {}
    for decides in ("likelihood", "gate")[: 1 + (path is not None)]:
        for number in NUMBERS:
            sessions[number, decides] = session = StreamingSession(model, processor)
            session.is_tended = True  # read out below, not by `see`
            session.scorer = Gate.load(path, model) if path and decides == "gate" else None
            for k in range(number):
                session.watch_for(f"Tell me when object {k + 1} moves to the left.", threshold=1 - 1e-9)
    rng, found = np.random.default_rng(0), defaultdict(list)
    for k in range(WARM_FRAMES + 3 * options.repeats):
        picture = rng.integers(0, 256, (96, 96, 3), np.uint8)
        for key, session in sessions.items():
            moments = [time.perf_counter()]
            session.see(picture, float(k))
            moments.append(time.perf_counter())
            prefilled = session.prefill() or 0
            moments.append(time.perf_counter())
            read = session.read_standing() or 0
            moments.append(time.perf_counter())
            if k >= WARM_FRAMES:
                found[key].append((prefilled, read, *np.diff(moments)))
    rows = []
    for (number, decides), measured in found.items():
        prefilled, read, *seconds = (median(column) for column in zip(*measured, strict=True))
        seeing, prefilling, reading = (round(1000 * each, 1) for each in seconds)
        about = {"instructions": number, "decides": decides, "see ms": seeing}
        prefill = {"prefill positions": prefilled, "prefill ms": prefilling}
        each = {"positions each": round(read / number, 1) if number else 0}
        whole = {"whole prompt": len(sessions[number, decides].prompt("?")[0].ids)}
        rows.append({**about, **prefill, "readout positions": read, **each, "readout ms": reading, **whole})
    return {"after each frame (medians)": rows}
