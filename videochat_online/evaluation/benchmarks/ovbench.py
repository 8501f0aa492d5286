"""OVBench (arXiv 2501.00584): both annotation layouts, the 16 sub-tasks, the published prompts and presets.

Flat layout: ava.json, coin.json, hirest.json, tao.json, one question a record. Streaming layout (the hub's):
one video a record with its questions. The headline is the mean of the 16 sub-task accuracies.
Knows nothing of models, running or reporting.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ..predictions import Prediction
from ..questions import Question, Reply, Verdict, VideoTask
from .base import Benchmark, Examples, ModeSettings, extract_letter, texts

SOURCES = ("ava", "coin", "hirest", "tao")
AVA_START = 900.0
"""Seconds: AVA annotates minute 15 to 30 of a film; a stored segment begins here, and nothing earlier is shown."""

SYSTEM_PROMPT = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


CATEGORIES = {
    "FuturePrediction": "Future Prediction",
    "Hallucination": "Temporal Hallucination Verification",
    "PastMemory": "Past Memory",
    "SpatialPerception": "Spatio Perception",
    "SpatioTemporalPerception": "Spatio Temporal Perception",
    "TemporalPerception": "Temporal Perception",
}
"""`answer_type` of the flat layout -> of the streaming layout (whose spelling is kept)."""

FILM, STEPS, OBJECTS = ("ava",), ("coin", "hirest"), ("tao",)


@dataclass(frozen=True)
class SubTask:
    code: str
    name: str
    flat_type: str
    sources: tuple[str, ...]
    """Flat files it draws on."""

    @property
    def category(self) -> str:
        return CATEGORIES[self.flat_type]


SUB_TASKS = (
    SubTask("AA", "Action Anticipation", "FuturePrediction", FILM),
    SubTask("GSP", "Goal/Step Prediction", "FuturePrediction", STEPS),
    SubTask("MP", "Movement Prediction", "FuturePrediction", OBJECTS),
    SubTask("AP", "Action Persistence", "Hallucination", FILM),
    SubTask("SV", "Step Verification", "Hallucination", STEPS),
    SubTask("OP", "Object Presence", "Hallucination", OBJECTS),
    SubTask("AR", "Action Retrieval", "PastMemory", FILM),
    SubTask("PR", "Procedure Recall", "PastMemory", STEPS),
    SubTask("TR", "Trajectory Retrieval", "PastMemory", OBJECTS),
    SubTask("AL", "Action Location", "SpatialPerception", FILM),
    SubTask("OP", "Object Position", "SpatialPerception", OBJECTS),
    SubTask("AT", "Action Trajectory", "SpatioTemporalPerception", FILM),
    SubTask("OT", "Object Trajectory", "SpatioTemporalPerception", OBJECTS),
    SubTask("AS", "Action Sequence", "TemporalPerception", FILM),
    SubTask("SL", "Step Localization", "TemporalPerception", STEPS),
    SubTask("OES", "Object Existence State", "TemporalPerception", OBJECTS),
)
"""In the order of the official board; two of them are called OP."""

_BY_FLAT = {(sub.flat_type, source): sub for sub in SUB_TASKS for source in sub.sources}
_BY_NAME = {sub.name: sub for sub in SUB_TASKS}


def official_prompt(question: str, options: list[str], timestamp: float) -> tuple[str, tuple[str, ...]]:
    """The words of the published evaluation, and the labels as printed in them."""
    labels = tuple(f"({chr(ord('A') + i)})" for i in range(len(options)))
    lines = "\n".join(f"{label} {option}" for label, option in zip(labels, options, strict=True))
    return f"Question at {timestamp:.1f}s: {question}\nOptions:\n{lines}\nAnswer:", labels


def lmms_eval_prompt(question: str, options: list[str], timestamp: float) -> tuple[str, tuple[str, ...]]:
    """The words of the published lmms-eval tasks, and the labels as printed in them. The time is not mentioned."""
    labels = tuple(chr(ord("A") + i) for i in range(len(options)))
    lines = "\n".join(f"{label}. {option}" for label, option in zip(labels, options, strict=True))
    return f"{question}\n{lines}\nAnswer with the option's letter from the given choices directly.", labels


PROMPTS = {"official": official_prompt, "lmms-eval": lmms_eval_prompt}


class OVBench(Benchmark):
    """`prompt`: official (with the system text) or lmms-eval (without)."""

    name = "ovbench"
    title = "OVBench"
    headline = "tasks"
    headline_name = "mean of the sub-task accuracies"
    max_new_tokens = 128
    splits = SOURCES
    presets: ClassVar[Mapping[str, ModeSettings]] = {
        "sliding_window": ModeSettings(fps=2.0, window=32.0, frames=64),
        "streaming": ModeSettings(fps=8.0),
        "prefix": ModeSettings(fps=8.0),
    }

    def __init__(self, prompt: str = "official") -> None:
        if prompt not in PROMPTS:
            raise ValueError(f"unknown prompt {prompt!r} for OVBench, expected one of {', '.join(PROMPTS)}")
        self.format_prompt = PROMPTS[prompt]
        self.system_prompt = SYSTEM_PROMPT if prompt == "official" else None

    def files(self, annotations: Path) -> list[Path]:
        """ovbench.json, which lists each video once, else the flat four, else the hub's parts."""
        if annotations.is_file():
            return [annotations]
        flat = [path for source in SOURCES if (path := annotations / f"{source}.json").is_file()]
        whole = [path for path in [annotations / "ovbench.json"] if path.is_file()]
        found = whole or flat or sorted(annotations.glob("ovbench_*.json"))
        if not found:
            expected = "ava.json, coin.json, hirest.json, tao.json (flat) or ovbench*.json (streaming)"
            raise ValueError(f"no OVBench annotations in {annotations}: expected {expected}")
        return found

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """Either layout; `splits` keeps questions of these sources only."""
        tasks = self._streaming_tasks if is_streaming_layout(records, path) else self._flat_tasks
        examples.tasks += [part for task in tasks(path, records, examples) if (part := _of_sources(task, splits))]

    def judge(self, question: Question, reply: Reply) -> Verdict:
        letter = extract_letter(reply.text)
        return Verdict(letter, letter == question.answer)

    def notes(self, tasks: Sequence[VideoTask], predictions: Sequence[Prediction]) -> list[str]:
        """Where the published rule (the first stand-alone capital A to E, articles too) would judge differently."""
        found = [re.search(r"\b[A-E]\b", prediction.response or "") for prediction in predictions]
        theirs = [match is not None and match[0] == p.answer for match, p in zip(found, predictions, strict=True)]
        if theirs == [prediction.correct for prediction in predictions]:
            return []
        return [
            "Letters are read with some care (an article is no option A); by the published rule, the first "
            f"stand-alone letter, {sum(theirs)} instead of {sum(p.correct for p in predictions)} questions are right."
        ]

    def _flat_tasks(self, path: Path, records: list[Any], examples: Examples) -> list[VideoTask]:
        source = path.stem.lower()
        if source not in SOURCES:
            raise ValueError(f"{path}: a flat annotation file is named {', '.join(f'{s}.json' for s in SOURCES)}")
        videos: dict[str, list[tuple[dict[str, Any], Question]]] = defaultdict(list)
        for number, record in enumerate(records):
            with examples.record(f"{path.name}, record {number}"):
                question = self._flat_question(source, number, record)
                task = self._flat_video(source, record, (question,))  # for what may be wrong with it
                videos[task.video].append((record, question))
        return [
            self._flat_video(source, rows[0][0], tuple(question for _, question in rows)) for rows in videos.values()
        ]

    def _flat_video(self, source: str, record: dict[str, Any], questions: tuple[Question, ...]) -> VideoTask:
        """The video of `record` with all of its questions."""
        video = record["video"]
        absolute = source == "ava" and min(question.timestamp for question in questions) >= AVA_START
        frame = PurePosixPath(record["image_file"]) if "image_file" in record else None
        return VideoTask(
            id=f"{source}/{video}",
            video=video,
            names=_places(source, video, str(frame.parent) if frame else None),
            questions=questions,
            start=AVA_START if absolute else float(record["start"]),
            fps=float(record["fps"]) if "fps" in record else None,
            segment_start=AVA_START if absolute else 0.0,
            anchor=(frame.name, float(record["middle_frame_timestamp"])) if frame else None,
        )

    def _flat_question(self, source: str, number: int, record: dict[str, Any]) -> Question:
        sub_task = _BY_FLAT.get((record["answer_type"], source))
        if sub_task is None:
            raise ValueError(f"no sub-task {record['answer_type']!r} in {source}")
        options = texts(record["candidates"])
        if options.count(record["answer"]) != 1:
            raise ValueError(f"the answer {record['answer']!r} must be exactly one of {options}")
        answer = chr(ord("A") + options.index(record["answer"]))
        return self._question(record.get("id", f"{source}/{number:05d}"), sub_task, source, record, options, answer)

    def _streaming_tasks(self, path: Path, records: list[Any], examples: Examples) -> list[VideoTask]:
        tasks = []
        for number, record in enumerate(records):
            with examples.record(f"{path.name}, video {number}"):
                questions = self._streaming_questions(path, record, examples)
                tasks += [self._streaming_video(record, questions)] if questions else []
        return tasks

    def _streaming_questions(self, path: Path, record: dict[str, Any], examples: Examples) -> list[Question]:
        video = record["video_id"]
        source = _source_of(video)
        questions = []
        for number, row in enumerate(record["questions"]):
            with examples.record(f"{path.name}: {video}, question {number}"):
                sub_task = _BY_NAME.get(row["sub_answer_type"])
                if sub_task is None or sub_task.category != row["answer_type"]:
                    raise ValueError(f"no sub-task {row['sub_answer_type']!r} in {row['answer_type']!r}")
                options = [_without_letter(option, i) for i, option in enumerate(texts(row["options"]))]
                question_id = row.get("id", f"{video}#q{number}")
                named = row.get("source", source)  # generated worlds name it, the hub does not
                questions.append(self._question(question_id, sub_task, named, row, options, row["answer"]))
        return questions

    def _streaming_video(self, record: dict[str, Any], questions: list[Question]) -> VideoTask:
        video = record["video_id"]
        absolute = _source_of(video) == "ava" and min(question.timestamp for question in questions) >= AVA_START
        return VideoTask(
            id=video,
            video=video,
            names=(video, PurePosixPath(video).name),
            questions=tuple(questions),
            start=float(record["clip"][0]),
            fps=float(record["fps"]) if record.get("fps") else None,
            segment_start=AVA_START if absolute else 0.0,
        )

    def _question(
        self, question_id: str, sub_task: SubTask, source: str, row: dict[str, Any], options: list[str], answer: str
    ) -> Question:
        timestamp = float(row["middle_frame_timestamp"])
        prompt, labels = self.format_prompt(row["question"], options, timestamp)
        return Question(
            id=question_id,
            timestamp=timestamp,
            prompt=prompt,
            answer=answer,
            task=f"{sub_task.code} {sub_task.name}",
            category=sub_task.category,
            source={"hirest": "HiREST"}.get(source, source.upper()),
            labels=labels,
            options=tuple(options),
        )


