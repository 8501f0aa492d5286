"""OVBench (arXiv 2501.00584): three annotation layouts, the 16 sub-tasks, the published prompts and presets.

Flat layout (also StreamForest's): ava.json, coin.json, hirest.json, tao.json, one question a record. Streaming layout
(the hub's): one video a record with its questions. Split layout (VideoChat3's, OneStreamer's): one question of that
layout a record, asked at its `end`. The headline is the mean of the 16 sub-task accuracies.
Knows nothing of models, running or reporting.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from ..questions import Question, VideoTask, age_of, letters
from .base import Benchmark, Examples, Settings, text_of, texts

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


class SubTask(NamedTuple):
    code: str
    name: str
    category: str
    sources: tuple[str, ...]
    """Flat files it draws on."""


SUB_TASKS = (
    SubTask("AA", "Action Anticipation", "Future Prediction", FILM),
    SubTask("GSP", "Goal/Step Prediction", "Future Prediction", STEPS),
    SubTask("MP", "Movement Prediction", "Future Prediction", OBJECTS),
    SubTask("AP", "Action Persistence", "Temporal Hallucination Verification", FILM),
    SubTask("SV", "Step Verification", "Temporal Hallucination Verification", STEPS),
    SubTask("OP", "Object Presence", "Temporal Hallucination Verification", OBJECTS),
    SubTask("AR", "Action Retrieval", "Past Memory", FILM),
    SubTask("PR", "Procedure Recall", "Past Memory", STEPS),
    SubTask("TR", "Trajectory Retrieval", "Past Memory", OBJECTS),
    SubTask("AL", "Action Location", "Spatio Perception", FILM),
    SubTask("OP", "Object Position", "Spatio Perception", OBJECTS),
    SubTask("AT", "Action Trajectory", "Spatio Temporal Perception", FILM),
    SubTask("OT", "Object Trajectory", "Spatio Temporal Perception", OBJECTS),
    SubTask("AS", "Action Sequence", "Temporal Perception", FILM),
    SubTask("SL", "Step Localization", "Temporal Perception", STEPS),
    SubTask("OES", "Object Existence State", "Temporal Perception", OBJECTS),
)
"""In the order of the official board; two of them are called OP."""

_BY_SOURCE = {(sub.category, source): sub for sub in SUB_TASKS for source in sub.sources}
_BY_NAME = {sub.name: sub for sub in SUB_TASKS}
_TOLD_BY: dict[str, Literal["flat", "streaming", "split"]] = {
    "candidates": "flat",
    "questions": "streaming",
    "video_time": "split",
}

PROMPTS = {
    "official": ("({})", "{} {}", "Question at {time}s: {question}\nOptions:\n{options}"),
    "lmms-eval": (
        "{}", "{}. {}", "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
    ),
}  # fmt: skip
"""The words of the published evaluation, and of the published lmms-eval tasks: label, option, and all together."""
TAILS = {"pass": "\nAnswer:", "others": "\nOnly give the best option."}
"""What the official words end in, behind the options, of which white space at the end is taken off: in the streaming
script, and in those of the sliding window and of the dialogue that is kept."""


class OVBench(Benchmark):
    """`prompt`: official (with the system text) or lmms-eval (without)."""

    name = "ovbench"
    title = "OVBench"
    help = "OVBench: the mean of 16 sub-tasks"
    flags: ClassVar = {"prompt": {"default": "official", "choices": PROMPTS, "help": "wording of the questions"}}
    headline = "tasks"
    headline_name = "mean of the sub-task accuracies"
    alone = ("ovbench_split*.json", "ovbench_ava_raw*.json")
    layouts = (("ovbench.json",), tuple(f"{source}.json" for source in SOURCES), alone, ("ovbench_*.json",))
    stream = Settings(fps=8.0, max_new_tokens=128)
    window = Settings(fps=2.0, window=32.0, frames=64, max_new_tokens=16)
    has_scripts = True
    published_rule = "the published rule, the first stand-alone letter a to e of the reply in small letters"
    splits = SOURCES

    def __init__(self, prompt: str = "official", **run: Any) -> None:
        super().__init__(**run)
        if prompt not in PROMPTS:
            raise ValueError(f"unknown prompt {prompt!r} for OVBench, expected one of {', '.join(PROMPTS)}")
        self.label, self.option, self.prompt = PROMPTS[prompt]
        self.system_prompt, self.tail = None, ""
        if prompt == "official":
            is_pass = self.mode != "sliding_window" and not self.multi_turn
            self.system_prompt, self.tail = SYSTEM_PROMPT, TAILS["pass" if is_pass else "others"]

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """Any layout; `splits` keeps questions of these sources only."""
        layout = _layout_of(records, path)
        if layout == "split":
            records = _by_video(path, records, examples)
        read = self._single_questions if layout == "flat" else self._videos
        for task in read(path, records, examples):
            if kept := tuple(question for question in task.questions if question.source.lower() in splits):
                # The scripts know no anchor: to them the first frame of a folder is second 0.
                anchor = None if self.script_frames else task.anchor
                examples.tasks.append(replace(task, questions=kept, anchor=anchor))

    def published_letter(self, question: Question, text: str) -> str | None:
        """The article too is option A."""
        found = re.search(r"\b[a-e]\b", text.lower())
        return found[0].upper() if found else None

    def _single_questions(self, path: Path, records: list[Any], examples: Examples) -> list[VideoTask]:
        """The flat layout: a record is a question, and says where its video lies."""
        source = path.stem.lower()
        if source not in SOURCES:
            raise ValueError(f"{path}: a flat annotation file is named {', '.join(f'{s}.json' for s in SOURCES)}")
        videos: dict[str, list[tuple[dict[str, Any], Question]]] = defaultdict(list)
        for number, record in enumerate(records):
            with examples.record(f"{path.name}, record {number}"):
                question = self._single_question(source, number, record)
                task = _video_of(source, record, [question])  # for what may be wrong with it
                videos[task.video].append((record, question))
        return [_video_of(source, rows[0][0], [question for _, question in rows]) for rows in videos.values()]

    def _single_question(self, source: str, number: int, record: dict[str, Any]) -> Question:
        sub_task = _BY_SOURCE.get((CATEGORIES.get(record["answer_type"], ""), source))
        if sub_task is None:
            raise ValueError(f"no sub-task {record['answer_type']!r} in {source}")
        options = texts(record["candidates"])
        if options.count(record["answer"]) != 1:
            raise ValueError(f"the answer {record['answer']!r} must be exactly one of {options}")
        answer = letters(options)[options.index(record["answer"])]
        return self._question(record.get("id", f"{source}/{number:05d}"), sub_task, source, record, options, answer)

    def _videos(self, path: Path, records: list[Any], examples: Examples) -> list[VideoTask]:
        """The streaming layout: a record is a video with its questions."""
        tasks = []
        for number, record in enumerate(records):
            with examples.record(f"{path.name}, video {number}"):
                name, questions = record["video_id"], []
                source = _source_of(name)
                for place, row in enumerate(record["questions"]):
                    with examples.record(f"{path.name}: {name}, question {place}"):
                        questions.append(self._listed_question(f"{name}#q{place}", source, row))
                if questions:
                    task = VideoTask(
                        id=name,
                        video=name,
                        names=(name, PurePosixPath(name).name),
                        questions=tuple(questions),
                        start=float(record["clip"][0]),
                        fps=float(record["fps"]) if record.get("fps") else None,
                        segment_start=_segment_start(source, questions),
                        clip_end=float(record["clip"][1]),
                        last=questions[-1].id,
                    )
                    tasks.append(task)
        return tasks

    def _listed_question(self, question_id: str, source: str, row: dict[str, Any]) -> Question:
        sub_task = _BY_NAME.get(row["sub_answer_type"])
        if sub_task is None or sub_task.category != row["answer_type"]:
            raise ValueError(f"no sub-task {row['sub_answer_type']!r} in {row['answer_type']!r}")
        options = [_without_letter(option, i) for i, option in enumerate(texts(row["options"]))]
        named = row.get("source", source)  # generated worlds name it, the hub does not
        return self._question(row.get("id", question_id), sub_task, named, row, options, row["answer"])

    def _question(
        self, question_id: str, sub_task: SubTask, source: str, row: dict[str, Any], options: list[str], answer: str
    ) -> Question:
        timestamp = float(row["middle_frame_timestamp"])
        labels = tuple(map(self.label.format, letters(options)))
        lines = "\n".join(map(self.option.format, labels, options))
        time = row["middle_frame_timestamp"]  # printed as it stands in the file: 7 or 7.0 or 2.05
        text = self.prompt.format(time=time, question=text_of(row, "question"), options=lines)
        return Question(
            id=question_id,
            timestamp=timestamp,
            prompt=text.rstrip() + self.tail if self.tail else text,
            answer=answer,
            task=f"{sub_task.code} {sub_task.name}",
            category=sub_task.category,
            source={"hirest": "HiREST"}.get(source, source.upper()),
            labels=labels,
            options=tuple(options),
            # a field of generated worlds, [[start, end], ...] in seconds; the published files do not tell
            evidence_age=age_of(row["evidence"], timestamp) if row.get("evidence") else None,
        )


def _video_of(source: str, record: dict[str, Any], questions: list[Question]) -> VideoTask:
    """The video of a record of the flat layout, with all of its questions."""
    video, begins = record["video"], _segment_start(source, questions)
    frame = PurePosixPath(record["image_file"]) if "image_file" in record else None
    return VideoTask(
        id=f"{source}/{video}",
        video=video,
        names=_places(source, video, str(frame.parent) if frame else None),
        questions=tuple(questions),
        start=begins or float(record["start"]),
        fps=float(record["fps"]) if "fps" in record else None,
        segment_start=begins,
        clip_end=max(question.timestamp for question in questions),  # each record's `end` is its own moment
        last=questions[-1].id,
        anchor=(frame.name, float(record["middle_frame_timestamp"])) if frame else None,
    )


def _segment_start(source: str, questions: list[Question]) -> float:
    """Seconds on the questions' clock at which what is stored of their video begins."""
    is_segment = source == "ava" and min(question.timestamp for question in questions) >= AVA_START
    return AVA_START if is_segment else 0.0


