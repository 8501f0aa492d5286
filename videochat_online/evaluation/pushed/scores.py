"""A benchmark's own score of all players: the level fixed on other videos, beside the best player that never looks.

Players that never look have their constant chosen on the very rows that are scored, so no such player is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...streaming.reading import StandingRow, WatchedRow
from ..intervals import jackknife_interval
from ..report import table
from .base import Figures, Pushed, Said

Player = dict[float, list[list[float]]]
"""All levels that a player can be set to -> the seconds at which it speaks about each row."""
Spoken = dict[str, list[list[float]]]
"""Player -> the same at one level."""
BLIND = ("silent", "every n seconds", "once after n seconds", "random")


def _best(benchmark: Pushed, rows: Sequence[StandingRow], player: Player, keep: Sequence[int]) -> float:
    """The level with the best headline on these rows; of equals the one that speaks least, which is the highest."""
    some = [rows[n] for n in keep]
    return max(
        (benchmark.headline(benchmark.score(some, [said[n] for n in keep])), level) for level, said in player.items()
    )[1]


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
        without = [_without(benchmark, watched, said, video) for video in sorted({one.video for one in watched})]
        score = benchmark.headline(figures)
        interval = jackknife_interval(score, without)
        found[name] = {"levels": levels, "score": score, "interval": interval, "figures": figures}
    return {"name": benchmark.name, "players": found, **blind_scores(benchmark, rows, players)}, spoken


def _without(benchmark: Pushed, watched: Sequence[WatchedRow], said: Said, video: int) -> float:
    kept = [n for n, one in enumerate(watched) if one.video != video]
    return benchmark.headline(benchmark.score([watched[n].row for n in kept], [said[n] for n in kept]))


def blind_scores(benchmark: Pushed, rows: Sequence[StandingRow], players: Mapping[str, Player]) -> dict[str, Any]:
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
    rows = []
    for name, one in found.get("players", {}).items():
        interval = (
            "-" if one["interval"] is None else "{:.1f} to {:.1f}".format(*(100 * end for end in one["interval"]))
        )
        figures = [f"{100 * one['figures'][head]:.1f}" for head in heads]
        rows.append([name, f"{100 * one['score']:.1f}", interval, *figures])
    for name, one in found["blind"].items():
        figures = [f"{100 * one['figures'][head]:.1f}" for head in heads]
        rows.append([f"{name}, best n: {one['level']:.3g}", f"{100 * one['score']:.1f}", "-", *figures])
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
