"""`videochat-online gate turns`: rows with standing instructions as timed questions that the ordinary trainer takes.

Each decision is a row of its own, a question with the answer Yes or No at one second, as it is read out when it counts.
Balanced by choosing: two seconds of each moment, two near misses, one quiet second; and what was to be said, if told.
"""

from __future__ import annotations

import argparse
from collections import Counter
from math import ceil, inf, isfinite
from typing import Any

import numpy as np

from ..files import write_json
from ..media.find import VideoLibrary
from ..media.readers import open_video
from ..streaming.reading import StandingRow, read_standing_rows
from ..streaming.standing import as_question
from .gate import targets

NEAR_SECONDS = 5.0
"""From a moment within which a quiet second is a near miss."""
NUM_NEAR, NUM_QUIET = 2, 1
"""Of each moment, beside the NOW_FRAMES seconds of the moment itself."""
BEHIND = 10.0
"""Seconds behind the last moment that are still known to be quiet."""
LONGEST = 7 * 24 * 3600.0
"""Seconds of a video, at most: each of them is looked at."""


def decisions(row: StandingRow, rng: np.random.Generator, end: float = inf) -> list[tuple[str, float, str, str]]:
    """(now, near, quiet or say; second; question; answer) of one row, before the `end` of its video in seconds.

    ValueError for a moment beyond LONGEST.
    """
    last = max([row.begin, *(time for _, time in row.moments)]) + BEHIND
    if not (isfinite(row.begin) and last <= LONGEST):
        raise ValueError(f"{row.video}, {row.text!r:.60}: {last:g} s is no second of a video of {LONGEST:g} s at most")
    times = np.arange(ceil(row.begin), min(row.until, last, end) + 1e-6).tolist()
    wanted = dict(zip(times, targets(row.moments, times, row.begin), strict=True))
    far = {t: min((abs(t - edge) for m in row.moments for edge in m), default=last) for t in times}
    groups = {
        "now": [t for t in times if wanted[t] == 1],
        "near": [t for t in times if wanted[t] == 0 and far[t] <= NEAR_SECONDS],
        "quiet": [t for t in times if wanted[t] == 0 and far[t] > NEAR_SECONDS],
    }
    number = max(1, len(row.moments))
    most = {"now": len(times), "near": NUM_NEAR * number, "quiet": NUM_QUIET * number}
    other = "No" if row.expect == "Yes" else "Yes"
    asked, found = row.question or as_question(row.text), []
    for name, seconds in groups.items():
        chosen = rng.permutation(seconds)[: most[name]].tolist()
        found += [(name, t, asked, row.expect if name == "now" else other) for t in sorted(chosen)]
    said = [(one["time"], one.get("say")) for one in row.item.get("events", ()) if one["time"] <= end]
    return found + [("say", float(t), row.text, text) for t, text in said if text and text not in ("Yes", "No")]


def run_gate_turns(options: argparse.Namespace) -> int:
    """Raises ValueError for rows that cannot be used, MediaError for a video that is not there."""
    library = VideoLibrary(options.videos) if options.videos else None
    ends: dict[str, float] = {}
    rng, counts = np.random.default_rng(options.seed), Counter[str]()
    written: list[dict[str, Any]] = []
    for row in read_standing_rows(options.rows):
        if library and row.video not in ends:
            with open_video(library.find([row.video])) as video:
                ends[row.video] = video.duration
        for name, second, question, answer in decisions(row, rng, ends.get(row.video, inf)):
            counts[name] += 1
            asked = {"from": "human", "value": f"<video>\n{question}", "timestamps": second}
            written.append({"video": row.video, "conversations": [asked, {"from": "gpt", "value": answer}]})
    write_json(options.output, written)
    print(f"{options.output}: {len(written)} rows, " + ", ".join(f"{counts[name]} {name}" for name in counts))
    return 0
