"""A dialogue as a file: json with everything, srt to lay over the video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .track import Moment

LEAST_SECONDS, SECONDS_A_CHARACTER = 2.0, 0.06


def dialogue_json(moments: Sequence[Moment], about: dict[str, Any]) -> str:
    """`about`: what was watched, by which model."""
    turns = [asdict(moment) for moment in moments]
    return json.dumps({**about, "dialogue": turns}, ensure_ascii=False, indent=1)


def dialogue_srt(moments: Sequence[Moment]) -> str:
    """Each question with its answer from the second it was asked, until the next one or as long as reading takes."""
    cues, end = [], 0.0
    for number, moment in enumerate(moments, start=1):
        text = "\n".join(line for line in f"{moment.question}\n{moment.answer}".splitlines() if line.strip())
        start = max(moment.timestamp, end)
        end = start + max(LEAST_SECONDS, SECONDS_A_CHARACTER * len(text))
        if number < len(moments) and moments[number].timestamp > start:
            end = min(end, moments[number].timestamp)
        cues.append(f"{number}\n{srt_time(start)} --> {srt_time(end)}\n{text}\n")
    return "\n".join(cues)


def srt_time(seconds: float) -> str:
    """
    >>> srt_time(3725.5)
    '01:02:05,500'
    """
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
