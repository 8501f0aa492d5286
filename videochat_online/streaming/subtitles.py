"""Texts with their seconds as subtitles (SubRip). Knows nothing of who says them."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_SECONDS, SECONDS_A_CHARACTER = 2.0, 0.06
"""How long a subtitle stands."""


def srt_of(cues: Sequence[tuple[float, str]]) -> str:
    """Subtitles of (seconds, text) in order of time: each until the next one, or as long as reading it takes."""
    written, end = [], 0.0
    for number, (seconds, words) in enumerate(cues, start=1):
        text = "\n".join(line for line in words.splitlines() if line.strip())
        start = max(seconds, end)
        end = start + max(LEAST_SECONDS, SECONDS_A_CHARACTER * len(text))
        if number < len(cues) and cues[number][0] > start:
            end = min(end, cues[number][0])
        written.append(f"{number}\n{srt_time(start)} --> {srt_time(end)}\n{text}\n")
    return "\n".join(written)


def srt_time(seconds: float) -> str:
    """
    >>> srt_time(3725.5)
    '01:02:05,500'
    """
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
