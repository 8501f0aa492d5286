"""The runs of the evidence: the worlds they are made on, the commands that make them, and what each came to.

A run that is there is resumed, not repeated. Right or wrong is kept question by question. Knows no tables and no plots.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.intervals import accuracy_interval

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class World:
    """Held-out streams of one length, and the rate they are watched at."""

    name: str
    seconds: float
    fps: float
    videos: int
    levels: tuple[int, ...] = (1, 2, 3)
    seed: int = 0

    def flags(self) -> list[str]:
        levels = [str(level) for level in self.levels]
        numbers = ["--videos", str(self.videos), "--seed", str(self.seed), "--seconds", f"{self.seconds:g}"]
        return ["--split", "test", *numbers, "--fps", "4", "--level", *levels]


def half_minute(seed: int, videos: int) -> World:
    """One of three worlds of streams of 30 seconds that share no scene."""
    return World(f"30s-{seed}", 30, 1, videos, seed=seed)


@dataclass
class Laboratory:
    """Where runs are kept, and how one is made."""

    work: Path
    model: str
    runs: Path
    """Where the stages of the model under test were trained."""
    commands: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> None:
        """One command of the program, in a process of its own; noted. Raises CalledProcessError where it fails."""
        shown = [str(Path(one).relative_to(self.work)) if one.startswith(str(self.work)) else one for one in arguments]
        self.commands.append(" ".join(["videochat-online", *shown]))
        print("==", self.commands[-1], flush=True)
        subprocess.run(
            [sys.executable, "-m", "videochat_online.cli", *arguments], check=True, stdout=subprocess.DEVNULL
        )

    def world(self, world: World) -> Path:
        folder = self.work / "worlds" / world.name
        self.run("world", "build", str(folder), *world.flags())
        return folder

    def evaluate(self, name: str, world: World, *flags: str, model: str | None = None) -> RunOutcome:
        """Ask all questions of a world; `flags` say with which memory."""
        folder, output = self.world(world), self.work / "runs" / name
        annotations = folder / "ovbench" / "ovbench.json"
        self.run(
            "eval", "ovbench", "--model", model or self.model, "--annotations", str(annotations),
            "--videos", str(folder / "videos"), "--output", str(output), "--fps", f"{world.fps:g}",
            "--answer", "likelihood", "--resume", *flags,
        )  # fmt: skip
        return read_outcome(output, annotations)


@dataclass(frozen=True)
class RunOutcome:
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
        """Accuracy of the chosen questions in percent with its 95 % interval, a video as one draw."""
        if not chosen.any():
            return "-"
        share, low, high = self.with_interval(chosen)
        return f"{share:.1f} ({low:.0f} to {high:.0f})"

    def with_interval(self, chosen: np.ndarray) -> tuple[float, float, float]:
        """Accuracy of the chosen questions in percent, and the ends of its interval; 0 and 100 for a single video."""
        right = np.bincount(self.video[chosen], self.correct[chosen], self.video.max() + 1)
        count = np.bincount(self.video[chosen], minlength=self.video.max() + 1)
        low, high = accuracy_interval(right[:, None], count[:, None].astype(float), np.ones(1)) or (0.0, 1.0)
        return 100 * float(self.correct[chosen].mean()), 100 * low, 100 * high


def read_outcome(output: Path, annotations: Path) -> RunOutcome:
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
    return RunOutcome(
        report["scores"], report["cost"],
        np.array([bool(row["correct"]) for row in rows]),
        np.array([known[row["id"]][1] for row in rows]),
        videos, np.array(levels)[videos],
    )  # fmt: skip


def pooled(runs: Sequence[RunOutcome]) -> RunOutcome:
    """The questions of several worlds as of one; scores and cost stay the first one's."""
    firsts = np.cumsum([0, *(run.video.max() + 1 for run in runs[:-1])])
    return replace(
        runs[0],
        correct=np.concatenate([run.correct for run in runs]),
        visible_now=np.concatenate([run.visible_now for run in runs]),
        video=np.concatenate([run.video + first for run, first in zip(runs, firsts, strict=True)]),
        level=np.concatenate([run.level for run in runs]),
    )
