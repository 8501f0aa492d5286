"""`videochat-online eval standing`: does the model speak at the right moments, and is it better than not looking?

One pass over each video stores P of every frame; thresholds are swept afterwards. Each threshold is fixed on one half
of the videos and counted on the other. Beside every number stand players that never look.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ..command_line import load_from_flags, memory_from_flags
from ..files import write_json, write_text
from ..media.find import VideoLibrary
from ..media.source import check_fps
from ..streaming.gate import Gate
from ..streaming.moments import Outcome, fired, judged, summed, thresholds
from ..streaming.reading import WatchedRow, read_standing_rows, readouts_of
from ..streaming.session import StreamingSession
from ..streaming.standing import Rule
from .intervals import accuracy_interval
from .report import table

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""False alarms a minute of one instruction."""
MAIN_RATE = "1"
PERIODS = (3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Seconds, of the player that speaks every so often, and of the one that speaks once after so many."""
SWAPPED = "another instruction"
Series = dict[str, list[list[float]]]
"""Player -> P of every row at every frame."""
Player = dict[float, list[Outcome]]
"""All levels that a player can be set to -> what comes of each row."""


def run_standing_eval(options: argparse.Namespace) -> int:
    """Raises ValueError for rows, flags and files that cannot be used. A run that was ended goes on where it was."""
    # 1. the rows, and their readouts
    check_fps(options.fps, "--fps")
    Rule(refractory=options.refractory)
    if options.gate_only and not options.gate:
        raise ValueError("--gate-only goes with --gate FILE")
    rows = read_standing_rows(options.annotations)
    names = sorted({row.video for row in rows})[: options.limit and max(0, options.limit)]
    if len(names) < 2:
        raise ValueError(f"{options.annotations}: thresholds are fixed on other videos, so two or more are needed")
    rows = [row for row in rows if row.video in names]
    library = VideoLibrary(options.videos)
    model, processor = load_from_flags(options)
    gate = Gate.load(options.gate, model) if options.gate else None
    session = StreamingSession(model, processor, memory=memory_from_flags(options, model))
    looking, scorers = {}, {"likelihood": None, "gate": gate}
    for name in ("likelihood", *(["gate"] if gate else []))[bool(options.gate_only) :]:
        session.scorer = scorers[name]
        watched = readouts_of(rows, library, session, options.output / "readouts", fps=options.fps)
        looking[name] = [[readout.probability for readout in one.readouts] for one in watched]
    # 2. who plays, and what each is worth
    series = _series(watched, looking)
    report = {
        "model": options.model,
        "gate": options.gate and str(options.gate),
        "fps": options.fps,
        "videos": len(names),
        "instructions": len(watched),
        "moments": sum(len(one.row.moments) for one in watched),
        "minutes": round(sum(one.seconds for one in watched) / 60, 1),
        "players": {
            name: measured(player, watched) for name, player in _players(watched, series, options.refractory).items()
        },
    }
    # 3. the report
    lines = [json.dumps(_line(one, n, series), ensure_ascii=False) + "\n" for n, one in enumerate(watched)]
    write_text(options.output / "probabilities.jsonl", "".join(lines))
    write_json(options.output / "report.json", report)
    write_text(options.output / "report.md", text := as_text(report))
    print(text)
    return 0


def _series(watched: Sequence[WatchedRow], looking: Series) -> Series:
    rng = np.random.default_rng(0)
    blind = {
        "random": [rng.random(len(one.readouts)).tolist() for one in watched],
        "frame difference": [[change / 255 for change in one.changes] for one in watched],
    }
    swapped: Series = {}
    for name, rows in looking.items():
        videos = [list(group) for _, group in groupby(range(len(rows)), key=lambda n: watched[n].video)]
        swapped[f"{name}, {SWAPPED}"] = [rows[n] for part in videos for n in (*part[1:], part[0])]
    return looking | blind | swapped


def _players(watched: Sequence[WatchedRow], series: Series, rest: float) -> dict[str, Player]:
    def player(levels: Sequence[float], said: Callable[[float, int], Sequence[float]]) -> Player:
        """`said(level, n)`: the seconds at which it speaks for row n; those before the instruction do not count."""
        return {
            level: [
                judged(one.row.moments, [t for t in said(level, n) if t >= one.row.begin], one.seconds)
                for n, one in enumerate(watched)
            ]
            for level in levels
        }

    def every(period: float, n: int) -> list[float]:
        return np.arange(watched[n].row.begin + period, watched[n].times[-1] + 1e-6, period).tolist()

    def above(rows: list[list[float]]) -> Callable[[float, int], list[float]]:
        return lambda level, n: fired(watched[n].times, rows[n], Rule(level, rest))

    scored = {name: player(thresholds(rows), above(rows)) for name, rows in series.items()}
    return scored | {
        "every n seconds": player(PERIODS, every),
        "once after n seconds": player((0.0, 1.0, 2.0, *PERIODS), lambda delay, n: [watched[n].row.begin + delay]),
        "silent": player([1.0], lambda level, n: []),
    }


def measured(player: Player, watched: Sequence[WatchedRow]) -> dict[str, Any]:
    """Its curve, and at each rate what the level that has the best recall on one half of the videos gives on the other,
    both ways."""
    rates, parts = {}, {}
    for rate in RATES:
        rows = [judged(one.row.moments, [], one.seconds) for one in watched]
        levels: list[float | None] = []
        for half in (0, 1):
            there = {
                level: summed(o for o, one in zip(found, watched, strict=True) if one.video % 2 != half)
                for level, found in player.items()
            }
            allowed = [(o.recall, -o.alarms, level) for level, o in there.items() if o.alarms <= rate]
            levels.append(max(allowed)[2] if allowed else None)
            if (level := levels[-1]) is not None:
                rows = [player[level][n] if one.video % 2 == half else rows[n] for n, one in enumerate(watched)]
        rates[f"{rate:g}"] = {"levels": levels, **_figures(rows, watched)}
        if f"{rate:g}" == MAIN_RATE:
            parts = _parts(rows, watched)
    points = [[level, o.recall, o.alarms] for level, found in player.items() for o in [summed(found)]]
    return {"rates": rates, "parts_at_1": parts, "curve": points}


def _figures(rows: Sequence[Outcome], watched: Sequence[WatchedRow]) -> dict[str, Any]:
    whole = summed(rows)
    hits, moments = np.zeros((2, max(one.video for one in watched) + 1, 1))
    for one, outcome in zip(watched, rows, strict=True):
        hits[one.video] += outcome.hits
        moments[one.video] += outcome.moments
    return {
        "recall": whole.recall,
        "interval": accuracy_interval(hits, moments, np.ones(1)) if whole.moments else None,
        "alarms_a_minute": whole.alarms,
        "f1": whole.f1,
        "duplicates": whole.duplicates,
        "median_delay": float(np.median(whole.delays)) if whole.delays else None,
        "moments": whole.moments,
    }


def _parts(rows: Sequence[Outcome], watched: Sequence[WatchedRow]) -> dict[str, Any]:
    """By kind, by number of things, and of the instructions whose moment never comes."""
    groups: dict[str, list[int]] = {}
    for n, one in enumerate(watched):
        for name in (one.row.kind, *([] if one.row.things is None else [f"{one.row.things} things"])):
            groups.setdefault(name, []).append(n)
    found = {
        name: _figures([rows[n] for n in group], [watched[n] for n in group]) for name, group in sorted(groups.items())
    }
    empty = summed(o for o, one in zip(rows, watched, strict=True) if not one.row.moments)
    return {"by": found, "alarms_in_an_empty_hour": 60 * empty.alarms if empty.seconds else None}


def _line(one: WatchedRow, number: int, series: Series) -> dict[str, Any]:
    own = {name: [round(p, 5) for p in rows[number]] for name, rows in series.items() if SWAPPED not in name}
    about = {"video": one.row.video, "kind": one.row.kind, "text": one.row.text, "moments": one.row.moments}
    return {**about, "times": one.times, "p": own}


def as_text(report: dict[str, Any]) -> str:
    """The report for a person, as Markdown."""
    players = report["players"]
    rows = []
    for name, found in players.items():
        main, empty = found["rates"][MAIN_RATE], found["parts_at_1"]["alarms_in_an_empty_hour"]
        cells = [f"{one['recall']:.2f} ({one['alarms_a_minute']:.2f})" for one in found["rates"].values()]
        delay = "-" if main["median_delay"] is None else f"{main['median_delay']:.1f} s"
        hour = "-" if empty is None else f"{empty:.0f}"
        rows.append([name, *cells, f"{main['f1']:.2f}", main["duplicates"], delay, hour])
    best = players.get("gate") or players["likelihood"]
    parts = []
    for name, one in {"all": best["rates"][MAIN_RATE], **best["parts_at_1"]["by"]}.items():
        interval = "-" if one["interval"] is None else "{:.2f} to {:.2f}".format(*one["interval"])
        parts.append([name, one["moments"], f"{one['recall']:.2f}", interval, f"{one['alarms_a_minute']:.2f}"])
    size = "{videos} videos, {instructions} instructions, {moments} moments, {minutes} minutes".format(**report)
    lines = [
        f"# Speaking unasked: {report['model']}, {size}, {report['fps']:g} fps",
        "",
        "Recall within 2 s at so many false alarms a minute; thresholds fixed on the other half of the videos "
        "(in brackets: the false alarms that came of it)",
        "",
        *table(("player", *(f"{rate:g}" for rate in RATES), "F1 at 1", "duplicates", "delay", "empty hour"), rows),
        "",
        f"{'gate' if 'gate' in players else 'likelihood'} at 1 false alarm a minute, by kind and number of things "
        "(95 % interval over videos)",
        "",
        *table(("part", "moments", "recall", "interval", "false alarms a minute"), parts),
    ]
    return "\n".join(lines) + "\n"
