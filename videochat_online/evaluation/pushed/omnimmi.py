"""OmniMMI proactive alerting (arXiv 2503.22952): whether the first alert lies within the annotated span.

Beside that, as its authors do: the share of alerts within, and how the span from first to last alert overlaps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ...streaming.reading import StandingRow
from ..benchmarks.base import text_of
from .base import Figures, Pushed, Said, finite, span_of, yes_or_no

ASKS = re.compile(
    r"^(\w+ (me |us )?(know |out )?(when|whenever|if|as soon as|once)"
    r"|\w+ (me |us )?(of |about )?(the )?(moment|part|scene|time|segment|instance)s?( (in|of) the video)?"
    r"( when| where| that| in which)?( in the video)?,?( when| where)?) ",
    re.IGNORECASE,
)
"""How its instructions begin; the event follows."""
CUT = re.compile(r"_([\d.]+)_([\d.]+)\.\w+$")
"""A video's name ends in the seconds between which it was cut from a longer one."""


class OmniMMI(Pushed):
    name = "omnimmi"
    title = "OmniMMI proactive alerting"
    layout = "proactive_alerting.json"
    tasks: ClassVar = ("first alert right",)

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        text, video = text_of(record, "question"), text_of(record, "video")
        start, end = span_of(record["answer"])
        cut = CUT.search(video)
        until = finite(cut[2]) - finite(cut[1]) if cut else float("inf")
        event = text.rstrip("?.! ")
        event = event[found.end() :] if (found := ASKS.match(event)) else event
        names = (f"videos/{video}", video)
        question = yes_or_no(f"Is this seen now: {event}")
        return [StandingRow(video, text, ((start, end),), question, until=until, names=names)]

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        first, precision, overlap = [], [], []
        for row, times in zip(rows, said, strict=True):
            (start, end), *_ = row.moments
            within = [start <= time <= end for time in times]
            first.append(float(within[:1] == [True]))
            precision.append(fmean(within or [0]))
            begin, last = (times[0], times[-1]) if times else (0.0, 0.0)
            union = max(last, end) - min(begin, start)
            overlap.append(max(0.0, min(last, end) - max(begin, start)) / union if times and union > 0 else 0.0)
        return {"first alert right": fmean(first), "precision": fmean(precision), "overlap": fmean(overlap)}
