"""Rows with standing instructions, and one pass over each of their videos that only reads the instructions out.

{"video", "kind"?, "things"?,
 "standing": {"text", "question"?, "expect"?, "from"?, "events": [{"start", "time", "say"?}, ...]}}
Seconds of the video; `start` is the onset, from which on one could tell, `time` is when it is certain. Nothing fires
and nothing is said: thresholds can be tried, and gates trained, on what is stored. R rows of a video, T frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..files import read_json, whole
from ..media.find import VideoLibrary
from ..media.readers import VideoReader, open_video
from ..media.sampling import sample_pass
from .session import StreamingSession
from .standing import MOST_STANDING, Readout, Scorer, Watchlist

EXPECTED = "a list of rows with `video` and `standing` (text, events with start and time)"


@dataclass(frozen=True)
class StandingRow:
    """One instruction about one video."""

    video: str
    text: str
    moments: tuple[tuple[float, float], ...]
    """(onset, certain), in order of time."""
    question: str | None = None
    expect: str = "Yes"
    begin: float = 0.0
    """The instruction is given there."""
    kind: str = "all"
    things: int | None = None

    @classmethod
    def of(cls, row: Any, where: str) -> StandingRow:
        """Raises ValueError that names the row."""
        try:
            about = row["standing"]
            moments = tuple(sorted((float(each["start"]), float(each["time"])) for each in about["events"]))
            given = about["text"], about.get("question"), about.get("expect", "Yes")
            begin, kind, things = float(about.get("from", 0.0)), str(row.get("kind", "all")), row.get("things")
            found = cls(str(row["video"]), given[0], moments, *given[1:], begin, kind, things)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} cannot be read ({type(error).__name__}: {error}); expected {EXPECTED}") from None
        try:
            Watchlist().add(*given)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if any(not (isfinite(time) and begin <= start <= time) for start, time in moments):
            raise ValueError(f"{where}: an event's seconds are from <= start <= time, got {moments}")
        return found


def read_standing_rows(path: Path) -> list[StandingRow]:
    """Rows of a JSON file, those of a video together. Raises ValueError."""
    rows: dict[tuple[str, str, str | None], StandingRow] = {}
    for number, about in enumerate(read_json(path, list, EXPECTED)):
        row = StandingRow.of(about, where := f"{path}, row {number}")
        if rows.setdefault((row.video, row.text.strip(), row.question), row) is not row:
            raise ValueError(f"{where}: {row.video} has the instruction {row.text!r} already")
    if not rows:
        raise ValueError(f"{path} holds no rows; expected {EXPECTED}")
    return sorted(rows.values(), key=lambda row: row.video)


@dataclass(frozen=True)
class WatchedRow:
    """A row with what was read out for it."""

    row: StandingRow
    video: int
    """Number of its video, from 0."""
    readouts: list[Readout]
    changes: list[float]
    """(T,) how much each frame differs from the one before (of 255)."""

    @property
    def times(self) -> list[float]:
        return [one.time for one in self.readouts]

    @property
    def seconds(self) -> float:
        """Watched for the instruction."""
        return max(0.0, self.readouts[-1].time - self.row.begin)


class Listener(Scorer):
    """A scorer that keeps every readout and never says that the moment has come."""

    seconds = inf

    def __init__(self, layers: Sequence[int] = ()) -> None:
        self.layers = layers

    def __call__(self, now: Readout, earlier: Sequence[Readout]) -> float:
        return 0.0


def read_video(
    session: StreamingSession, video: VideoReader, rows: Sequence[StandingRow], *, fps: float
) -> dict[str, torch.Tensor]:
    """What the scorer of the session keeps at every frame: `times` (T,), `yes` (R, T), `hidden` (R, T, L, D) float16 of
    L layers (0: none), `changes` (T,).

    More instructions than stand at a time are read in further passes. The session is reset before each.
    """
    indices = sample_pass(video.timestamps, fps, video_fps=video.fps)
    found: list[list[Readout]] = []
    changes: list[float] = []
    for first in range(0, len(rows), MOST_STANDING):
        session.reset()
        part = rows[first : first + MOST_STANDING]
        standing = [session.watch_for(one.text, question=one.question, expect=one.expect) for one in part]
        before: np.ndarray | None = None
        changes = []
        for frame in video.read(indices):
            session.see(frame.image, frame.timestamp)
            now = np.asarray(frame.image, np.float32)
            changes.append(0.0 if before is None else float(np.abs(now - before).mean()))
            before = now
        found += [each.readouts for each in standing]
    none = torch.zeros(0, 0)
    hidden = [torch.stack([none if one.hidden is None else one.hidden for one in row]) for row in found]
    return {
        "times": torch.tensor([one.time for one in found[0]], dtype=torch.float64),
        "yes": torch.tensor([[one.yes for one in row] for row in found]),
        "hidden": torch.stack(hidden).half(),
        "changes": torch.tensor(changes),
    }


def readouts_of(
    rows: Sequence[StandingRow],
    library: VideoLibrary,
    session: StreamingSession,
    folder: Path,
    *,
    fps: float,
    layers: Sequence[int],
) -> list[WatchedRow]:
    """Of all rows, those of a video together: one pass a video; what `folder` holds, of the same weights and settings,
    is not read again."""
    from tqdm import tqdm

    # 1. all videos, before hours of work; whoever trains a model on gets other sums
    videos = [(library.find([name]), list(group)) for name, group in groupby(rows, key=lambda row: row.video)]
    parts = session.model.parts.values()
    weights = [float(p.detach().double().abs().sum()) for part in parts for p in part.parameters()]
    session.scorer = Listener(layers)
    folder.mkdir(parents=True, exist_ok=True)
    # 2. one after another
    found: list[WatchedRow] = []
    for number, (path, group) in enumerate(tqdm(videos, unit="video", desc="readouts", disable=None, leave=False)):
        asked = [(one.text, one.question, one.expect) for one in group]
        about = path.name, path.stat().st_size, asked, fps, list(layers), weights, session.memory.config.to_dict()
        file = folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"
        if not file.is_file():
            with open_video(path) as video:
                tensors = read_video(session, video, group, fps=fps)
            with whole(file, durable=False) as beside:
                save_file(tensors, beside)
        stored = load_file(file)
        times, changes = stored["times"].tolist(), stored["changes"].tolist()
        for row, yes, hidden in zip(group, stored["yes"].tolist(), stored["hidden"], strict=True):
            found.append(WatchedRow(row, number, list(map(Readout, times, yes, hidden)), changes))
    return found
