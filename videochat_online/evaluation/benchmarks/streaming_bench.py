"""StreamingBench (arXiv 2411.03628): real-time, omni-source, sequential and proactive questions, as published.

By the authors a choice is right when the reply's first character is the letter. Sequential questions carry the earlier
ones with their right answers as text. Proactive questions are polled each second; the poll reveals the words to say.
Sound is not given to the model, so the omni-source questions are answered from frames alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..predictions import Prediction
from ..questions import Poll, Question, Reply, Verdict, VideoTask, letters
from .base import Benchmark, Examples, Settings, text_of, texts

PARTS = ("real", "omni", "sqa", "proactive")
POLL_SECONDS_AFTER = 4.0
"""The last poll comes this long after the right moment."""
NUM_SHOWN = 4
"""Options shown, as in the authors' template; some rows hold more."""
TIME_TOLERANCE = 2.0
"""Seconds by which a proactive answer may miss the right moment."""

_TASK = (
    "You are an advanced video question-answering AI assistant. You have been provided with {given} and a "
    "multiple-choice question related to the video. Your task is to carefully analyze the video and {goal}, choosing "
    "from the four options provided. Respond with only the letter (A, B, C, or D) of the correct option.\n\n"
)
CHOICE_PROMPT = (
    _TASK.format(given="some frames from the video", goal="provide the best answer to question")
    + "Question: {}\n\nOptions:\n{}\n\nThe best option is:"
)
SEQUENTIAL_PROMPT = (
    _TASK.format(given="a video", goal="the provided context to answer the question")
    + "{}\n\nHere is the question. Answer it and don't confuse it with the previous conversation.\n"
    "Question: {}\n\nOptions:\n{}\n\nThe best option is:"
)
CONTEXT_START = (
    "Here are the contextual information related to the video. "
    "Please answer the questions based on the contextual information: "
)
CONTEXT_ITEM = "At timestamp {}, the following question and answer occurred: Question: {}; Options: {}; Answer: {}; "
PROACTIVE_PROMPT = (
    "You are an advanced image question-answering AI assistant. You have been provided with images and a question "
    "related to the images. Your task is to carefully analyze the images and provide the answer to the question. You "
    "need to carefully confirm whether the images content meet the conditions of the question, and then output the "
    "correct content.\n\nQuestion: {}\n\nThe answer is:\n"
)
POLL_QUESTION = '{} Is it the right time to output "{}"? You can only answer yes or no.'


class StreamingBench(Benchmark):
    name = "streamingbench"
    title = help = "StreamingBench"
    headline = "pooled"
    headline_name = "accuracy over all questions"
    layouts = (tuple(f"questions_{part}.json" for part in PARTS),)
    """questions_proactive_50.json, a part of another, is read only where it is named."""
    stream = Settings(fps=1.0, max_new_tokens=32)
    window = Settings(fps=1.0, window=60.0, frames=64, max_new_tokens=32)
    published_rule = "the authors' rule, the first character of the reply"
    splits = PARTS

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """`splits` keeps these parts only; questions_proactive_50.json is one of the part proactive."""
        part = path.stem.removeprefix("questions_").split("_")[0]
        if part not in PARTS:
            raise ValueError(f"{path}: expected a file named questions_PART.json, PART one of {', '.join(PARTS)}")
        if part in splits:
            examples.tasks += _tasks_of(path.name, part, records, examples)

    def judge(self, question: Question, reply: Reply) -> Verdict:
        if question.kind == "choice":
            return super().judge(question, reply)
        if reply.answered_at is None or question.poll is None:
            return Verdict(None, False)
        in_time = abs(reply.answered_at - question.poll.due) <= TIME_TOLERANCE
        return Verdict(f"at {reply.answered_at:.0f}s: {reply.text}", in_time and question.answer in reply.text)

    def published_letter(self, question: Question, text: str) -> str | None:
        return text[:1] if text[:1] in tuple("ABCD") else None

    def notes(self, tasks: Sequence[VideoTask], predictions: Sequence[Prediction]) -> list[str]:
        polls = {q.id: q.poll for task in tasks for q in task.questions if q.poll is not None}
        asked = [(p.answered_at, polls[p.id]) for p in predictions if p.id in polls]
        notes = super().notes(tasks, predictions)
        if asked:
            in_time = sum(at is not None and abs(at - poll.due) <= TIME_TOLERANCE for at, poll in asked)
            notes.append(
                f"Proactive: {in_time} of {len(asked)} came within {TIME_TOLERANCE:.0f} s of the right moment. "
                "Polling tells the model the words to say, so it measures the moment more than the answer."
            )
        if any(task.id.startswith("omni/") for task in tasks):
            notes.append("The omni-source questions were answered without sound.")
        if more := sum(q.kind == "choice" and not q.options for task in tasks for q in task.questions):
            notes.append(
                f"Questions with more than four options: {more}. They show the first four as they stand, as the "
                "authors' template does, whatever letters these begin with; likelihood judges the bare letters."
            )
        return notes