def _of_sources(task: VideoTask, sources: tuple[str, ...]) -> VideoTask | None:
    """The video with its questions of these sources, or None where it has none."""
    questions = tuple(question for question in task.questions if question.source.lower() in sources)
    return replace(task, questions=questions) if questions else None


def is_streaming_layout(records: list[Any], path: Path) -> bool:
    """True for a list of videos with questions, False for a list of single questions."""
    for record in records:
        for field, streaming in (("questions", True), ("candidates", False)):
            if isinstance(record, dict) and field in record:
                return streaming
    seen = sorted(records[0]) if records and isinstance(records[0], dict) else records[:1]
    raise ValueError(f"{path}: neither the flat nor the streaming layout of OVBench: its first record has {seen}")


def _places(source: str, video: str, folder: str | None) -> tuple[str, ...]:
    """Where the hub's archives put a video of the flat layout, and plain variants of it."""
    if folder is not None:  # TAO: val/HACS/<sequence>, unpacked as HACS/<sequence>
        return (folder, folder.partition("/")[2], video)
    folders = {"ava": ("AVA_RAW", "AVA"), "coin": ("COIN",), "hirest": ("HiREST", "hirest"), "tao": ("TAO",)}[source]
    return (*(f"{name}/{video}" for name in folders), video)


def _source_of(video_id: str) -> str:
    """Source of a streaming record. The hub keeps AVA's films in AVA_RAW; AVA holds frames of TAO's sequences."""
    top = PurePosixPath(video_id).parts[0].lower()
    return {"ava_raw": "ava", "coin": "coin", "hirest": "hirest"}.get(top, "tao")


def _without_letter(option: str, number: int) -> str:
    match = re.match(r"\s*([A-Z])[.)]\s*(.*)", option, re.DOTALL)
    if match is None or match[1] != chr(ord("A") + number):
        raise ValueError(f"option {number} must begin with {chr(ord('A') + number)}., got {option!r}")
    return match[2]
