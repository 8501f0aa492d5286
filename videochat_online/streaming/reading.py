"""Rows with standing instructions, and one pass over each of their videos that only reads the instructions out.

{"video", "kind"?, "things"?,
 "standing": {"text", "question"?, "expect"?, "from"?, "events": [{"start", "time", "say"?}, ...],
              "holds"?: [[start, end], ...]}}
Seconds of the video; `start` is the onset, from which on one could tell, `time` is when it is certain. Nothing fires
and nothing is said: thresholds can be tried on what is stored. R rows of a video, T frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
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
from .standing import MOST_STANDING, Readout, Watchlist

NEVER = 1 - 2**-53
"""A threshold that no probability comes to, but for one that is certain."""
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
    holds: tuple[tuple[float, float], ...] | None = None
    """Spans in which what is asked about is so, where that is known: a gate learns from it, too."""

    @classmethod
    def of(cls, row: Any, where: str) -> StandingRow:
        """Raises ValueError that names the row."""
        try:
            about = row["standing"]
            moments = tuple(sorted((float(each["start"]), float(each["time"])) for each in about["events"]))
            given = about["text"], about.get("question"), about.get("expect", "Yes")
            begin, kind, things = float(about.get("from", 0.0)), str(row.get("kind", "all")), row.get("things")
            spans = about.get("holds")
            holds = None if spans is None else tuple((float(start), float(end)) for start, end in spans)
            found = cls(str(row["video"]), given[0], moments, *given[1:], begin, kind, things, holds)
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


def read_video(
    session: StreamingSession, video: VideoReader, rows: Sequence[StandingRow], *, fps: float
) -> dict[str, torch.Tensor]:
    """At every frame: `times` (T,), `yes` (R, T), `changes` (T,).

    More instructions than stand at a time are read in further passes. The session is reset before each.
    """
    indices = sample_pass(video.timestamps, fps, video_fps=video.fps)
    found: list[list[Readout]] = []
    changes: list[float] = []
    for first in range(0, len(rows), MOST_STANDING):
        session.reset()
        part = rows[first : first + MOST_STANDING]
        standing = [
            session.watch_for(one.text, question=one.question, expect=one.expect, threshold=NEVER) for one in part
        ]
        read: list[list[Readout]] = [[] for _ in part]
        before: np.ndarray | None = None
        changes = []
        for frame in video.read(indices):
            session.see(frame.image, frame.timestamp)
            for kept, each in zip(read, standing, strict=True):
                assert each.readout is not None, "it was read out before `see` returned"
                kept.append(each.readout)
            now = np.asarray(frame.image, np.float32)
            changes.append(0.0 if before is None else float(np.abs(now - before).mean()))
            before = now
        found += read
    return {
        "times": torch.tensor([one.time for one in found[0]], dtype=torch.float64),
        "yes": torch.tensor([[one.yes for one in row] for row in found]),
        "changes": torch.tensor(changes),
    }


def kept(folder: Path, about: Sequence[Any], make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What `make` gives; where `folder` holds what was made of the same things `about`, that."""
    file = folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tensors = make()
        with whole(file, durable=False) as beside:
            save_file(tensors, beside)
    return load_file(file)


def made_with(session: StreamingSession, fps: float) -> list[Any]:
    """All that what is read of a video depends on; whoever trains a model on gets other sums."""
    networks = [*session.model.parts.values(), *([session.scorer.network] if session.scorer else [])]
    weights = [float(p.detach().double().abs().sum()) for part in networks for p in part.parameters()]
    return [fps, weights, session.memory.config.to_dict()]


def videos_of(rows: Sequence[StandingRow], library: VideoLibrary) -> Iterable[tuple[Path, list[StandingRow]]]:
    """Each video with its rows, and progress shown; all of them found before hours of work."""
    from tqdm import tqdm

    videos = [(library.find([name]), list(group)) for name, group in groupby(rows, key=lambda row: row.video)]
    return tqdm(videos, unit="video", desc="watched", disable=None, leave=False)


def readouts_of(
    rows: Sequence[StandingRow], library: VideoLibrary, session: StreamingSession, folder: Path, *, fps: float
) -> list[WatchedRow]:
    """What the session's gate or model thinks of all rows, those of a video in one pass; kept in `folder`."""
    found: list[WatchedRow] = []
    how = made_with(session, fps)
    for number, (path, group) in enumerate(videos_of(rows, library)):
        asked = [(one.text, one.question, one.expect) for one in group]

        def read(path: Path = path, group: list[StandingRow] = group) -> dict[str, torch.Tensor]:
            with open_video(path) as video:
                return read_video(session, video, group, fps=fps)

        stored = kept(folder, [path.name, path.stat().st_size, asked, *how], read)
        times, changes = stored["times"].tolist(), stored["changes"].tolist()
        for row, yes in zip(group, stored["yes"].tolist(), strict=True):
            found.append(WatchedRow(row, number, list(map(Readout, times, yes)), changes))
    return found