def seconds(stamp: str) -> float:
    """`00:03:10` -> 190.0"""
    total = 0
    for piece in stamp.split(":"):
        total = 60 * total + int(piece)
    return float(total)


def _tasks_of(name: str, part: str, records: list[Any], examples: Examples) -> list[VideoTask]:
    """The videos of one file. Sequential questions come in groups, each with those before it as context."""
    videos: dict[PurePosixPath, list[Question]] = defaultdict(list)
    numbers: Counter[PurePosixPath] = Counter()
    for group_number, group in enumerate(records):
        context = ""
        with examples.record(where := f"{name}, entry {group_number}"):
            for entry in group if part == "sqa" else [group]:
                with examples.record(where):
                    video = PurePosixPath(entry["video_path"])
                    for row in entry["questions"]:
                        question_id = f"{part}/{video.stem}#q{numbers[video]}"
                        numbers[video] += 1
                        with examples.record(f"{where}, {question_id}"):
                            question, context = _question(row, question_id, part, context)
                            videos[video].append(question)
    tasks = []
    for path, found in videos.items():
        with examples.record(f"{name}, video {path.name!r}"):
            names = places_of(path, part)
            tasks.append(VideoTask(id=f"{part}/{path.stem}", video=path.name, names=names, questions=tuple(found)))
    return tasks


def _question(row: dict[str, Any], question_id: str, part: str, context: str) -> tuple[Question, str]:
    """A question, and for sequential ones the context the next one will carry."""
    common = {"id": question_id, "task": row["task_type"].strip(), "source": part, "category": _category(row, part)}
    if part == "proactive":
        return _proactive(row, common), context
    options = texts(row["options"])
    if not options[0].startswith("A."):  # the authors, too, add letters only where the first has none
        options = list(map("{}. {}".format, letters(options), options))
    shown = options[:NUM_SHOWN]
    lines = "\n".join(shown)
    prompt = CHOICE_PROMPT.format(text_of(row, "question"), lines)
    if part == "sqa":
        prompt = SEQUENTIAL_PROMPT.format(context, text_of(row, "question"), lines)
        item = CONTEXT_ITEM.format(row["time_stamp"], text_of(row, "question"), ", ".join(options), row["answer"])
        context = (context or CONTEXT_START) + item
    question = Question(
        timestamp=seconds(row["time_stamp"]),
        prompt=prompt,
        answer=row["answer"],
        labels=tuple(letters(shown)),
        # Where there are more, one was broken in two, and a letter is not that of its line.
        options=tuple(option[2:].strip() for option in options) if len(options) == len(shown) else (),
        **common,
    )
    return question, context


def _proactive(row: dict[str, Any], common: dict[str, Any]) -> Question:
    asked, due = seconds(row["time_stamp"]), seconds(row["ground_truth_time_stamp"])
    words = text_of(row, "ground_truth_output")
    poll = Poll(
        prompt=PROACTIVE_PROMPT.format(POLL_QUESTION.format(text_of(row, "question"), words)),
        start=asked + 1,
        end=max(asked + 1, due + POLL_SECONDS_AFTER),
        due=due,
    )
    return Question(
        timestamp=asked,
        prompt=PROACTIVE_PROMPT.format(text_of(row, "question")),
        answer=words,
        kind="proactive",
        poll=poll,
        **common,
    )


def _category(row: dict[str, Any], part: str) -> str:
    """The board's three groups; two tasks of the omni file test context."""
    if part in ("sqa", "proactive") or row["task_type"].strip().endswith("Context Understanding"):
        return "Contextual Understanding"
    return "Real-Time Visual Understanding" if part == "real" else "Omni-Source Understanding"


def places_of(video: PurePosixPath, part: str) -> tuple[str, ...]:
    """`./videos/sample_3_real.mp4` lies there after the authors' preprocessing, else as real/sample_3/video.mp4."""
    sample = "_".join(video.stem.split("_")[:2])
    return (str(video), f"videos/{video.name}", video.name, f"{part}/{sample}/video{video.suffix}")
