"""`videochat-online eval standing`: does the model speak at the right moments, and is it better than not looking?

One pass over each video stores P of every frame; thresholds are swept afterwards. Each threshold is fixed on one half
of the videos and counted on the other. Beside every number stand players that never look. The rows are one's own, or
those of a benchmark (pushed/), which has a score of its own, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ..command_line import load_from_flags, memory_from_flags
from ..drawing import chart
from ..files import write_json, write_text
from ..media.find import VideoLibrary
from ..media.source import check_fps
from ..streaming.gate import Gate
from ..streaming.moments import Outcome, fired, judged, summed, thresholds
from ..streaming.reading import StandingRow, WatchedRow, read_standing_rows, readouts_of, spoken_words
from ..streaming.session import StreamingSession
from ..streaming.standing import Rule
from .afterwards import INCOMPLETE
from .endpoint import EndpointResponder
from .intervals import accuracy_interval
from .pushed.base import Judge, Player, Pushed, as_lines, scored, scores_without_looking, watchable
from .pushed.benchmarks import PUSHED
from .report import table

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""False alarms a minute of one instruction."""
MAIN_RATE = "1"
PERIODS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0)
"""Seconds, of the player that speaks every so often."""
LONGEST_DELAY = 600.0
"""Seconds, of the player that speaks once."""
SWAPPED = "another instruction"
LOOKING = ("likelihood", "gate")
Series = dict[str, list[list[float]]]
"""Player -> P of every row at every frame."""


def run_standing_eval(options: argparse.Namespace) -> int:
    """Raises ValueError for rows, flags and files that cannot be used. A run that was ended goes on where it was."""
    # 1. the rows
    _check_flags(options)
    benchmark = PUSHED[options.benchmark]() if options.benchmark else None
    rows, left_out = _rows(options, benchmark)
    if options.blind:
        return _blind(benchmark, rows)
    judge = _judge(options, benchmark)
    if not (options.videos and options.output):
        raise ValueError("--videos and --output say what is watched and where the report goes; --blind needs neither")
    # 2. their readouts
    library = VideoLibrary(options.videos)
    if benchmark:
        rows, odd = watchable(rows, library, options.fps)
        left_out += odd
        for line in odd:
            print(f"caution: left out: {line}", file=sys.stderr)
    model, processor = load_from_flags(options)
    gate = Gate.load(options.gate, model) if options.gate else None
    session = StreamingSession(model, processor, memory=memory_from_flags(options, model))
    every, own, others = with_others(rows)
    read, looking = _read_out(every, library, session, gate, options, left_out)
    own, others = ([n for n in numbers if read[n].readouts] for numbers in (own, others))
    watched = [read[n] for n in own]
    _check_halves(options, [one.row for one in watched])
    # 3. who plays, and what each is worth
    series = _series(read, own, others, looking)
    players = _players(watched, series, options.refractory)
    report = {
        "model": options.model,
        "gate": options.gate and str(options.gate),
        "fps": options.fps,
        "videos": len({one.row.video for one in watched}),
        "instructions": len(watched),
        "moments": sum(len(one.row.moments) for one in watched),
        "minutes": round(sum(one.seconds for one in watched) / 60, 1),
        "left_out": left_out,
        "players": {name: measured(player, watched) for name, player in players.items()},
        "gate_at_its_threshold": gate and at_threshold(gate.threshold, watched, series["gate"], options.refractory),
    }
    if benchmark:
        found, said = scored(benchmark, watched, players)
        report["benchmark"] = {**found, "words": _words(benchmark, watched, said, library, session, judge, options)}
    # 4. the report
    _write(options.output, report, [_line(one, n, series) for n, one in enumerate(watched)])
    return INCOMPLETE if left_out else 0


def _check_flags(options: argparse.Namespace) -> None:
    check_fps(options.fps, "--fps")
    Rule(refractory=options.refractory)
    if options.gate_only and not options.gate:
        raise ValueError("--gate-only goes with --gate FILE")


def _read_out(
    rows: Sequence[StandingRow], library: VideoLibrary, session: StreamingSession, gate: Gate | None,
    options: argparse.Namespace, left_out: list[str],
) -> tuple[list[WatchedRow], Series]:  # fmt: skip
    """What each player that looks has seen, row by row; what cannot be read is told in `left_out`."""
    looking: Series = {}
    scorers = {LOOKING[0]: None, LOOKING[1]: gate} if gate else {LOOKING[0]: None}
    for name in list(scorers)[bool(options.gate_only) :]:
        session.scorer = scorers[name]
        read, odd = readouts_of(rows, library, session, options.output / "readouts", fps=options.fps)
        left_out += [line for line in odd if line not in left_out]
        looking[name] = [[readout.probability for readout in one.readouts] for one in read]
    return read, looking


