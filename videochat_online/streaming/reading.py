"""Rows with standing instructions, and one pass over each of their videos that only reads the instructions out.

{"video", "kind"?, "things"?,
 "standing": {"text", "question"?, "expect"?, "from"?, "until"?, "events": [{"start", "time", "say"?}, ...],
              "holds"?: [[start, end], ...]}}
Seconds of the video; `start` is the onset, from which on one could tell, `time` is when it is certain. Nothing fires
and nothing is said: thresholds can be tried on what is stored. R rows of a video, T frames.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..files import read_json, whole
from ..media.find import VideoLibrary
from ..media.readers import MediaError, VideoReader, open_video
from ..media.sampling import sample_pass
from .session import StreamingSession
from .standing import MOST_STANDING, NEVER, WORDS, Readout, Standing, Watchlist
from .standing_formats import is_foreign, own_rows

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
    until: float = inf
    """It ends there."""
    start: float = 0.0
    """Earlier frames are not shown."""
    names: tuple[str, ...] = ()
    """Where the video may lie, likeliest first; none: as `video` says."""
    item: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What a benchmark says of it besides."""
    holds: tuple[tuple[float, float], ...] | None = None
    """Spans in which what is asked about is so, where that is known: a gate learns from it, too."""

    def __post_init__(self) -> None:
        Watchlist().add(*self.asked)
        if not (isfinite(self.begin) and self.begin <= self.until):
            raise ValueError(f"`from` and `until` are seconds, in this order, got {self.begin} and {self.until}")
        if any(not (isfinite(time) and self.begin <= start <= time) for start, time in self.moments):
            raise ValueError(f"an event's seconds are from <= start <= time, got {self.moments}")

    @property
    def asked(self) -> tuple[str, str | None, str]:
        """What a session is given to watch for."""
        return self.text, self.question, self.expect

    def covers(self, seconds: float) -> bool:
        return self.begin <= seconds <= self.until

    @classmethod
    def of(cls, row: Any, where: str) -> StandingRow:
        """Raises ValueError that names the row."""
        try:
            about = row["standing"]
            moments = tuple(sorted((float(each["start"]), float(each["time"])) for each in about["events"]))
            given = about["text"], about.get("question"), about.get("expect", "Yes")
            begin, kind, things = float(about.get("from", 0.0)), str(row.get("kind", "all")), row.get("things")
            video, until = str(row["video"]), float(about.get("until", inf))
            spans = about.get("holds")
            holds = None if spans is None else tuple((float(start), float(end)) for start, end in spans)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} cannot be read ({type(error).__name__}: {error}); expected {EXPECTED}") from None
        try:
            return cls(video, given[0], moments, *given[1:], begin, kind, things, until, item=about, holds=holds)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def read_standing_rows(path: Path) -> list[StandingRow]:
    """Rows of a JSON file, ours or others' (standing_formats.py), those of a video together. Raises ValueError.

    Of others' sets, rows that cannot be followed are left out, and a warning says how many.
    """
    rows: dict[tuple[str, str, str | None], StandingRow] = {}
    left_out: list[str] = []
    for number, about in enumerate(read_json(path, list, EXPECTED)):
        where, foreign = f"{path}, row {number}", is_foreign(about)
        try:
            for one in own_rows(about) if foreign else [about]:
                row = StandingRow.of(one, where)
                if rows.setdefault((row.video, row.text.strip(), row.question), row) is not row:
                    raise ValueError(f"{where}: {row.video} has the instruction {row.text!r} already")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if not foreign:
                raise
            left_out.append(str(error) if str(error).startswith(where) else f"{where}: {error!r}")
    if left_out:
        warnings.warn(f"{len(left_out)} rows are left out, such as {left_out[0]}", stacklevel=2)
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
    """`times` and `changes` (T,) of the frames; of the n-th thing asked `seen n` (S,) the frames at which
    it stood, `yes n` (S,).

    More instructions than stand at a time are read in further passes. The session is reset before each.
    """
    indices = frames_of(video, rows, fps)
    asked = list(dict.fromkeys(row.asked for row in rows))
    tensors: dict[str, torch.Tensor] = {}
    for first in range(0, len(asked), MOST_STANDING):
        session.reset()
        part = asked[first : first + MOST_STANDING]
        standing: dict[tuple[str, str | None, str], Standing] = {}
        found: dict[Any, list[tuple[int, Readout]]] = {one: [] for one in part}
        before: np.ndarray | None = None
        times, changes = [], []
        for number, frame in enumerate(video.read(indices)):
            for one in part:
                wanted = any(row.asked == one and row.covers(frame.timestamp) for row in rows)
                if wanted and one not in standing:
                    standing[one] = session.watch_for(one[0], question=one[1], expect=one[2], threshold=NEVER)
                elif not wanted and one in standing:
                    session.drop_standing(standing.pop(one).key)
            session.see(frame.image, frame.timestamp)
            for one, each in standing.items():
                assert each.readout is not None, "it was read out before `see` returned"
                found[one].append((number, each.readout))
            now = np.asarray(frame.image, np.float32)
            changes.append(0.0 if before is None else float(np.abs(now - before).mean()))
            times.append(frame.timestamp)
            before = now
        tensors |= {"times": torch.tensor(times, dtype=torch.float64), "changes": torch.tensor(changes)}
        for n, read in enumerate(found.values(), first):
            tensors[f"seen {n}"] = torch.tensor([number for number, _ in read], dtype=torch.long)
            tensors[f"yes {n}"] = torch.tensor([one.yes for _, one in read])
    return tensors


