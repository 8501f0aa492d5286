"""OVBench's annotations as rows of a data set of lmms-eval: one question a row, with where its video lies.

Both annotation layouts are read by videochat_online; a row can be turned back into what its scorer takes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.benchmarks.ovbench import PROMPTS
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Question, Reply, Verdict, VideoTask
from videochat_online.evaluation.runner import refuse_equal_ids
from videochat_online.evaluation.videos import open_task_video
from videochat_online.media.find import VideoLibrary
from videochat_online.media.readers import MediaError

from .visuals import Stream

ROOT_VARIABLE = "OVBENCH_ROOT"
"""Environment variable: the folder with annotations/ and videos/."""


def data_root() -> Path:
    """The benchmark's folder. ValueError where the variable is not set or the folder is not complete."""
    value = os.environ.get(ROOT_VARIABLE, "")
    root = Path(value).expanduser()
    missing = [name for name in ("annotations", "videos") if not (root / name).is_dir()]
    if not value or missing:
        problem = f"{value} has no folder {' and no folder '.join(missing)}" if value else "it is not set"
        raise ValueError(f"{ROOT_VARIABLE} must name the folder that holds annotations/ and videos/, but {problem}")
    return root


def rows_of_source(source: str) -> list[dict[str, Any]]:
    """All questions of one source (ava, coin, hirest, tao); ValueError where there are none."""
    root = data_root()
    found = {name: OVBench(name).read(root / "annotations", splits=(source,)) for name in PROMPTS}
    for record in next(iter(found.values())).left_out:
        logging.getLogger(__name__).warning("left out: %s", record)
    loaded = [examples.tasks for examples in found.values()]
    refuse_equal_ids(loaded[0])
    library = VideoLibrary(root / "videos")
    rows = [row for versions in zip(*loaded, strict=True) for row in _rows_of_video(versions, library)]
    if not rows:
        raise ValueError(f"no questions of {source} in {root / 'annotations'}: leave out the task ovbench_{source}")
    return rows


def _rows_of_video(versions: tuple[VideoTask, ...], library: VideoLibrary) -> list[dict[str, Any]]:
    """`versions`: the same video once for each way of wording its questions."""
    task = versions[0]
    about_video = {
        "video_id": task.id,
        "video": task.video,
        "start": task.start,
        "fps": task.fps,
        "moments": sorted({question.timestamp for question in task.questions}),
        **_location(task, library),
    }
    questions = zip(*(version.questions for version in versions), strict=True)
    return [{**_row(dict(zip(PROMPTS, worded, strict=True))), **about_video} for worded in questions]


def _row(worded: Mapping[str, Question]) -> dict[str, Any]:
    question = next(iter(worded.values()))
    return {
        "id": question.id,
        "timestamp": question.timestamp,
        "sub_task": question.task,
        "category": question.category,
        "source": question.source,
        "options": list(question.options),
        "answer": question.answer,
        "prompts": {name: one.prompt for name, one in worded.items()},
    }


def _location(task: VideoTask, library: VideoLibrary) -> dict[str, Any]:
    """Path and clock of a video, or what is wrong with it."""
    try:
        video = open_task_video(task, library)
    except MediaError as error:
        return {"path": "", "first_frame_at": 0.0, "error": str(error)}
    with video.reader:
        return {"path": str(library.find(task.names)), "first_frame_at": float(video.timestamps[0]), "error": ""}


def stream_of(row: Mapping[str, Any]) -> Stream:
    """The row's video up to its question."""
    return Stream(
        path=row["path"],
        start=row["start"],
        end=row["timestamp"],
        fps=row["fps"],
        first_frame_at=row["first_frame_at"],
        moments=tuple(row["moments"]),
    )


def prediction_of(row: Mapping[str, Any], response: str) -> Prediction:
    """A model's words judged by our scorer. A question whose video could not be opened is unanswered and wrong."""
    question = Question(
        id=row["id"],
        timestamp=row["timestamp"],
        prompt=row["prompts"]["official"],
        answer=row["answer"],
        task=row["sub_task"],
        category=row["category"],
        source=row["source"],
        labels=tuple(f"({chr(ord('A') + i)})" for i in range(len(row["options"]))),
        options=tuple(row["options"]),
    )
    task = VideoTask(row["video_id"], row["video"], (row["video"],), (question,), start=row["start"])
    if row["error"]:
        return Prediction.unanswered(task, question, row["error"])
    reply = Reply(response, 0, 0, None, None, 0.0, 0.0)
    verdict: Verdict = OVBench().judge(question, reply)
    return Prediction.of(task, question, reply, verdict)
