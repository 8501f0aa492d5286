"""What a benchmark of speaking unasked is: rows with standing instructions, and its score of when was spoken.

A video that is missing, broken or too short costs its own rows only. Players' levels are fixed on other videos; those
that never look have their constant chosen on the very rows that are scored, so no such player is better. Readouts,
thresholds and the report exist once, in evaluation/standing.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from ...files import read_json
from ...media.find import VideoLibrary
from ...media.readers import MediaError, open_video
from ...streaming.reading import StandingRow, WatchedRow, frames_of
from ..benchmarks.base import Examples
from ..intervals import jackknife_interval
from ..report import table

Said = Sequence[Sequence[float]]
"""The seconds of every word about each row."""
Words = Sequence[Sequence[str]]
"""What was said then."""
Judge = Callable[[list[dict[str, Any]]], str]
"""Chat messages -> the reply of the model that judges."""
Figures = dict[str, float]
"""Of 1."""
Player = dict[float, list[list[float]]]
"""All levels that a player can be set to -> the seconds at which it speaks about each row."""
Spoken = dict[str, list[list[float]]]
"""Player -> the same at one level."""
BLIND = ("silent", "every n seconds", "once after n seconds", "random")


def as_yes_or_no(question: str) -> str:
    return f"{question}? Answer Yes or No."


def finite(value: Any) -> float:
    """A number, also where it stands as text. Raises ValueError for anything else: NaN compares with nothing."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = nan
    if not isfinite(number):
        raise ValueError(f"expected a number, got {value!r:.80}")
    return number


def span_of(value: Any) -> tuple[float, float]:
    """Of [start, end]. Raises ValueError for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"expected [start, end] in seconds, got {value!r:.80}")
    return finite(value[0]), finite(value[1])


class Pushed(ABC):
    """Rows plus a score."""

    name: ClassVar[str]
    title: ClassVar[str]
    layout: ClassVar[str]
    """Names of its annotation files below a folder."""
    tasks: ClassVar[tuple[str, ...]]
    """The figures whose mean is the headline; those that are there."""
    needs_words: ClassVar[bool] = False
    """Its score is of what was said, too."""

    @abstractmethod
    def rows_of(self, record: Mapping[str, Any], path: Path) -> list[StandingRow]:
        """Of one record. What does not fit raises whatever it raises, and the record is left out."""

    @abstractmethod
    def score(self, rows: Sequence[StandingRow], said: Said) -> Figures:
        """By the authors' rule."""

    def score_words(self, rows: Sequence[StandingRow], said: Said, words: Words, judge: Judge | None) -> Figures:
        """What counts the words as well, by the authors' rule; nothing where a judge is needed and there is none."""
        return {}

    def words_prompt(self, row: StandingRow) -> str:
        """What the words are the answer to."""
        return row.text

    def headline(self, figures: Figures) -> float:
        return fmean([figures[task] for task in self.tasks if task in figures] or [0.0])

    def read(self, annotations: Path) -> tuple[list[StandingRow], list[str]]:
        """Rows, those of a video together, and a line for each record that is left out. ValueError: none is left."""
        files = sorted(annotations.glob(self.layout)) if annotations.is_dir() else [annotations]
        if not files:
            raise ValueError(f"no {self.title} annotations in {annotations}: expected {self.layout}")
        rows: list[StandingRow] = []
        examples = Examples()
        for path in files:
            for number, record in enumerate(read_json(path, list, "a list of records")):
                with examples.record(f"{path.name}, item {number}"):
                    rows += self.rows_of(record, path)
        if not rows:
            why = f", such as {examples.left_out[0]}" if examples.left_out else ""
            raise ValueError(f"{annotations} has no rows of {self.title}{why}")
        return sorted(rows, key=lambda row: (row.video, row.start)), examples.left_out


def watchable(rows: Sequence[StandingRow], library: VideoLibrary, fps: float) -> tuple[list[StandingRow], list[str]]:
    """Those of `rows` that have a frame to be read out at, and a line for each video or instruction that has none.

    Videos are opened, and one frame of each is decoded. ValueError where fewer than two videos are left: levels are
    fixed on other videos.
    """
    kept: list[StandingRow] = []
    left_out: list[str] = []
    for (name, _), group in groupby(rows, key=lambda row: (row.video, row.start)):
        about = list(group)
        try:
            with open_video(library.find(about[0].names or (name,))) as video:
                list(video.read([0]))
                for row in about:
                    try:
                        frames_of(video, [row], fps)
                        kept.append(row)
                    except ValueError as error:
                        left_out.append(str(error))
        except MediaError as error:
            left_out.append(f"{name} with {len(about)} of {len(rows)} instructions: {error}")
    if len({row.video for row in kept}) < 2:
        number = len({row.video for row in rows})
        why = f", such as {left_out[0]}" if left_out else ""
        raise ValueError(f"--videos {library.root}: two of the {number} videos or more must be watchable{why}")
    return kept, left_out


