"""OVO-Bench (arXiv 2501.05510): backward, real-time and forward tasks, with the authors' prompts and scoring.

Not OVBench: lmms-eval's "ovobench" is this one. Prompts and rules as in the authors' constant.py and
OVOBenchScore.py; the total is the mean of the three regimes' means over their tasks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ..predictions import Prediction
from ..questions import Question, Reply, Verdict, VideoTask, age_of, letters
from ..scoring import commonest
from .base import Benchmark, Examples, Settings, text_of, texts

REGIMES = {
    "backward": ("EPM", "HLD", "ASI"),
    "realtime": ("OJR", "STU", "OCR", "ATR", "ACR", "FPD"),
    "forward": ("REC", "SSR", "CRR"),
}
_REGIME_OF = {task: regime for regime, tasks in REGIMES.items() for task in tasks}
REFUSAL = "unable to answer"

CHOICE_PROMPT = """
Question: {}
Options:
{}

Respond only with the letter corresponding to your chosen option (e.g., A, B, C).\x20
Do not include any additional text or explanation in your response.
"""
REC_PROMPT = """
You're watching a video in which people may perform a certain type of action repetively.\x20
The person performing this kind of action are referred to as 'they' in the following statement.
You're task is to count how many times have different people in the video perform this kind of action in total.
One complete motion counts as one.\x20
Now, answer the following question: {}
Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.
Do not include any additional text or explanation in your response.
"""
SSR_PROMPT = """
You're watching a tutorial video which contain a sequential of steps.\x20
The following is one step from the whole procedures:\x20
{}
Your task is to determine if the man or woman in the video is currently performing this step.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response.
"""
CRR_PROMPT = """
You're responsible of answering questions based on the video content.\x20
The following question are relevant to the latest frames, i.e. the end of the video.
{}
Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, \
provide enough information for answering the question.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response.
"""


class OVOBench(Benchmark):
    """`chunked`: the videos are the authors' chunks (`{id}.mp4`, `{id}_{i}.mp4`), cut at each question's time."""

    name = "ovobench"
    title = "OVO-Bench"
    help = "OVO-Bench (not OVBench)"
    flags: ClassVar = {
        "chunked": {"action": "store_true", "help": "--videos holds the authors' chunks, cut at each question"}
    }
    headline = "categories"
    headline_name = "mean of the three regimes"
    layouts = (("ovo_bench_new.json",),)
    stream = Settings(fps=1.0, max_new_tokens=32)
    window = Settings(fps=1.0, frames=64, max_new_tokens=32)
    published_rule = "the authors' rule, the right letter anywhere in the reply"
    splits = (*REGIMES, *_REGIME_OF)

    def __init__(self, *, chunked: bool = False, **run: Any) -> None:
        super().__init__(**run)
        self.chunked = chunked

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """`splits` keeps these tasks or regimes only."""
        wanted = {task for split in splits for task in REGIMES.get(split, (split,))}
        videos: dict[tuple[str, str], list[Question]] = defaultdict(list)  # by the file, and the video it is of
        for number, item in enumerate(records):
            with examples.record(f"{path.name}, item {number}"):
                if item["task"] not in _REGIME_OF:
                    raise ValueError(f"unknown task {item['task']!r}")
                if item["task"] not in wanted:
                    continue
                for chunk, question in _questions(item):
                    videos[chunk if self.chunked else item["video"], item["video"]].append(question)
        for (file, video), found in videos.items():
            with examples.record(f"{path.name}, video {video!r}"):
                names = _places(file, self.chunked)
                examples.tasks.append(VideoTask(id=file, video=video, names=names, questions=tuple(found)))

    def judge(self, question: Question, reply: Reply) -> Verdict:
        """The authors' rules: a substring for Yes / No, and for letters where published; all digits of a count."""
        text = reply.text
        if question.kind == "choice":
            verdict = super().judge(question, reply)
            return replace(verdict, correct=question.answer in text) if self.protocol == "published" else verdict
        if question.kind == "count":
            digits = "".join(re.findall(r"\d+", text))
            return Verdict(digits or None, digits == question.answer)
        found = {"Y": ["Yes"], "N": ["No"]}.get(text) or [word for word in ("Yes", "No") if word in text]
        return Verdict(" and ".join(found) or None, question.answer in found)

    def notes(self, tasks: Sequence[VideoTask], predictions: Sequence[Prediction]) -> list[str]:
        notes = super().notes(tasks, predictions)
        refusals: dict[str, list[bool]] = defaultdict(list)
        for question in (question for task in tasks for question in task.questions if question.kind == "choice"):
            refusals[question.task].append(REFUSAL in question.options[ord(question.answer) - ord("A")].lower())
        notes += [
            f"{task}: {sum(share)} of {len(share)} right answers are a refusal (Unable to answer): "
            f"always refusing scores {100 * sum(share) / len(share):.1f}."
            for task, share in sorted(refusals.items())
            if any(share)
        ]
        if always := commonest((p.task, p.answer) for p in predictions if _REGIME_OF[p.task] == "forward"):
            said = ", ".join(f"{task} {answer}" for task, answer in sorted(always.items()))
            notes.append(f"The commonest-answer baseline of the forward tasks sees no video and says: {said}.")
        return notes


