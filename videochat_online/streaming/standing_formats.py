"""Others' rows with instructions -> our rows with `standing`, by pure functions that copy.

Streamo and JoyAI-VL-Interaction: `question` [{content, time}], `response` [{content, st_time and end_time, or time}].
What their scripts make of these, and others publish: `messages` with a turn a second, whose user turns carry `<4s-5s>`
or `<4.0 seconds>` and whose answers are `</Silence>`, `</Standby>` or `</Response> words`. Times are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import Any

Row = Mapping[str, Any]
SECOND = re.compile(r"<(\d+(?:\.\d+)?)(?:s-(\d+(?:\.\d+)?)s| seconds)>")
STATE = re.compile(r"\s*</(silence|standby|response)>\s*(.*)", re.IGNORECASE | re.DOTALL)
ENOUGH = "Can this question be answered from what is seen by now: {} Answer Yes or No."
MARKS = re.compile(r"<(stream|image|video)>")


def is_foreign(row: Any) -> bool:
    """Whether it is for `own_rows`."""
    return isinstance(row, Mapping) and "standing" not in row and ("response" in row or "messages" in row)


def own_rows(row: Row) -> Iterator[dict[str, Any]]:
    """A row of ours for each instruction; it holds until the next one.

    A text that asks something is decided by whether it can be answered by now. What is missing or of another kind
    raises what it raises (KeyError, TypeError, ValueError), also where a row gives no instruction.
    """
    if "response" in row:
        asked = [(seconds_of(one["time"]), one["content"]) for one in row["question"]]
        told = [_event(one) for one in row["response"]]
    else:
        asked, told = _of_turns(row["messages"])
    if not (asked := sorted((at, text) for at, text in asked if text)):
        raise ValueError("no instruction or question in it")
    for number, (at, text) in enumerate(asked):
        until = asked[number + 1][0] if number + 1 < len(asked) else inf
        events = [{**one, "start": max(at, one["start"])} for one in told if at <= one["time"] < until]
        given = {"text": text, "from": at, "events": events, **({} if until == inf else {"until": until})}
        if text.endswith("?"):
            given["question"] = ENOUGH.format(text)
        videos = row.get("videos") or [None]
        video = row.get("video_path") or (videos if isinstance(videos, str) else videos[0]) or row["video_name"]
        yield {"video": video, "kind": row.get("task_type") or "all", "standing": given}


def seconds_of(value: Any) -> float:
    """Of a number, or a text such as "7", "7.5", "1:07" or "0:01:07". ValueError for what is none."""
    seconds = 0.0
    for part in str(value).split(":"):
        seconds = 60 * seconds + float(part)
    if not isfinite(seconds):
        raise ValueError(f"not a time in seconds: {value!r:.80}")
    return seconds


def _event(one: Row) -> dict[str, Any]:
    """With a span the moment is its end, and one could tell from its start on."""
    is_span = one.get("st_time") not in (None, "") and one.get("end_time") not in (None, "")
    start, end = (seconds_of(one[name]) for name in (("st_time", "end_time") if is_span else ("time", "time")))
    if not isinstance(one["content"], str | None):
        raise ValueError(f"what is said must be a text, got {one['content']!r:.80}")
    return {"start": start, "time": end, "say": one["content"]}


def _of_turns(messages: Sequence[Row]) -> tuple[list[tuple[float, str]], list[dict[str, Any]]]:
    """Instructions with their seconds, and events: the onset is the first of the standbys before the words."""
    asked: list[tuple[float, str]] = []
    told: list[dict[str, Any]] = []
    begin = end = 0.0
    onset: float | None = None
    for turn in messages:
        content = str(turn["content"])
        if turn["role"] == "user":
            if not (found := SECOND.search(content)):
                raise ValueError(f"a turn without its second (<4s-5s> or <4.0 seconds>): {content!r:.80}")
            begin, end = float(found[1]), float(found[2] or found[1])
            if text := MARKS.sub("", SECOND.sub("", content)).strip():
                asked.append((begin, text))
        elif turn["role"] == "assistant":
            if not (state := STATE.fullmatch(content)):
                raise ValueError(f"an answer that is no </Silence>, </Standby> or </Response>: {content!r:.80}")
            kind = state[1].lower()
            if kind == "response":
                told.append({"start": begin if onset is None else onset, "time": end, "say": state[2].strip()})
            onset = (begin if onset is None else onset) if kind == "standby" else None
    return asked, told
