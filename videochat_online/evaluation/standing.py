"""`videochat-online eval standing`: does the model speak at the right moments, and is it better than not looking?

One pass over each video stores P of every frame; thresholds are swept afterwards. Each threshold is fixed on one half
of the videos and counted on the other. Beside every number stand players that never look.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..command_line import add_memory_flags, add_model_flags, load_from_flags, memory_from_flags
from ..data.standing import StandingRow, read_standing_rows
from ..files import write_json, write_text
from ..media.find import VideoLibrary
from ..media.source import check_fps
from ..streaming.gate import Gate
from ..streaming.moments import Outcome, fired, judged, summed, thresholds
from ..streaming.reading import VideoReadouts, readouts_of
from ..streaming.session import StreamingSession
from ..streaming.standing import Likelihood, Rule
from .intervals import accuracy_interval

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""False alarms a minute of one instruction."""
MAIN_RATE = 1.0
PERIODS = (3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Seconds, of the player that speaks every so often, and of the one that speaks once after so many."""
SWAPPED = "another instruction"


def add_standing_command(names: Any) -> None:
    what = "whether the model speaks unasked at the right moments (docs/proactive.md)"
    parser = names.add_parser("standing", help=what, description=what)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="ROWS.json", help="rows with `video` and `standing`")
    add("--videos", type=Path, required=True, help="folder below which the videos lie")
    add("--output", type=Path, required=True, help="folder for readouts, probabilities and report")
    add("--gate", type=Path, metavar="FILE", help="score this gate too, beside the likelihood")
    add("--fps", type=float, default=1.0, help="frames watched a second")
    add("--refractory", type=float, default=3.0, metavar="SECONDS", help="silence after each word")
    add("--limit", type=int, metavar="N", help="only the first N videos")
    add_model_flags(parser)
    add_memory_flags(parser)
    parser.set_defaults(run=run_standing_eval)


@dataclass(frozen=True)
class WatchedRow:
    """An instruction with what was stored of its stream."""

    row: StandingRow
    video: int
    times: list[float]

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.row.begin


@dataclass(frozen=True)
class StandingPlayer:
    """`said(level)`: the seconds at which it speaks, for each row; `levels` are all that it can be set to."""

    name: str
    levels: list[float]
    said: Callable[[float], list[list[float]]]


def run_standing_eval(options: argparse.Namespace) -> int:
    """Raises ValueError for rows, flags and files that cannot be used. A run that was ended goes on where it was."""
    # 1. the rows, and their readouts
    check_fps(options.fps, "--fps")
    Rule(refractory=options.refractory)
    rows = read_standing_rows(options.annotations)
    names = sorted({row.video for row in rows})[: options.limit and max(0, options.limit)]
    if len(names) < 2:
        raise ValueError(f"{options.annotations}: thresholds are fixed on other videos, so two or more are needed")
    rows = [row for row in rows if row.video in names]
    library = VideoLibrary(options.videos)
    model, processor = load_from_flags(options)
    gate = Gate.load(options.gate, model) if options.gate else None
    session = StreamingSession(model, processor, memory=memory_from_flags(options, model))
    layers = gate.layers if gate else ()
    found = readouts_of(rows, library, session, options.output / "readouts", fps=options.fps, layers=layers)
    # 2. who plays, and what each is worth
    watched = [
        WatchedRow(row, number, list(read.times.tolist()))
        for number, (group, read) in enumerate(found)
        for row in group
    ]
    series = _series(found, gate)
    players = _players(watched, series, options.refractory)
    report = {
        "model": options.model,
        "gate": options.gate and str(options.gate),
        "fps": options.fps,
        "videos": len(found),
        "instructions": len(watched),
        "moments": sum(len(one.row.moments) for one in watched),
        "minutes": round(sum(one.seconds for one in watched) / 60, 1),
        "players": {player.name: measured(player, watched) for player in players},
    }
    # 3. the report
    lines = [json.dumps(_line(one, n, series), ensure_ascii=False) + "\n" for n, one in enumerate(watched)]
    write_text(options.output / "probabilities.jsonl", "".join(lines))
    write_json(options.output / "report.json", report)
    write_text(options.output / "report.md", text := as_text(report))
    print(text)
    return 0


def _series(found: list[tuple[list[StandingRow], VideoReadouts]], gate: Gate | None) -> dict[str, list[list[float]]]:
    """Player -> P of every row at every frame."""
    rng = np.random.default_rng(0)
    looking = ("likelihood", *(["gate"] if gate else []))
    series: dict[str, list[list[float]]] = {name: [] for name in (*looking, "random", "frame difference")}
    for group, read in found:
        for number in range(len(group)):
            readouts = read.of(number)
            series["likelihood"].append([Likelihood()(one, ()) for one in readouts])
            if gate:
                series["gate"].append(gate.series(readouts))
            series["random"].append(rng.random(len(read.times)).tolist())
            series["frame difference"].append((read.changes / 255).tolist())
    for name in looking:
        rows = iter(series[name])
        parts = [[next(rows) for _ in group] for group, _ in found]
        series[f"{name}, {SWAPPED}"] = [p for part in parts for p in (*part[1:], part[0])]
    return series


def _players(watched: list[WatchedRow], series: dict[str, list[list[float]]], rest: float) -> list[StandingPlayer]:
    def by_threshold(rows: list[list[float]]) -> Callable[[float], list[list[float]]]:
        return lambda level: [
            [t for t in fired(one.times, p, Rule(level, rest)) if t >= one.row.begin]
            for one, p in zip(watched, rows, strict=True)
        ]

    def every(period: float) -> list[list[float]]:
        return [np.arange(one.row.begin + period, one.times[-1] + 1e-6, period).tolist() for one in watched]

    def once(delay: float) -> list[list[float]]:
        return [[one.row.begin + delay] for one in watched]

    scored = [StandingPlayer(name, thresholds(rows), by_threshold(rows)) for name, rows in series.items()]
    silent = StandingPlayer("silent", [1.0], lambda level: [[] for _ in watched])
    blind = StandingPlayer("every n seconds", list(PERIODS), every)
    return [*scored, blind, StandingPlayer("once after n seconds", [0.0, 1.0, 2.0, *PERIODS], once), silent]


def measured(player: StandingPlayer, watched: list[WatchedRow]) -> dict[str, Any]:
    """Its curve, and at each rate what a level that was fixed on the other half of the videos gives."""
    # 1. every level on every row
    curve = []
    for level in player.levels:
        said = player.said(level)
        curve.append([judged(one.row.moments, s, one.seconds) for one, s in zip(watched, said, strict=True)])
    halves = [[one.video % 2 == half for one in watched] for half in (0, 1)]
    # 2. at each rate: the level that has the best recall on one half, counted on the other
    rates = {}
    for rate in RATES:
        rows: list[Outcome] = [Outcome()] * len(watched)
        levels = []
        for half in (0, 1):
            there = [summed(o for o, mine in zip(row, halves[1 - half], strict=True) if mine) for row in curve]
            allowed = [(o.recall, -o.alarms, n) for n, o in enumerate(there) if o.alarms <= rate]
            chosen = max(allowed)[2] if allowed else None
            levels.append(None if chosen is None else player.levels[chosen])
            for n, mine in enumerate(halves[half]):
                if mine:
                    one = watched[n]
                    rows[n] = judged(one.row.moments, [], one.seconds) if chosen is None else curve[chosen][n]
        rates[f"{rate:g}"] = {"levels": levels, **_figures(rows, watched)}
        if rate == MAIN_RATE:
            parts = _parts(rows, watched)
    swept = [summed(row) for row in curve]
    best = max(swept, key=lambda one: one.f1, default=Outcome())
    points = [[level, o.recall, o.alarms] for level, o in zip(player.levels, swept, strict=True)]
    return {"rates": rates, "best_f1_on_these_videos": best.f1, "parts_at_1": parts, "curve": points}


def _figures(rows: Sequence[Outcome], watched: Sequence[WatchedRow]) -> dict[str, Any]:
    whole = summed(rows)
    num_videos = max((one.video for one in watched), default=0) + 1
    hits, moments = np.zeros((num_videos, 1)), np.zeros((num_videos, 1))
    for one, outcome in zip(watched, rows, strict=True):
        hits[one.video] += outcome.hits
        moments[one.video] += outcome.moments
    interval = accuracy_interval(hits, moments, np.ones(1)) if whole.moments else None
    return {
        "recall": whole.recall,
        "interval": interval,
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
        name: _figures([rows[n] for n in members], [watched[n] for n in members])
        for name, members in sorted(groups.items())
    }
    empty = summed(o for o, one in zip(rows, watched, strict=True) if not one.row.moments)
    return {"by": found, "alarms_in_an_empty_hour": 60 * empty.alarms if empty.seconds else None}


def _line(one: WatchedRow, number: int, series: dict[str, list[list[float]]]) -> dict[str, Any]:
    own = {name: [round(p, 5) for p in rows[number]] for name, rows in series.items() if SWAPPED not in name}
    about = {"video": one.row.video, "kind": one.row.kind, "text": one.row.text, "moments": one.row.moments}
    return {**about, "times": one.times, "p": own}


def as_text(report: dict[str, Any]) -> str:
    """The report for a person, as Markdown."""
    size = "{videos} videos, {instructions} instructions, {moments} moments, {minutes} minutes".format(**report)
    lines = [
        f"# Speaking unasked: {report['model']}, {size}, {report['fps']:g} fps",
        "",
        "Recall within 2 s at so many false alarms a minute; thresholds fixed on the other half of the videos "
        "(in brackets: the false alarms that came of it)",
        "",
        "| player | " + " | ".join(f"{rate:g}" for rate in RATES) + " | F1 at 1 | duplicates | delay | empty hour |",
        "|---" * (len(RATES) + 5) + "|",
    ]
    for name, found in report["players"].items():
        cells = [f"{one['recall']:.2f} ({one['alarms_a_minute']:.2f})" for one in found["rates"].values()]
        main, empty = found["rates"][f"{MAIN_RATE:g}"], found["parts_at_1"]["alarms_in_an_empty_hour"]
        delay = "-" if main["median_delay"] is None else f"{main['median_delay']:.1f} s"
        more = [f"{main['f1']:.2f}", str(main["duplicates"]), delay, "-" if empty is None else f"{empty:.0f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, *more]) + " |")
    best = "gate" if "gate" in report["players"] else "likelihood"
    lines += ["", f"{best} at 1 false alarm a minute, by kind and number of things (95 % interval over videos)", ""]
    lines += ["| part | moments | recall | interval | false alarms a minute |", "|---" * 5 + "|"]
    parts = {"all": report["players"][best]["rates"]["1"], **report["players"][best]["parts_at_1"]["by"]}
    for name, one in parts.items():
        interval = "-" if one["interval"] is None else "{:.2f} to {:.2f}".format(*one["interval"])
        numbers = f"{one['moments']} | {one['recall']:.2f} | {interval} | {one['alarms_a_minute']:.2f}"
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines) + "\n"
