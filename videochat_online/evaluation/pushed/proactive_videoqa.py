"""ProactiveVideoQA (arXiv 2507.09313): replies within the span of each answer, judged by a model; sooner is better.

PAUC of an answer: the area below the steps of what the judge gives to all replies so far (1 to 3 becomes 0 to 2), which
begin at 0.5, over its span; times are multiplied by 1 - omega. No reply is worth 0.25. Words outside spans cost
nothing, so levels are chosen by F1 of the spans.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ...streaming.reading import StandingRow
from ..benchmarks.base import text_of
from .base import Figures, Judge, Pushed, Said, Words, span_of, yes_or_no

OMEGAS = (0.0, 0.5, 1.0)
BEGIN, MOST = 0.5, 2
"""What an answer is worth before any reply, and at most."""
INSTRUCTION = (
    "You grade a video question answering system. Say how far the predicted answer covers the key points of the ground "
    "truth answer:\n- 3: mostly, with minor inaccuracies or other words;\n- 2: partly, with significant errors or "
    "missing key points;\n- 1: not; most is missing, or it does not answer the question.\nGive the number only."
)


class ProactiveVideoQA(Pushed):
    name = "proactivevideoqa"
    title = "ProactiveVideoQA"
    layout = "*/anno.json"
    tasks: ClassVar = ("F1 of spans",)
    needs_words = True

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """One of each record, with its first question."""
        text, video = text_of(record["conversation"][0], "content"), text_of(record, "video")
        part = path.parent.name
        answers = [_checked(one) for one in record["answer"]]
        if not (spans := sorted(one["reply_timespan"] for one in answers)):
            raise ValueError("it has no answer")
        question = yes_or_no(f'Is there something to say now about "{text.rstrip("?.! ")}"')
        return [
            StandingRow(
                f"{part}/{video}", text, tuple(spans), question, kind=part, until=max(end for _, end in spans),
                names=(f"{part}/videos/{video}", f"{part}/{video}", video), item={**record, "answer": answers},
            )
        ]  # fmt: skip

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        spans = hit = right = words = 0
        for row, times in zip(rows, said, strict=True):
            spans, words = spans + len(row.moments), words + len(times)
            hit += sum(any(start <= time <= end for time in times) for start, end in row.moments)
            right += sum(any(start <= time <= end for start, end in row.moments) for time in times)
        recall, precision = hit / max(spans, 1), right / max(words, 1)
        return {"F1 of spans": 2 * recall * precision / (recall + precision) if hit else 0.0, "recall of spans": recall}

    def score_words(self, rows: Sequence[StandingRow], said: Said, words: Words, judge: Judge | None) -> Figures:
        areas: dict[float, dict[str, list[float]]] = {omega: defaultdict(list) for omega in OMEGAS}
        if judge is None:
            return {}
        for row, times, texts in zip(rows, said, words, strict=True):
            for answer in row.item["answer"]:
                worth = judged_replies(text_of(row.item["conversation"][0], "content"), answer, times, texts, judge)
                for omega, parts in areas.items():
                    parts[row.kind].append(area(worth, answer["reply_timespan"], omega))
        return {f"PAUC, omega {omega:g}": fmean(map(fmean, parts.values())) for omega, parts in areas.items()}


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with its text and numbers as they are used."""
    spans = {name: span_of(answer[name]) for name in ("reply_timespan", "related_timespan") if name in answer}
    return {"reply_timespan": answer["reply_timespan"], **spans, "content": text_of(answer, "content")}


def judged_replies(
    question: str, answer: Mapping[str, Any], times: Sequence[float], texts: Sequence[str], judge: Judge
) -> dict[float, int]:
    """What all distinct replies within an answer's span are worth from second to second, 0 to MOST."""
    start, end = answer["reply_timespan"]
    known: list[str] = []
    worth: dict[float, int] = {}
    for time, text in zip(times, texts, strict=True):
        if not start <= time <= end or text in known or not text.strip():
            continue
        known.append(text)
        asked = f"Question: {question}\nGround Truth Answer: {answer['content']}\nPredicted Answer: {' '.join(known)}"
        reply = judge([{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": asked}])
        if found := re.match(r"[123]", reply.strip()):
            worth[time] = int(found[0]) - 1
    # what comes after the moment itself and is worth less than what was said by then does not count
    related = answer.get("related_timespan", answer["reply_timespan"])[1]
    by_then = [score for time, score in worth.items() if time <= related]
    floor = by_then[-1] if by_then else 0
    return {time: score for time, score in worth.items() if time <= related or score >= floor}


def area(worth: Mapping[float, int], span: Sequence[float], omega: float) -> float:
    """PAUC of one answer."""
    length = span[1] - span[0]
    if not worth:
        return BEGIN / MOST
    steps = [((time - span[0]) * (1 - omega), float(score)) for time, score in sorted(worth.items())]
    before, level, found = 0.0, BEGIN, 0.0
    for x, score in (*steps, (length, 0.0)):
        found, before, level = found + (x - before) * level, x, score
    return found / (length * MOST) if length > 0 else 0.0