def _layout_of(records: list[Any], path: Path) -> Literal["flat", "streaming", "split"]:
    """Told by what the first record of a known form has: candidates, questions, or options and the video's length."""
    for record in records:
        for field, layout in _TOLD_BY.items() if isinstance(record, dict) else ():
            if field in record:
                return layout
    seen = sorted(records[0]) if records and isinstance(records[0], dict) else records[:1]
    raise ValueError(
        f"{path}: neither the flat nor the streaming nor the split layout of OVBench; its first record has {seen}"
    )


def _by_video(path: Path, records: list[Any], examples: Examples) -> list[dict[str, Any]]:
    """Records of the split layout as those of the streaming one, their questions under the same ids.

    Each says from where to where its authors show the video (films: the last 128 s); here the mode decides that, and a
    video begins where the first of its questions does.
    """
    videos: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(records):
        with examples.record(f"{path.name}, record {number}"):
            start, end, length = float(row["start"]), float(row["end"]), float(row["video_time"])
            if not start <= end <= length:
                raise ValueError(f"expected start <= end <= video_time, got {start}, {end} and {length}")
            about = {"clip": [start, length], "fps": row.get("fps"), "questions": []}
            video = videos.setdefault(row["video_id"], {"video_id": row["video_id"], **about})
            video["clip"][0] = min(video["clip"][0], start)
            question_id = re.sub(r"__q(\d+)$", r"#q\1", row["id"])
            video["questions"].append({**row, "id": question_id, "middle_frame_timestamp": row["end"]})
    return list(videos.values())


def _places(source: str, video: str, folder: str | None) -> tuple[str, ...]:
    """Where the hub's archives put a video of the flat layout, and plain variants of it."""
    if folder is not None:  # TAO: val/HACS/<sequence>, unpacked as HACS/<sequence>
        return (folder, folder.partition("/")[2], video)
    folders = {"ava": ("AVA_RAW", "AVA"), "coin": ("COIN",), "hirest": ("HiREST", "hirest"), "tao": ("TAO",)}[source]
    return (*(f"{name}/{video}" for name in folders), video)


def _source_of(video_id: str) -> str:
    """Source of a streaming record. AVA_RAW and AVA_frame_* hold AVA's films; AVA has TAO's sequences."""
    top = PurePosixPath(video_id).parts[0].lower()
    return "ava" if top.startswith("ava_") else top if top in ("coin", "hirest") else "tao"


def _without_letter(option: str, number: int) -> str:
    match = re.match(r"\s*([A-Z])[.)]\s*(.*)", option, re.DOTALL)
    if match is None or match[1] != chr(ord("A") + number):
        raise ValueError(f"option {number} must begin with {chr(ord('A') + number)}., got {option!r}")
    return match[2]
