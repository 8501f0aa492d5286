"""What the published offline scripts show and ask, for the tasks of lmms-eval that stand for the same benchmark.

They have every n-th frame of a video file, n = its rate / 4 rounded, thinned evenly to 1,800, in a memory of 24/24/144,
and words of their own for Video-MME and MVBench. Not known, and so a choice of ours: where the length of a video stands
and how it is printed, and which times the frames are given (here: as in OVBench's scripts, the end of their display).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT
from videochat_online.media.readers import MediaError

from .inputs import Request
from .visuals import Stream

FPS, FRAMES, MEMORY = 4.0, 1800, "24/24/144"
TAIL = "\nAnswer:  \n"
LENGTH = "This entire video lasts for {} seconds.\n"
MVBENCH, VIDEOMME = "mvbench_", "videomme"
FPS_OF_FOLDERS = 3.0
"""MVBench's folders of frames (Episodic Reasoning)."""
SEGMENT_SLACK = 1.0
"""Seconds a stored segment may be longer than its bounds say: it was cut at a key frame, say."""


def as_published(request: Request, task: str, row: Mapping[str, Any]) -> Request:
    """The request with the scripts' words and part of the video; of other tasks as it is, under the system text.

    ValueError where a row of these tasks is not as expected.
    """
    if request.stream is not None and request.stream.end is not None:
        raise ValueError(
            f"{task}: protocol=published is for questions about whole videos; OVBench has `videochat-online eval "
            "ovbench --protocol published`"
        )
    request = replace(request, generation=replace(request.generation, system_prompt=SYSTEM_PROMPT))
    if not has_words(task) or request.stream is None:
        return request
    try:
        prompt = words(row["question"], row["candidates"] if task.startswith(MVBENCH) else row["options"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{task}: a row without question and options as expected: {error}") from error
    stream = part_of(request.stream, row) if task.startswith(MVBENCH) else request.stream
    return replace(request, prompt=prompt, stream=stream, length_line=LENGTH if task == VIDEOMME else "")


def has_words(task: str) -> bool:
    """Whether the scripts have words for a task of lmms-eval; with subtitles they have none."""
    return task == VIDEOMME or task.startswith(MVBENCH)


def words(question: str, options: list[str]) -> str:
    """`options`: texts, or "A. text" as Video-MME has them."""
    texts = [re.sub(rf"^{letter}\.\s*", "", text) for letter, text in zip("ABCDEFGHIJ", options, strict=False)]
    lines = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCDEFGHIJ", texts, strict=False))
    return f"Question: {question}\n{lines}".rstrip() + TAIL


def part_of(stream: Stream, row: Mapping[str, Any]) -> Stream:
    """The part from `start` to `end` of a row that has these. A file that holds no more than that stays whole.

    For lmms-eval keeps most of these videos cut already (folders named *_segment), and then second 0 is the start.
    """
    if Path(stream.path).is_dir():
        stream = replace(stream, fps=FPS_OF_FOLDERS)
    bounds = row.get("start"), row.get("end")
    if any(bound is None for bound in bounds):
        return stream
    start, end = map(float, bounds)
    if not 0 <= start < end:
        raise ValueError(f"{stream.path}: start and end must be seconds in this order, got {start} and {end}")
    try:
        video = stream.open()
    except MediaError:
        return stream  # said, and counted, when it is to be watched
    with video.reader:
        is_segment = video.end <= end - start + SEGMENT_SLACK
    return stream if is_segment else replace(stream, start=start, clip_end=end)
