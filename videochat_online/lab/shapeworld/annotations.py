"""Our questions in the two layouts of OVBench's annotation files, so that its ordinary reader scores them.

Flat: ava.json, coin.json and tao.json, lists of questions; answer_type and the file tell the sub-task. Streaming: one
list of videos with their questions. Both carry more fields of ours: id, sub_task, template, visible_now, evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .questions.engine import TEMPLATES
from .questions.types import LETTERS, SUB_TASKS, WorldQuestion
from .scenes import Scene

SOURCES: tuple[str, ...] = ("ava", "coin", "tao")
VideoQuestions = tuple[Scene, str, Sequence[WorldQuestion]]
"""A scene, its video's file name, and what is asked about it."""


def flat_item(question: WorldQuestion, video: str) -> dict[str, Any]:
    """One entry of a flat file. All times count from the beginning of the video, in seconds."""
    task = SUB_TASKS[question.sub_task]
    return {
        "middle_frame_timestamp": question.time,
        "question": question.question,
        "answer": question.answer,
        "answer_type": task.answer_type,
        "sub_answer_type": f"{task.answer_type}-{_number(question)}",
        "video": video,
        "candidates": list(question.options),
        "start": 0.0,
        "end": question.time,
        **_ours(question),
    }


def _number(question: WorldQuestion) -> int:
    """Place of the question's template among those of its sub-task, from 1."""
    return 1 + [template.__name__ for _, template in TEMPLATES[question.sub_task]].index(question.template)


def _ours(question: WorldQuestion) -> dict[str, Any]:
    task = SUB_TASKS[question.sub_task]
    return {
        "id": question.id,
        "source": task.source,
        "sub_task": task.key,
        "template": question.template,
        "visible_now": question.visible_now,
        "evidence": [list(interval) for interval in question.evidence],
    }


def flat_files(videos: Iterable[VideoQuestions]) -> dict[str, list[dict[str, Any]]]:
    """Contents of the flat files by source."""
    files: dict[str, list[dict[str, Any]]] = {source: [] for source in SOURCES}
    for _, video, questions in videos:
        for question in questions:
            files[SUB_TASKS[question.sub_task].source].append(flat_item(question, video))
    return files


def streaming_item(scene: Scene, video: str, questions: Sequence[WorldQuestion], fps: int) -> dict[str, Any]:
    """One video of the streaming file, its questions in order of time."""
    return {
        "video_id": video,
        "clip": [0.0, scene.seconds],
        "fps": fps,
        "questions": [
            {
                "question": question.question,
                "options": [f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=False)],
                "answer": question.letter,
                "answer_type": question.category,
                "sub_answer_type": SUB_TASKS[question.sub_task].name,
                "middle_frame_timestamp": question.time,
                **_ours(question),
            }
            for question in questions
        ],
    }
