"""The benchmarks of speaking unasked: how their annotations become rows, and their authors' scores."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Any, ClassVar

from ...streaming.moments import HIT_SECONDS, judged
from ...streaming.reading import StandingRow
from ...streaming.standing import as_question
from ...streaming.standing_formats import ENOUGH
from ..benchmarks.base import text_of
from ..benchmarks.streaming_bench import (
    POLL_QUESTION,
    POLL_SECONDS_AFTER,
    PROACTIVE_PROMPT,
    TIME_TOLERANCE,
    places_of,
    seconds,
)
from .base import Figures, Judge, Pushed, Said, Words, as_yes_or_no, finite, span_of

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
    """arXiv 2503.22952: whether the first alert lies within the annotated span.

    Beside that, as its authors do: the share of alerts within, and how the span from first to last alert overlaps.
    """

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
        question = as_yes_or_no(f"Is this seen now: {event}")
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


TASKS = ("REC", "SSR", "CRR")
"""Of OVO-Bench, forward: an action that repeats, the steps of a tutorial, a question whose answer comes later."""
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
    what = "count" if record["task"] == "REC" else "type"
    for one in record["test_info"]:
        found.append({"realtime": finite(one["realtime"]), what: finite(one[what])})
        if record["task"] == "SSR":
            found[-1]["step"] = step = text_of(one, "step")
            if step not in record["all_steps"]:
                raise ValueError(f"it is asked about {step!r:.80}, which is none of its steps")
    return found


class OVOForward(Pushed):
    """The probes, answered from what was said: a count is the number of words; a step is the current one from a word
    about it to one about another step; there is enough to answer from the first word on."""

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
            return [_row(record, one, as_yes_or_no(STEP.format(one)), [(start, end)]) for one, start, end in steps]
        if task == "REC":
            what = text_of(record, "activity")
            times = zip(record["start_times"], record["end_times"], strict=True)
            return [_row(record, what, as_yes_or_no(ONCE_MORE.format(what)), list(times))]
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
    """VideoChat3's and OneStreamer's measure: the mean over tasks of F1, of a task's mean recall and precision."""

    name = "ovo-timing"
    title = "OVO-Timing"
    layout = "ovo*bench_[nt]*.json"
    tasks: ClassVar = TASKS

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """One of each record; none for other tasks."""
        task = record["task"]
        if task == "REC":
            starts, what = record["start_times"], text_of(record, "activity")
            text, ask = f"How many times does the event: {what} happen?", as_yes_or_no(ONCE_MORE.format(what))
        elif task == "SSR":
            starts, what = record["start_time"], re.sub(r"(?<!^)(?=[A-Z])", " ", text_of(record, "tutorial")).lower()
            text, ask = f"Describe the steps of {what}", as_yes_or_no(NEXT_STEP.format(what))
        elif task == "CRR":
            starts, text = [finite(record["clue_time"]) - DELAY], text_of(record, "question")
            ask = ENOUGH.format(text)
        else:
            return []
        due = [finite(start) + DELAY for start in starts]
        return [_row(record, text, ask, [(time - HIT_SECONDS, time) for time in due])]

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row, times in zip(rows, said, strict=True):
            hits = judged(row.moments, times, 0.0).hits
            found[row.kind].append((hits / len(row.moments), hits / len(times) if times else 0.0))
        means = {task: tuple(map(fmean, zip(*found[task], strict=True))) for task in TASKS if task in found}
        return {task: 2 * r * p / (r + p) if r + p else 0.0 for task, (r, p) in means.items()}


OMEGAS = (0.0, 0.5, 1.0)
BEGIN, MOST = 0.5, 2
"""What an answer is worth before any reply, and at most."""
INSTRUCTION = (
    "You grade a video question answering system. Say how far the predicted answer covers the key points of the ground "
    "truth answer:\n- 3: mostly, with minor inaccuracies or other words;\n- 2: partly, with significant errors or "
    "missing key points;\n- 1: not; most is missing, or it does not answer the question.\nGive the number only."
)


class ProactiveVideoQA(Pushed):
    """arXiv 2507.09313: replies within the span of each answer, judged by a model; sooner is better.

    PAUC of an answer: the area below the steps of what the judge gives to all replies so far (1 to 3 becomes 0 to 2),
    which begin at 0.5, over its span; times are multiplied by 1 - omega. No reply is worth 0.25. Words outside spans
    cost nothing, so levels are chosen by F1 of the spans.
    """

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
        question = as_yes_or_no(f'Is there something to say now about "{text.rstrip("?.! ")}"')
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


WHEN = re.compile(r"^when (.*?),? output\b.*$", re.IGNORECASE | re.DOTALL)


class StreamingBenchPushed(Pushed):
    """Proactive questions (arXiv 2411.03628): the model is not told what it would have to say.

    A row is right where the first word comes within 2 s of the annotated moment and holds the words that were asked
    for; in time where it only comes then.
    """

    name = "streamingbench-pushed"
    title = "StreamingBench proactive, pushed"
    layout = "questions_proactive.json"
    tasks: ClassVar = ("in time",)
    needs_words = True

    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        video = PurePosixPath(text_of(record, "video_path"))
        rows: list[StandingRow] = []
        for one in record["questions"]:
            begin, due = seconds(one["time_stamp"]), seconds(one["ground_truth_time_stamp"])
            text, words = text_of(one, "question"), text_of(one, "ground_truth_output")
            moment = max(begin, due - TIME_TOLERANCE), max(begin, due)
            about: dict[str, Any] = {"names": places_of(video, "proactive"), "item": {"due": due, "words": words}}
            until, question = max(begin, due + POLL_SECONDS_AFTER), self.question(text, words)
            rows.append(StandingRow(video.name, text, (moment,), question, begin=begin, until=until, **about))
        return rows

    def question(self, text: str, words: str) -> str:
        """What is read out."""
        return as_question(f"Tell me when {found[1]}" if (found := WHEN.match(text.strip())) else text)

    def words_prompt(self, row: StandingRow) -> str:
        return PROACTIVE_PROMPT.format(row.text)

    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        return {"in time": fmean(map(_in_time, rows, said))}

    def score_words(self, rows: Sequence[StandingRow], said: Said, words: Words, judge: Judge | None) -> Figures:
        held = zip(rows, said, words, strict=True)
        right = [_in_time(row, times) and row.item["words"] in texts[0] for row, times, texts in held]
        return {"right words in time": fmean(right)}


def _in_time(row: StandingRow, times: Sequence[float]) -> bool:
    return bool(times) and abs(times[0] - row.item["due"]) <= TIME_TOLERANCE


class StreamingBenchPolled(StreamingBenchPushed):
    """The authors' poll is what is read out each second, and it does tell."""

    name = "streamingbench-polled"
    title = "StreamingBench proactive, polled"

    def question(self, text: str, words: str) -> str:
        return POLL_QUESTION.format(text, words)


PUSHED: dict[str, type[Pushed]] = {
    kind.name: kind
    for kind in (OmniMMI, OVOTiming, OVOForward, StreamingBenchPushed, StreamingBenchPolled, ProactiveVideoQA)
}
"""By the names that `eval standing --benchmark` takes."""