def _write(folder: Path, report: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(folder / "probabilities.jsonl", text)
    write_json(folder / "report.json", report)
    write_text(folder / "report.svg", curves_of(report["players"]))
    write_text(folder / "report.md", text := as_text(report))
    print(text)


def _rows(options: argparse.Namespace, benchmark: Pushed | None) -> tuple[list[StandingRow], list[str]]:
    """Those of the first --limit videos, and what of the file is left out."""
    rows, left_out = benchmark.read(options.annotations) if benchmark else (read_standing_rows(options.annotations), [])
    names = sorted({row.video for row in rows})[: options.limit and max(0, options.limit)]
    _check_halves(options, rows := [row for row in rows if row.video in names])
    for line in left_out:
        print(f"caution: left out: {line}", file=sys.stderr)
    return rows, left_out


def _check_halves(options: argparse.Namespace, rows: Sequence[StandingRow]) -> None:
    if len({row.video for row in rows}) < 2:
        raise ValueError(f"{options.annotations}: thresholds are fixed on other videos, so two or more are needed")


def _blind(benchmark: Pushed | None, rows: Sequence[StandingRow]) -> int:
    if benchmark is None:
        raise ValueError("--blind needs --benchmark: one's own rows do not say when their videos end")
    ends = [row.until if isfinite(row.until) else max(time for _, time in row.moments) for row in rows]
    print(f"# {benchmark.title}, {len(rows)} rows\n")
    print("\n".join(as_lines(benchmark, scores_without_looking(benchmark, rows, deaf_players(rows, ends)))))
    return 0


def _judge(options: argparse.Namespace, benchmark: Pushed | None) -> Judge | None:
    """The model that judges words, where one is named."""
    if (options.judge is None) != (options.judge_model is None):
        raise ValueError("--judge URL and --judge-model NAME go together")
    if options.judge is None:
        return None
    if benchmark is None or not benchmark.needs_words:
        raise ValueError("--judge is for a --benchmark that counts words")
    key = os.environ.get(options.api_key_env) or None
    endpoint = EndpointResponder(options.judge, options.judge_model, 1, key=key)
    return lambda messages: endpoint.complete(messages, 16)


def with_others(rows: Sequence[StandingRow]) -> tuple[list[StandingRow], list[int], list[int]]:
    """All that is read out, where each of `rows` stands in it, and whose P each is played with as a control.

    That is another instruction of the same span of the same video, or one of another row, which is asked there as well.
    There are no controls where all rows ask the same.
    """
    spans: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for n, row in enumerate(rows):
        spans[row.video, row.start, row.begin, row.until].append(n)
    every: list[StandingRow] = []
    own, added, mates = [], {}, {}
    for n, row in enumerate(rows):
        own.append(len(every))
        every.append(row)
        span = spans[row.video, row.start, row.begin, row.until]
        mates[n] = span[(span.index(n) + 1) % len(span)]
        if rows[mates[n]].asked == row.asked:
            turned = (*rows[n + 1 :], *rows[:n])
            if (other := next((one for one in turned if one.asked != row.asked), None)) is None:
                return list(rows), list(range(len(rows))), []
            added[n] = len(every)
            every.append(replace(row, text=other.text, question=other.question, expect=other.expect, moments=()))
    return every, own, [added.get(n, own[mates[n]]) for n in range(len(rows))]


def _series(read: Sequence[WatchedRow], own: Sequence[int], others: Sequence[int], looking: Series) -> Series:
    rng = np.random.default_rng(0)
    blind = {
        "random": [rng.random(len(read[n].readouts)).tolist() for n in own],
        "frame difference": [[change / 255 for change in read[n].changes] for n in own],
    }
    seen = {name: [rows[n] for n in own] for name, rows in looking.items()}
    swapped = {f"{name}, {SWAPPED}": [rows[n] for n in others] for name, rows in looking.items() if others}
    return seen | blind | swapped


def _players(watched: Sequence[WatchedRow], series: Series, rest: float) -> dict[str, Player]:
    scored = {
        name: {
            level: [fired(one.times, p, Rule(level, rest)) for one, p in zip(watched, rows, strict=True)]
            for level in thresholds(rows)
        }
        for name, rows in series.items()
    }
    return scored | deaf_players([one.row for one in watched], [one.times[-1] for one in watched])


def deaf_players(rows: Sequence[StandingRow], ends: Sequence[float]) -> dict[str, Player]:
    """Those that need nothing but a clock. `ends`: seconds to which each row is watched."""
    spans = [(row.begin, end) for row, end in zip(rows, ends, strict=True)]
    longest = min(LONGEST_DELAY, max(end - begin for begin, end in spans))
    return {
        "every n seconds": {
            n: [np.arange(begin + n, end + 1e-6, n).tolist() for begin, end in spans] for n in PERIODS
        },
        "once after n seconds": {
            n: [[begin + n] if begin + n <= end else [] for begin, end in spans]
            for n in np.arange(longest + 1).tolist()
        },
        "silent": {1.0: [[] for _ in spans]},
    }  # fmt: skip


def measured(player: Player, watched: Sequence[WatchedRow]) -> dict[str, Any]:
    """Its curve, and at each rate what the level that has the best recall on one half of the videos gives on the other,
    both ways."""
    outcomes = {
        level: [judged(one.row.moments, said, one.seconds) for one, said in zip(watched, rows, strict=True)]
        for level, rows in player.items()
    }
    rates, parts = {}, {}
    for rate in RATES:
        rows = [judged(one.row.moments, [], one.seconds) for one in watched]
        levels: list[float | None] = []
        for half in (0, 1):
            there = {
                level: summed(o for o, one in zip(found, watched, strict=True) if one.video % 2 != half)
                for level, found in outcomes.items()
            }
            allowed = [(o.recall, -o.alarms, level) for level, o in there.items() if o.alarms <= rate]
            levels.append(max(allowed)[2] if allowed else None)
            if (level := levels[-1]) is not None:
                rows = [outcomes[level][n] if one.video % 2 == half else rows[n] for n, one in enumerate(watched)]
        rates[f"{rate:g}"] = {"levels": levels, **_figures(rows, watched)}
        if f"{rate:g}" == MAIN_RATE:
            parts = _parts(rows, watched)
    points = [[level, o.recall, o.alarms] for level, found in outcomes.items() for o in [summed(found)]]
    return {"rates": rates, "parts_at_1": parts, "curve": points}


def at_threshold(
    threshold: float, watched: Sequence[WatchedRow], series: Sequence[Sequence[float]], rest: float
) -> dict[str, float | None]:
    """What one threshold gives that was fixed before."""
    said = [fired(one.times, p, Rule(threshold, rest)) for one, p in zip(watched, series, strict=True)]
    rows = [judged(one.row.moments, times, one.seconds) for one, times in zip(watched, said, strict=True)]
    whole, empty = summed(rows), _in_an_empty_hour(rows, watched)
    about = {"threshold": threshold, "recall": whole.recall, "alarms_a_minute": whole.alarms}
    return {**about, "alarms_in_an_empty_hour": empty}


def _in_an_empty_hour(rows: Sequence[Outcome], watched: Sequence[WatchedRow]) -> float | None:
    """Alarms an hour of the instructions whose moment never comes."""
    empty = summed(o for o, one in zip(rows, watched, strict=True) if not one.row.moments)
    return 60 * empty.alarms if empty.seconds else None


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
    return {"by": found, "alarms_in_an_empty_hour": _in_an_empty_hour(rows, watched)}


def _line(one: WatchedRow, number: int, series: Series) -> dict[str, Any]:
    own = {name: [round(p, 5) for p in rows[number]] for name, rows in series.items() if SWAPPED not in name}
    about = {"video": one.row.video, "kind": one.row.kind, "text": one.row.text, "moments": one.row.moments}
    return {**about, "times": one.times, "p": own}


def _words(
    benchmark: Pushed,
    watched: Sequence[WatchedRow],
    said: dict[str, list[list[float]]],
    library: VideoLibrary,
    session: StreamingSession,
    judge: Judge | None,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """What counts the words, of the players that have some, at the levels that were fixed; their words go to a file."""
    if not benchmark.needs_words:
        return {}
    rows, nothing = [one.row for one in watched], [()] * len(watched)
    figures = {"silent": benchmark.score_words(rows, nothing, nothing, judge)}
    for name in [name for name in LOOKING if name in said]:
        words = spoken_words(rows, said[name], library, session, benchmark.words_prompt, fps=options.fps)
        lines = [
            json.dumps({"video": row.video, "text": row.text, "times": times, "words": texts}, ensure_ascii=False)
            + "\n"
            for row, times, texts in zip(rows, said[name], words, strict=True)
        ]
        write_text(options.output / f"words-{name}.jsonl", "".join(lines))
        figures[name] = benchmark.score_words(rows, said[name], words, judge)
    return figures


def curves_of(players: dict[str, Any]) -> str:
    """Recall over false alarms a minute as SVG: at each rate the best that the levels up to it reach, on all videos."""
    lines = {}
    for name, found in players.items():
        best, points = 0.0, [(0.0, 0.0)]
        for _, recall, alarms in sorted(found["curve"], key=lambda point: point[2]):
            if alarms <= RATES[-1]:
                points.append((alarms, best))
                points.append((alarms, best := max(best, recall)))
        lines[name] = [*points, (RATES[-1], best)]
    return chart("recall over false alarms a minute", lines, width=560, height=360)


def _own_threshold(found: dict[str, float | None] | None) -> list[str]:
    if found is None:
        return []
    hour = found["alarms_in_an_empty_hour"]
    text = (
        "gate at its file's threshold {threshold:.3f}: recall {recall:.2f}, {alarms_a_minute:.2f} false alarms a minute"
    )
    return [f"{text.format(**found)}, {'-' if hour is None else f'{hour:.0f}'} in an hour without moments", ""]


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
    name = LOOKING[LOOKING[1] in players]
    best = players[name]
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
        *_own_threshold(report["gate_at_its_threshold"]),
        "![recall over false alarms a minute](report.svg)",
        "",
        f"{name} at 1 false alarm a minute, by kind and number of things (95 % interval over videos)",
        "",
        *table(("part", "moments", "recall", "interval", "false alarms a minute"), parts),
    ]
    if benchmark := report.get("benchmark"):
        lines += ["", *as_lines(PUSHED[benchmark["name"]](), benchmark)]
    lines += [f"- left out: {line}" for line in report["left_out"]]
    return "\n".join(lines) + "\n"
