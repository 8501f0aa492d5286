"""What the task files of tasks/ovbench name: rows, words, visuals and verdicts, for any model of lmms-eval."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datasets import Dataset
from loguru import logger

from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT

from .clips import write_clip
from .documents import prediction_of, rows_of_source, stream_of
from .metrics import MEAN, POOLED
from .visuals import load_video

__all__ = ["SYSTEM_PROMPT", "doc_to_text", "doc_to_visual", "load_rows", "process_results"]

VISUALS = ("clip", "frames", "stream")
VISUAL_VARIABLE = "OVBENCH_VISUAL"
"""Environment variable: one of VISUALS, instead of what the task file says for a model."""

Row = Mapping[str, Any]


def load_rows(dataset: Dataset) -> Dataset:
    """The questions of the source that the one row of `dataset` names."""
    rows = rows_of_source(dataset[0]["source"])
    for error in sorted({row["error"] for row in rows} - {""}):
        logger.error(f"{error}; its questions count as unanswered")
    return Dataset.from_list(rows)


def doc_to_text(row: Row, lmms_eval_specific_kwargs: Row | None = None) -> str:
    """The published words: of the lmms-eval tasks, or `prompt: official` those of the benchmark's own evaluation."""
    return row["prompts"][(lmms_eval_specific_kwargs or {}).get("prompt", "lmms-eval")]


def doc_to_visual(row: Row, lmms_eval_specific_kwargs: Row | None = None) -> list[Any]:
    """What a model may see of the video: nothing later than the question.

    `visual: clip` the path of a short video file of the window's frames, for any model that takes videos;
    `frames` the same frames as PIL images; `stream` a description of the video and the moment, for `load_video`.
    """
    settings = lmms_eval_specific_kwargs or {}
    visual = os.environ.get(VISUAL_VARIABLE) or settings.get("visual", "clip")
    if visual not in VISUALS:
        raise ValueError(f"unknown visual {visual!r} for OVBench, expected one of {', '.join(VISUALS)}")
    stream = stream_of(row).to_visual()
    if visual == "stream":
        return [stream]
    if row["error"]:
        return []  # asked all the same; process_results calls it unanswered
    window = {name: settings[name] for name in ("fps", "window", "max_frames") if name in settings}
    clip = load_video(stream, **window)
    return list(clip.frames) if visual == "frames" else [str(write_clip(clip))]


def process_results(row: Row, results: list[str]) -> dict[str, dict[str, Any]]:
    prediction = asdict(prediction_of(row, results[0]))
    return {MEAN: prediction, POOLED: prediction}
