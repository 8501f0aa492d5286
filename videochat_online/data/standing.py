"""Rows with standing instructions: what is to be told of a video, and at which moments it should have been.

{"video", "kind"?, "things"?,
 "standing": {"text", "question"?, "expect"?, "from"?, "events": [{"start", "time", "say"?}, ...]}}
Seconds of the video; `start` is the onset, from which on one could tell, `time` is when it is certain.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ..files import read_json

EXPECTED = "a list of rows with `video` and `standing` (text, events with start and time)"


@dataclass(frozen=True)
class StandingRow:
    """One instruction about one video."""

    video: str
    text: str
    moments: tuple[tuple[float, float], ...]
    """(onset, certain), in order of time."""
    question: str | None = None
    expect: str = "Yes"
    begin: float = 0.0
    """The instruction is given there."""
    kind: str = "all"
    things: int | None = None

    @classmethod
    def of(cls, row: Any, where: str) -> StandingRow:
        """Raises ValueError that names the row."""
        try:
            about = row["standing"]
            moments = sorted((float(each["start"]), float(each["time"])) for each in about["events"])
            found = cls(
                str(row["video"]),
                about["text"],
                tuple(moments),
                about.get("question"),
                about.get("expect", "Yes"),
                float(about.get("from", 0.0)),
                str(row.get("kind", "all")),
                row.get("things"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} cannot be read ({type(error).__name__}: {error}); expected {EXPECTED}") from None
        if not (isinstance(found.text, str) and found.text.strip()) or found.expect not in ("Yes", "No"):
            raise ValueError(
                f"{where}: `text` is not empty and `expect` is Yes or No, got {found.text!r:.60}, {found.expect!r:.20}"
            )
        if any(not (isfinite(time) and found.begin <= start <= time) for start, time in moments):
            raise ValueError(f"{where}: an event's seconds are from <= start <= time, got {moments}")
        return found


def read_standing_rows(path: Path) -> list[StandingRow]:
    """Rows of a JSON file, those of a video together. Raises ValueError."""
    rows = [StandingRow.of(row, f"{path}, row {number}") for number, row in enumerate(read_json(path, list, EXPECTED))]
    if not rows:
        raise ValueError(f"{path} holds no rows; expected {EXPECTED}")
    return sorted(rows, key=lambda row: row.video)
