"""ODV-Bench (StreamForest, arXiv 2509.24871): driving videos, asked at a moment about signs, road users and risks.

Annotations, words and letter rule as OneStreamer publishes and asks them (MCG-NJU/OneStreamer at f0a610b: its file
ODVbench_bbox1000.json, and odvbench.py); its score is the share of right answers of all. StreamForest's own scorer
takes the first stand-alone letter, in either case, and leaves out questions with an empty reply. Knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ..questions import Question, VideoTask, letters
from .base import Benchmark, Examples, Settings, text_of, texts

CATEGORIES = {
    "Targeting single static objects": "static",
    "Targeting single dynamic objects": "dynamic",
    "Targeting multi-object interaction scenarios or events": "events",
}
SYSTEM_PROMPT = (
    "You are an expert driving analyst. Observe the streaming video of the driving scenario and answer the question "
    "relying strictly on the visual information.\n"
    "After watching the streaming video, you will be given a multiple-choice question. Select the single best option "
    "based on the visual evidence.\n"
)
PROMPT = """Task: {task}
Subtask: {subtask}
Video segment: {start:.2f}s to {end:.2f}s
Question:
{question}
Options:
{options}
Answer with ONLY the single uppercase letter of the correct option."""
"""Its parts are one text here; the authors also begin the answer, with `Best option:(`."""
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
FAILED = "Failed to obtain answer via API"
PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_WORDS = 4


class ODVBench(Benchmark):
    """The prompt names task and sub-task, as the authors' does: that a sub-task is about hallucination can be read."""

    name = "odvbench"
    title = "ODV-Bench"
    help = "ODV-Bench: driving videos"
    headline = "pooled"
    headline_name = "share of right answers"
    alone = ("ODVbench*.json",)
    layouts = (alone,)
    stream = Settings(fps=4.0, max_new_tokens=128)
    window = Settings(fps=4.0, frames=4096, max_new_tokens=128)
    published_rule = "OneStreamer's rule, the one capital letter among the last four words, else one option's words"
    splits = tuple(CATEGORIES.values())
    system_prompt = SYSTEM_PROMPT

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """`splits` keeps these categories only. Ids are the numbers of the records, as VLMEvalKit's `index`."""
        videos: dict[tuple[str, float], list[tuple[Question, float | None]]] = defaultdict(list)
        for number, record in enumerate(records):
            with examples.record(f"{path.name}, record {number}"):
                question = _question(str(number), record)
                if question.category in splits:
                    rate = None if record.get("fps") is None else float(record["fps"])
                    videos[record["video"], float(record["start"])].append((question, rate))
        for (video, start), rows in videos.items():
            with examples.record(f"{path.name}, video {video!r}"):
                task_id = f"{video}@{start:g}" if start else video
                questions = tuple(question for question, _ in rows)
                task = VideoTask(task_id, video, (video,), questions, start=start, fps=rows[0][1])
                examples.tasks.append(task)

    def published_letter(self, question: Question, text: str) -> str | None:
        if FAILED not in text:
            if any(refusal in text for refusal in REFUSALS):
                return None
            words = text.translate(PUNCTUATION).split()
            found = [label for label in question.labels if label in words]
            if len(found) == 1 and words.index(found[0]) >= len(words) - LAST_WORDS:
                return found[0]
            if not found and "Z" in words:
                return None
        said, options = text.lower(), question.options
        named = [label for label, option in zip(question.labels, options, strict=True) if option.lower() in said]
        return named[0] if len(named) == 1 and len(said) <= 2 * sum(map(len, options)) else None


def _question(number: str, record: dict[str, Any]) -> Question:
    if (category := CATEGORIES.get(record["task"])) is None:
        raise ValueError(f"unknown task {record['task']!r}")
    options, start, end = texts(record["candidates"]), float(record["start"]), float(record["end"])
    if record["answer"] not in options:
        raise ValueError(f"the answer {record['answer']!r} is none of {options}")
    if not start <= end:
        raise ValueError(f"expected start <= end, got {start} and {end}")
    labels = tuple(letters(options))
    lines = "\n".join(map("{}. {}".format, labels, options))
    about = {key: text_of(record, key) for key in ("task", "subtask", "question")}
    return Question(
        id=number,
        timestamp=end,
        prompt=PROMPT.format(**about, start=start, end=end, options=lines),
        answer=labels[options.index(record["answer"])],
        task=f"{category}: {record['subtask']}",  # some sub-tasks may stand in two tasks
        category=category,
        source="ODV-Bench",
        labels=labels,
        options=tuple(options),
    )