def _headline(benchmark: Pushed, rows: Sequence[StandingRow], said: Said, keep: Iterable[int]) -> float:
    """The score of some of the rows."""
    kept = list(keep)
    return benchmark.headline(benchmark.score([rows[n] for n in kept], [said[n] for n in kept]))


def _best(benchmark: Pushed, rows: Sequence[StandingRow], player: Player, keep: Sequence[int]) -> float:
    """The level with the best headline on these rows; of equals the one that speaks least, which is the highest."""
    return max((_headline(benchmark, rows, said, keep), level) for level, said in player.items())[1]


def scored(
    benchmark: Pushed, watched: Sequence[WatchedRow], players: Mapping[str, Player]
) -> tuple[dict[str, Any], Spoken]:
    """The figures of each player with levels fixed on the other half of the videos, and when it then spoke."""
    rows, found, spoken = [one.row for one in watched], {}, {}
    halves = [[n for n, one in enumerate(watched) if one.video % 2 == half] for half in (0, 1)]
    for name, player in players.items():
        levels = [_best(benchmark, rows, player, halves[1 - half]) for half in (0, 1)]
        spoken[name] = said = [player[levels[one.video % 2]][n] for n, one in enumerate(watched)]
        figures = benchmark.score(rows, said)
        without = [
            _headline(benchmark, rows, said, (n for n, one in enumerate(watched) if one.video != video))
            for video in sorted({one.video for one in watched})
        ]
        score = benchmark.headline(figures)
        interval = jackknife_interval(score, without)
        found[name] = {"levels": levels, "score": score, "interval": interval, "figures": figures}
    return {"name": benchmark.name, "players": found, **scores_without_looking(benchmark, rows, players)}, spoken


def scores_without_looking(
    benchmark: Pushed, rows: Sequence[StandingRow], players: Mapping[str, Player]
) -> dict[str, Any]:
    """Of those that never look: the level that is best on these rows, and the best of them in each task."""
    everyone = range(len(rows))
    blind: dict[str, Any] = {}
    best: Figures = {}
    for name in [name for name in BLIND if name in players]:
        for said in players[name].values():
            best |= {task: max(value, best.get(task, 0.0)) for task, value in benchmark.score(rows, said).items()}
        level = _best(benchmark, rows, players[name], everyone)
        figures = benchmark.score(rows, players[name][level])
        blind[name] = {"level": level, "score": benchmark.headline(figures), "figures": figures}
    return {"blind": blind, "best_blind": benchmark.headline(best)}


def as_lines(benchmark: Pushed, found: Mapping[str, Any]) -> list[str]:
    """Markdown, in percent."""
    heads = list(next(iter(found["blind"].values()))["figures"])
    named = [(name, one, one["interval"]) for name, one in found.get("players", {}).items()]
    named += [(f"{name}, best n: {one['level']:.3g}", one, None) for name, one in found["blind"].items()]
    rows = []
    for name, one, interval in named:
        span = "{:.1f} to {:.1f}".format(*(100 * end for end in interval)) if interval else "-"
        rows.append([name, f"{100 * one['score']:.1f}", span, *(f"{100 * one['figures'][head]:.1f}" for head in heads)])
    lines = [
        f"## {benchmark.title}, by its own rule",
        "",
        "Levels fixed on the other half of the videos; of players that never look also the best on these very rows",
        "",
        *table(("player", "score", "95 %", *heads), rows),
        "",
        f"Best without looking, in each task the best such player: {100 * found['best_blind']:.1f}",
    ]
    best = max([one["score"] for name, one in found.get("players", {}).items() if name not in BLIND] or [1.0])
    if best <= found["best_blind"]:
        lines += ["", "**Caution**: no score here is above what is reached without looking."]
    for name, figures in found.get("words", {}).items():
        said = ", ".join(f"{what} {100 * value:.1f}" for what, value in figures.items())
        lines += ["", f"{name}: {said or 'no judge, so no score of its words (--judge)'}"]
    return lines