def _questions(item: dict[str, Any]) -> list[tuple[str, Question]]:
    """(name of the chunk file, question) for each moment at which an item is asked."""
    task, number = item["task"], item["id"]
    source, _, inside = item["video"].partition("/")
    common = {"task": task, "category": _REGIME_OF[task], "source": source if inside else "OVO-Bench"}
    if common["category"] != "forward":
        options = texts(item["options"])
        labels = letters(options)
        if not 0 <= item["gt"] < len(options):
            raise ValueError(f"gt {item['gt']!r} is none of {len(options)} options")
        lines = "; ".join(map("{}. {}".format, labels, options))
        question = Question(
            id=f"{number}",
            timestamp=float(item["realtime"]),
            prompt=CHOICE_PROMPT.format(text_of(item, "question"), f"{lines};"),
            answer=labels[item["gt"]],
            labels=tuple(labels),
            options=tuple(options),
            **common,
        )
        return [(f"{number}.mp4", question)]
    probes = []
    for i, probe in enumerate(item["test_info"]):
        counts = task == "REC"
        question = Question(
            id=f"{number}_{i}",
            timestamp=float(probe["realtime"]),
            prompt=_forward_prompt(item, probe),
            answer=str(probe["count"]) if counts else ("Yes" if probe["type"] else "No"),
            kind="count" if counts else "yes_no",
            labels=() if counts else ("Yes", "No"),
            evidence_age=_age(item, probe),
            **common,
        )
        probes.append((f"{number}_{i}.mp4", question))
    return probes


def _age(item: dict[str, Any], probe: dict[str, Any]) -> float | None:
    """Of what a probe asks about: the first repetition that is over (REC), or the clue, once there is one (CRR)."""
    ends = item.get("end_times", []) if item["task"] == "REC" else [item["clue_time"]] if "clue_time" in item else []
    time = float(probe["realtime"])
    over = [(end, end) for end in map(float, ends) if not end > time]  # what is no number is said by `age_of`
    return age_of(over, time) if over else None


def _forward_prompt(item: dict[str, Any], probe: dict[str, Any]) -> str:
    if item["task"] == "REC":
        return REC_PROMPT.format(f"How many times did they {text_of(item, 'activity')}?")
    if item["task"] == "SSR":
        return SSR_PROMPT.format(text_of(probe, "step"))
    return CRR_PROMPT.format(text_of(item, "question"))


def _places(name: str, chunked: bool) -> tuple[str, ...]:
    return (f"chunked_videos/{name}", name) if chunked else (f"src_videos/{name}", name, PurePosixPath(name).name)
