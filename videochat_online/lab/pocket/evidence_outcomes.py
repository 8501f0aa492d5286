"""What a run of the evidence came to: right or wrong, question by question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

NUM_DRAWS = 1000
"""Resamplings of the videos behind every interval."""


@dataclass(frozen=True)
class Outcome:
    """Right or wrong, question by question, of one run."""

    scores: dict[str, Any]
    cost: dict[str, Any]
    correct: np.ndarray
    """bool (Q,)."""
    visible_now: np.ndarray
    """bool (Q,): whether the last moments alone show the answer."""
    video: np.ndarray
    """int (Q,): which video a question is about."""
    level: np.ndarray
    """int (Q,): how hard the video is."""

    def share(self, chosen: np.ndarray) -> str:
        """Accuracy of the chosen questions in percent with its 95 % interval, whole videos resampled."""
        if not chosen.any():
            return "-"
        low, high = self._interval(chosen)
        return f"{100 * self.correct[chosen].mean():.1f} ({low:.0f} to {high:.0f})"

    def _interval(self, chosen: np.ndarray) -> tuple[float, float]:
        right = np.bincount(self.video[chosen], self.correct[chosen], self.video.max() + 1)
        count = np.bincount(self.video[chosen], minlength=self.video.max() + 1)
        right, count = right[count > 0], count[count > 0]
        drawn = np.random.default_rng(0).integers(len(count), size=(NUM_DRAWS, len(count)))
        low, high = np.percentile(right[drawn].sum(1) / count[drawn].sum(1), [2.5, 97.5])
        return 100 * low, 100 * high


def read_outcome(output: Path, annotations: Path) -> Outcome:
    """Join a run's predictions with what the world knows about each question."""
    known = {
        question["id"]: (number, question["visible_now"])
        for number, item in enumerate(json.loads(annotations.read_text()))
        for question in item["questions"]
    }
    levels = [int(item["video_id"].split("-l")[1].split("-")[0]) for item in json.loads(annotations.read_text())]
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    report = json.loads((output / "report.json").read_text())
    videos = np.array([known[row["id"]][0] for row in rows])
    return Outcome(
        report["scores"], report["cost"],
        np.array([bool(row["correct"]) for row in rows]),
        np.array([known[row["id"]][1] for row in rows]),
        videos, np.array(levels)[videos],
    )  # fmt: skip


def pooled(runs: Sequence[Outcome]) -> Outcome:
    """The questions of several worlds as of one; scores and cost stay the first one's."""
    firsts = np.cumsum([0, *(run.video.max() + 1 for run in runs[:-1])])
    return replace(
        runs[0],
        correct=np.concatenate([run.correct for run in runs]),
        visible_now=np.concatenate([run.visible_now for run in runs]),
        video=np.concatenate([run.video + first for run, first in zip(runs, firsts, strict=True)]),
        level=np.concatenate([run.level for run in runs]),
    )
