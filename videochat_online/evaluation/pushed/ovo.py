"""OVO-Bench's forward tasks, pushed: OVO-Timing (words in time), and the probes answered from what was said.

OVO-Timing is VideoChat3's and OneStreamer's measure on the rows of OVO-Bench (arXiv 2501.05510): REC an action that
repeats, SSR the steps of a tutorial, CRR a question whose answer comes later. A word counts within 2 s.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ...streaming.moments import HIT_SECONDS
from ...streaming.reading import StandingRow
from ...streaming.standing_formats import ENOUGH
from ..benchmarks.base import text_of
from .base import Figures, Pushed, Said, finite, yes_or_no

TASKS = ("REC", "SSR", "CRR")
DELAY = 2.0
"""From an event's start to the second at which OVO-Timing wants the word."""
ONCE_MORE = 'Has this just been done once more, and is it over now: "{}"'
NEXT_STEP = 'Has a step of "{}" just been finished'
STEP = "Is this step being performed now: {}"


def _row(record: Mapping[str, Any], text: str, question: str, times: Sequence[tuple[float, float]]) -> StandingRow:
    """Watched to the last probe; CRR from the second at which it is asked, as the authors do."""
    task, video, probes = record["task"], text_of(record, "video"), record["test_info"]
    begin = finite(record["ask_time"]) if task == "CRR" else 0.0
    names = (f"src_videos/{video}", video, f"chunked_videos/{record['id']}_{len(probes) - 1}.mp4")
    if not (moments := tuple(sorted((max(begin, finite(start)), finite(end)) for start, end in times))):
        raise ValueError("it has no moment")
    return StandingRow(
        video, text, moments, question, begin=begin, until=finite(probes[-1]["realtime"]), start=begin,
        kind=task, names=names, item=record,
    )  # fmt: skip


def _probes(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With numbers as they are compared. Raises what it raises where a probe has no answer."""
    found: list[dict[str, Any]] = []
    for one in record["test_info"]:
        what = "count" if record["task"] == "REC" else "type"
        found.append({"realtime": finite(one["realtime"]), what: finite(one[what])})
        if record["task"] == "SSR":
            found[-1]["step"] = step = text_of(one, "step")
            if step not in record["all_steps"]:
                raise ValueError(f"it is asked about {step!r:.80}, which is none of its steps")
    return found


class OVOForward(Pushed):
    """The probes: a count is the number of words; a step is the current one from a word about it to one about another
    step; there is enough to answer from the first word on."""

    name = "ovo-forward"
    title = "OVO-Bench forward, pushed"
    layout = "ovo_bench_new.json"
    tasks: ClassVar = TASKS

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """None for other tasks. Of a tutorial one for each step, else one."""
        if (task := record["task"]) not in TASKS:
            return []
        record = {**record, "test_info": _probes(record)}
        if task == "SSR":
            steps = zip(record["all_steps"], record["start_time"], record["end_time"], strict=True)
            return [_row(record, one, yes_or_no(STEP.format(one)), [(start, end)]) for one, start, end in steps]
        if task == "REC":
            what = text_of(record, "activity")
            times = zip(record["start_times"], record["end_times"], strict=True)
            return [_row(record, what, yes_or_no(ONCE_MORE.format(what)), list(times))]
        what = text_of(record, "question")
        return [_row(record, what, ENOUGH.format(what), [(record["clue_time"], record["clue_time"])])]

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        items: dict[int, list[tuple[StandingRow, Sequence[float]]]] = defaultdict(list)
        for row, times in zip(rows, said, strict=True):
            items[id(row.item)].append((row, times))
        right: dict[str, list[bool]] = defaultdict(list)
        for about in items.values():
            task = about[0][0].kind
            for probe in about[0][0].item["test_info"]:
                by_then = {row.text: [t for t in times if t <= probe["realtime"]] for row, times in about}
                if task == "REC":
                    right[task].append(len(by_then[about[0][0].text]) == probe["count"])
                    continue
                own = by_then.pop(probe["step"] if task == "SSR" else about[0][0].text)
                others = max((times[-1] for times in by_then.values() if times), default=-1.0)
                right[task].append((bool(own) and own[-1] >= others) == bool(probe["type"]))
        return {task: fmean(right[task]) for task in TASKS if task in right}


class OVOTiming(Pushed):
    """The mean over tasks of F1, of mean recall and mean precision of a task's rows."""

    name = "ovo-timing"
    title = "OVO-Timing"
    layout = "ovo*bench_[nt]*.json"
    tasks: ClassVar = TASKS

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """One of each record; none for other tasks."""
        task = record["task"]
        if task == "REC":
            starts, what = record["start_times"], text_of(record, "activity")
            text, ask = f"How many times does the event: {what} happen?", yes_or_no(ONCE_MORE.format(what))
        elif task == "SSR":
            starts, what = record["start_time"], re.sub(r"(?<!^)(?=[A-Z])", " ", text_of(record, "tutorial")).lower()
            text, ask = f"Describe the steps of {what}", yes_or_no(NEXT_STEP.format(what))
        elif task == "CRR":
            starts, text = [finite(record["clue_time"]) - DELAY], text_of(record, "question")
            ask = ENOUGH.format(text)
        else:
            return []
        due = [finite(start) + DELAY for start in starts]
        return [_row({**record, "due": due}, text, ask, [(time - HIT_SECONDS, time) for time in due])]

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row, times in zip(rows, said, strict=True):
            left, due = list(times), row.item["due"]
            for moment in due:
                if (near := next((t for t in left if abs(t - moment) <= HIT_SECONDS), None)) is not None:
                    left.remove(near)
            hits = len(times) - len(left)
            found[row.kind].append((hits / len(due), hits / len(times) if times else 0.0))
        means = {task: tuple(map(fmean, zip(*found[task], strict=True))) for task in TASKS if task in found}
        return {task: 2 * r * p / (r + p) if r + p else 0.0 for task, (r, p) in means.items()}