def frames_of(video: VideoReader, rows: Sequence[StandingRow], fps: float) -> list[int]:
    """The frames of a video that are shown for rows of one start. ValueError where none is left for one of the rows."""
    end = max(row.until for row in rows)
    indices = sample_pass(video.timestamps, fps, rows[0].start, end if isfinite(end) else None, video_fps=video.fps)
    times = [float(video.timestamps[index]) for index in indices]
    for row in rows:
        if not any(map(row.covers, times)):
            what = f"{row.text!r:.60} from {row.begin:g} s on; it ends at {video.timestamps[-1]:.1f} s"
            raise ValueError(f"{video.name} has no frame for the instruction {what}")
    return indices


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

    streams = [list(group) for _, group in groupby(rows, key=lambda row: (row.video, row.start))]
    videos = [(library.find(group[0].names or (group[0].video,)), group) for group in streams]
    return tqdm(videos, unit="video", desc="watched", disable=None, leave=False)


def broken(group: Sequence[StandingRow], rows: Sequence[StandingRow], error: MediaError) -> str:
    """The line, shown here, about a video that breaks on the way and takes these of all rows with it."""
    line = f"{group[0].video} with {len(group)} of {len(rows)} instructions: {error}"
    print(f"caution: left out: {line}", file=sys.stderr)
    return line


def readouts_of(
    rows: Sequence[StandingRow], library: VideoLibrary, session: StreamingSession, folder: Path, *, fps: float
) -> tuple[list[WatchedRow], list[str]]:
    """What the session's gate or model thinks of all rows, those of a video in one pass; kept in `folder`.

    The rows of a video that breaks on the way have no readouts, and there is a line about it.
    """
    found: list[WatchedRow] = []
    left_out: list[str] = []
    how = made_with(session, fps)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.video for row in rows))}
    for path, group in videos_of(rows, library):

        def read(path: Path = path, group: list[StandingRow] = group) -> dict[str, torch.Tensor]:
            with open_video(path) as video:
                return read_video(session, video, group, fps=fps)

        about = [(*one.asked, one.begin, str(one.until), one.start) for one in group]
        try:
            stored = kept(folder, [path.name, path.stat().st_size, about, *how], read)
        except MediaError as error:
            left_out.append(broken(group, rows, error))
            found += [WatchedRow(row, numbers[row.video], [], []) for row in group]
            continue
        order = list(dict.fromkeys(row.asked for row in group))
        times, changes = stored["times"].tolist(), stored["changes"].tolist()
        for row in group:
            n = order.index(row.asked)
            stood = zip(stored[f"seen {n}"].tolist(), stored[f"yes {n}"].tolist(), strict=True)
            covered = [(k, Readout(times[k], yes)) for k, yes in stood if row.covers(times[k])]
            readouts, changed = [one for _, one in covered], [changes[k] for k, _ in covered]
            found.append(WatchedRow(row, numbers[row.video], readouts, changed))
    return found, left_out


def spoken_words(
    rows: Sequence[StandingRow],
    said: Sequence[Sequence[float]],
    library: VideoLibrary,
    session: StreamingSession,
    prompt: Callable[[StandingRow], str],
    *,
    fps: float,
) -> list[list[str]]:
    """What the model says about each row at these seconds: the ordinary answer to `prompt`, on the memory of then."""
    found: list[list[str]] = [[] for _ in rows]
    for _, group in groupby(range(len(rows)), key=lambda n: (rows[n].video, rows[n].start)):
        numbers = list(group)
        due = sorted((time, n) for n in numbers for time in said[n])
        if not due:
            continue
        first = rows[numbers[0]]
        session.reset()
        with open_video(library.find(first.names or (first.video,))) as video:
            for frame in video.read(frames_of(video, [rows[n] for n in numbers], fps)):
                session.see(frame.image, frame.timestamp)
                while due and due[0][0] <= frame.timestamp:
                    row = due.pop(0)[1]
                    found[row].append(session.ask(prompt(rows[row]), max_new_tokens=WORDS, keep=False))
                if not due:
                    break
    return found
