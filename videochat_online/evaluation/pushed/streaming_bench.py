"""StreamingBench's proactive questions (arXiv 2411.03628), pushed: the model is not told what it would have to say.

Polled: the authors' poll is what is read out each second, and it does tell. A row is right where the first word comes
within 2 s of the annotated moment and holds the words that were asked for; in time where it only comes then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any, ClassVar

from ...streaming.reading import StandingRow
from ...streaming.standing import as_question
from ..benchmarks.base import text_of
from ..benchmarks.streaming_bench import (
    POLL_QUESTION,
    POLL_SECONDS_AFTER,
    PROACTIVE_PROMPT,
    TIME_TOLERANCE,
    places_of,
    seconds,
)
from .base import Figures, Judge, Pushed, Said, Words

WHEN = re.compile(r"^when (.*?),? output\b.*$", re.IGNORECASE | re.DOTALL)


class StreamingBenchPushed(Pushed):
    name = "streamingbench-pushed"
    title = "StreamingBench proactive, pushed"
    layout = "questions_proactive.json"
    tasks: ClassVar = ("in time",)
    needs_words = True

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        video = PurePosixPath(text_of(record, "video_path"))
        rows = []
        for one in record["questions"]:
            begin, due = seconds(one["time_stamp"]), seconds(one["ground_truth_time_stamp"])
            text, words = text_of(one, "question"), text_of(one, "ground_truth_output")
            moment = max(begin, due - TIME_TOLERANCE), max(begin, due)
            rows.append(
                StandingRow(
                    video.name, text, (moment,), self.question(text, words), begin=begin,
                    until=max(begin, due + POLL_SECONDS_AFTER), names=places_of(video, "proactive"),
                    item={"due": due, "words": words},
                )
            )  # fmt: skip
        return rows

    def question(self, text: str, words: str) -> str:
        """What is read out."""
        return as_question(f"Tell me when {found[1]}" if (found := WHEN.match(text.strip())) else text)

    def words_prompt(self, row: StandingRow) -> str:
        return PROACTIVE_PROMPT.format(row.text)

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        return {"in time": fmean(self._in_time(rows, said))}

    def score_words(self, rows: Sequence[StandingRow], said: Said, words: Words, judge: Judge | None) -> Figures:
        in_time = self._in_time(rows, said)
        held = zip(in_time, rows, words, strict=True)
        return {"right words in time": fmean(one and row.item["words"] in text[0] for one, row, text in held)}

    @staticmethod
    def _in_time(rows: Sequence[StandingRow], said: Said) -> list[bool]:
        pairs = zip(rows, said, strict=True)
        return [bool(times) and abs(times[0] - row.item["due"]) <= TIME_TOLERANCE for row, times in pairs]


class StreamingBenchPolled(StreamingBenchPushed):
    name = "streamingbench-polled"
    title = "StreamingBench proactive, polled"

    def question(self, text: str, words: str) -> str:
        return POLL_QUESTION.format(text, words)
