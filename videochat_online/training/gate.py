"""`videochat-online gate train` and `gate turns`: what rows with standing instructions teach.

train: a gate, in minutes on a CPU. The model stays as it is: what a gate sees of its maps is taken once a video and
stored. R rows of a video, T frames.
turns: timed questions for the ordinary trainer. Each decision is a row, a question with the answer Yes or No at one
second, as it is read out when it counts. Balanced by choosing: two seconds of each moment, two near misses, one quiet
second; and what was to be said, if told.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf, isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..command_line import load_from_flags, memory_from_flags
from ..files import write_json
from ..media.find import VideoLibrary
from ..media.readers import MediaError, open_video
from ..media.sampling import sample_pass
from ..media.source import check_fps
from ..streaming.gate import Gate, GateNetwork, looks_at
from ..streaming.moments import Moments, fired, judged, summed, thresholds
from ..streaming.reading import StandingRow, broken, kept, made_with, read_standing_rows, videos_of
from ..streaming.session import StreamingSession
from ..streaming.standing import Readout, Rule, as_question

NOW_FRAMES = 2
"""Frames from a moment on at which it is to be told; the one behind them counts neither way."""
UNSURE_SECONDS = 0.5
"""Around the ends of what holds, in which it is not learned from."""
MOMENT_WEIGHT, HOLDS_WEIGHT = 3.0, 2.0
VIDEOS, ROWS, FRAMES = 6, 12, 10
"""Of a step: videos, rows of each and frames of each."""
RATE, DECAY, WARM_UP = 2e-3, 0.02, 100
"""Of the optimizer: its rate after so many steps (a quarter of them, where they are few), and weight decay."""
QUIET, CHANGE = 0.15, 0.3
"""How often a frame is taken in a step, where one of the rows' moments counts 1: any frame, and where what holds ends
or begins."""
HELD_OUT = 6
"""Each n-th video chooses the epoch and the threshold."""
LEVELS = 240
"""Thresholds that are tried."""
ALARMS, EMPTY_ALARMS = 1.0, 9.0
"""At the threshold, on these videos: false ones a minute of an instruction, and alarms in an hour of one whose moment
does not come. The aim is 15: among one instruction of each kind are more of those that are hard."""


def run_gate_train(options: argparse.Namespace) -> int:
    """Raises ValueError for rows, flags and files that cannot be used."""
    # 1. what is asked for
    check_fps(options.fps, "--fps")
    if options.epochs < 1 or options.output.suffix != ".safetensors":
        raise ValueError("--epochs is at least 1 and --output ends in .safetensors")
    rows = read_standing_rows(options.rows)
    if len({row.video for row in rows}) < 2 or not any(row.moments for row in rows):
        raise ValueError(f"{options.rows}: a gate needs rows of two videos or more, and some moments in them")
    library = VideoLibrary(options.videos)
    # 2. what there is to see
    model, processor = load_from_flags(options)
    session = StreamingSession(model, processor, memory=memory_from_flags(options, model))
    folder = options.looks or options.output.with_suffix(".looks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        gate = Gate(GateNetwork(*Gate.sizes(model)), 0.5, Path(options.model).name)
        lessons, num_broken = lessons_of(rows, library, session, folder, gate, fps=options.fps)
        if len(lessons) < 2:
            raise ValueError(f"--videos {options.videos}: a gate needs two videos or more that can be read")
        # 3. the gate, and the threshold on videos that it has not seen
        epoch, loss, (recall, alarms, empty) = fit(gate, lessons, epochs=options.epochs)
    gate.save(options.output)
    hour = "" if empty is None else f", {empty:.0f} alarms in an hour without moments"
    print(
        f"{options.output}: {sum(len(one.rows) for one in lessons)} instructions, {len(lessons)} videos, "
        f"{num_broken} left out, epoch {epoch}, held-out loss {loss:.3f}\n"
        f"threshold {gate.threshold:.3f}: recall {recall:.2f} at {alarms:.2f} false alarms a minute{hour}, "
        f"on the held-out videos that chose it"
    )
    return 0


@dataclass(frozen=True)
class Lesson:
    """One video with all that is to be told about it."""

    rows: Sequence[StandingRow]
    times: list[float]
    seen: torch.Tensor
    """(T, P, C + D), see `gate.cells_of`."""
    words: list[tuple[torch.Tensor, torch.Tensor]]
    """Of each row: as it is said, and as the question that stands for it."""
    wanted: torch.Tensor
    """(R, T, 2): the moment has come, what is asked about holds; NaN where either answer would do."""

    @property
    def whole(self) -> tuple[range, range]:
        """All rows, all frames."""
        return range(len(self.rows)), range(len(self.times))


def lessons_of(
    rows: Sequence[StandingRow],
    library: VideoLibrary,
    session: StreamingSession,
    folder: Path,
    gate: Gate,
    *,
    fps: float,
) -> tuple[list[Lesson], int]:
    """A session is shown each video once; what it keeps for the gate stays in `folder`. Last: the videos that broke on
    the way, which are left out."""
    lessons, num_broken, how = [], 0, made_with(session, fps)
    session.scorer = gate
    for path, group in videos_of(rows, library):
        try:
            stored = kept(folder, [path.name, path.stat().st_size, *how], partial(_looks, session, path, fps))
        except MediaError as error:
            broken(group, rows, error)
            num_broken += 1
            continue
        times = stored["times"].tolist()
        both = [(row.text, f"{row.question} {row.expect}" if row.question else row.text) for row in group]
        words = [(session.language.words(one), session.language.words(other)) for one, other in both]
        wanted = torch.tensor([[targets(row.moments, times, row.begin), held(row, times)] for row in group])
        for told, row in zip(wanted, group, strict=True):
            told[:, [time > row.until for time in times]] = nan
        lessons.append(Lesson(group, times, stored["cells"], words, wanted.transpose(1, 2)))
    return lessons, num_broken


def _looks(session: StreamingSession, path: Path, fps: float) -> dict[str, torch.Tensor]:
    """`times` (T,) and `cells` (T, P, C + D) of a video."""
    session.reset()
    times, cells = [], []
    with open_video(path) as video:
        for frame in video.read(sample_pass(video.timestamps, fps, video_fps=video.fps)):
            session.see(frame.image, frame.timestamp)
            times.append(frame.timestamp)
            cells.append(session.looks[-1][1])
    return {"times": torch.tensor(times, dtype=torch.float64), "cells": torch.stack(cells)}


def targets(moments: Moments, times: Sequence[float], begin: float) -> list[float]:
    """1 on the first frames from each moment on, 0 elsewhere; NaN where either answer would do."""
    wanted = [nan if time < begin else 0.0 for time in times]
    for start, certain in moments:
        later = [n for n, time in enumerate(times) if time >= certain]
        for n, time in enumerate(times):
            if start <= time < certain or n in later[NOW_FRAMES : NOW_FRAMES + 1]:
                wanted[n] = nan if wanted[n] == 0.0 else wanted[n]
        for n in later[:NOW_FRAMES]:
            wanted[n] = 1.0
    return wanted


def held(row: StandingRow, times: Sequence[float]) -> list[float]:
    """1 where what a row asks about holds, 0 where not; NaN where that is not known."""
    if row.holds is None:
        return [nan] * len(times)
    wanted = [float(any(start <= time < end for start, end in row.holds)) for time in times]
    ends = [end for span in row.holds for end in span]
    return [
        nan if any(abs(t - end) < UNSURE_SECONDS for end in ends) else w for t, w in zip(times, wanted, strict=True)
    ]


def fit(gate: Gate, lessons: Sequence[Lesson], *, epochs: int) -> tuple[int, float, tuple[float, float, float | None]]:
    """Trains the gate and sets its threshold. Of the held-out videos: the epoch that was best, its loss, and what
    `set_threshold` gives."""
    network, tests = gate.network, lessons[::HELD_OUT]
    training = [one for number, one in enumerate(lessons) if number % HELD_OUT]
    every = torch.cat([one.seen[::4].flatten(0, 1) for one in training]).float()[:, : len(network.mean)]
    network.mean.copy_(every.mean(0))
    network.scale.copy_(1 / every.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    num_steps = epochs * -(-len(training) // VIDEOS)
    warm = min(WARM_UP, 1 + num_steps // 4)
    rate = lambda step: min(1.0, (step + 1) / warm, 2 * (1 - step / num_steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    for epoch in range(1, epochs + 1):
        network.train()
        for part in torch.randperm(len(training)).split(VIDEOS):
            optimizer.zero_grad()
            sum((loss_of(network, training[k], *_some(training[k])) for k in part), torch.zeros(())).backward()
            nn.utils.clip_grad_norm_(network.parameters(), float(VIDEOS))
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            loss = sum(float(loss_of(network, one, *one.whole)) for one in tests) / len(tests)
        if best is None or loss < best[0]:
            best = loss, epoch, {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None, "there is an epoch"
    network.load_state_dict(best[2])
    return best[1], best[0], set_threshold(gate, tests)


def _some(lesson: Lesson) -> tuple[list[int], list[int]]:
    """Rows and frames of a video for one step: of all kinds alike, with moments twice as often; mostly where something
    happens for one of these rows."""
    kinds = [row.kind for row in lesson.rows]
    chances = [(1 + bool(row.moments)) / kinds.count(row.kind) for row in lesson.rows]
    rows = torch.multinomial(torch.tensor(chances), min(ROWS, len(chances))).tolist()
    now, holds = lesson.wanted[rows].nan_to_num(0).unbind(-1)
    changes = holds.diff(dim=1, prepend=holds[:, :1]).abs()
    weights = QUIET + (now + CHANGE * changes).sum(0)
    return rows, torch.multinomial(weights, min(FRAMES, len(weights))).tolist()


def loss_of(network: GateNetwork, lesson: Lesson, rows: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
    """Over these rows and frames of a video, in training each row in one of its two wordings."""
    words = [lesson.words[n][int(torch.randint(2, ())) if network.training else 1] for n in rows]
    found = network(lesson.seen, looks_at(lesson.times, frames), words)
    wanted, loss = lesson.wanted[list(rows)][:, list(frames)], torch.zeros(())
    for k, weight in enumerate((MOMENT_WEIGHT, HOLDS_WEIGHT)):
        known = ~wanted[..., k].isnan()
        if known.any():
            asked, right = found[..., k][known], wanted[..., k][known]
            loss = loss + F.binary_cross_entropy_with_logits(asked, right, pos_weight=torch.tensor(weight))
    return loss


def set_threshold(gate: Gate, tests: Sequence[Lesson]) -> tuple[float, float, float | None]:
    """The one with the most recall at ALARMS and EMPTY_ALARMS or fewer. Returns that recall, the false alarms a minute,
    and those in an hour of what has no moment, where there is any such row."""
    watched, series = [], []
    for one in tests:
        margins = gate.margins(one.times, one.seen, [words for _, words in one.words])
        for row, given in zip(one.rows, margins, strict=True):
            stood = [k for k, time in enumerate(one.times) if row.covers(time)] or [len(one.times) - 1]
            series.append([Readout(0.0, given[k]).probability for k in stood])
            watched.append((row, [one.times[k] for k in stood]))

    def outcome(level: float) -> tuple[float, float, float | None]:
        told = [
            judged(row.moments, fired(times, p, Rule(level)) if max(p) >= level else [], times[-1] - row.begin)
            for (row, times), p in zip(watched, series, strict=True)
        ]
        whole = summed(told)
        empty = summed(one for one, (row, _) in zip(told, watched, strict=True) if not row.moments)
        return whole.recall, whole.alarms, 60 * empty.alarms if empty.seconds else None

    outcomes = [(*outcome(level), level) for level in thresholds(series, LEVELS)]
    tried = [one for one in outcomes if one[1] <= ALARMS and (one[2] or 0.0) <= EMPTY_ALARMS]
    recall, alarms, empty, gate.threshold = max(tried, key=lambda one: (one[0], one[3])) if tried else outcomes[-1]
    return recall, alarms, empty


NEAR_SECONDS = 5.0
"""From a moment within which a quiet second is a near miss."""
NUM_NEAR, NUM_QUIET = 2, 1
"""Of each moment, beside the NOW_FRAMES seconds of the moment itself."""
BEHIND = 10.0
"""Seconds behind the last moment that are still known to be quiet."""
LONGEST = 7 * 24 * 3600.0
"""Seconds of a video, at most: each of them is looked at."""


def decisions(row: StandingRow, rng: np.random.Generator, end: float = inf) -> list[tuple[str, float, str, str]]:
    """(now, near, quiet or say; second; question; answer) of one row, before the `end` of its video in seconds.

    ValueError for a moment beyond LONGEST.
    """
    last = max([row.begin, *(time for _, time in row.moments)]) + BEHIND
    if not (isfinite(row.begin) and last <= LONGEST):
        raise ValueError(f"{row.video}, {row.text!r:.60}: {last:g} s is no second of a video of {LONGEST:g} s at most")
    times = np.arange(ceil(row.begin), min(row.until, last, end) + 1e-6).tolist()
    wanted = dict(zip(times, targets(row.moments, times, row.begin), strict=True))
    far = {t: min((abs(t - edge) for m in row.moments for edge in m), default=last) for t in times}
    groups = {
        "now": [t for t in times if wanted[t] == 1],
        "near": [t for t in times if wanted[t] == 0 and far[t] <= NEAR_SECONDS],
        "quiet": [t for t in times if wanted[t] == 0 and far[t] > NEAR_SECONDS],
    }
    number = max(1, len(row.moments))
    most = {"now": len(times), "near": NUM_NEAR * number, "quiet": NUM_QUIET * number}
    other = "No" if row.expect == "Yes" else "Yes"
    asked, found = row.question or as_question(row.text), []
    for name, seconds in groups.items():
        chosen = rng.permutation(seconds)[: most[name]].tolist()
        found += [(name, t, asked, row.expect if name == "now" else other) for t in sorted(chosen)]
    said = [(one["time"], one.get("say")) for one in row.item.get("events", ()) if one["time"] <= end]
    return found + [("say", float(t), row.text, text) for t, text in said if text and text not in ("Yes", "No")]


def run_gate_turns(options: argparse.Namespace) -> int:
    """Raises ValueError for rows that cannot be used, MediaError for a video that is not there."""
    library = VideoLibrary(options.videos) if options.videos else None
    ends: dict[str, float] = {}
    rng, counts = np.random.default_rng(options.seed), Counter[str]()
    written: list[dict[str, Any]] = []
    for row in read_standing_rows(options.rows):
        if library and row.video not in ends:
            with open_video(library.find([row.video])) as video:
                ends[row.video] = video.duration
        for name, second, question, answer in decisions(row, rng, ends.get(row.video, inf)):
            counts[name] += 1
            asked = {"from": "human", "value": f"<video>\n{question}", "timestamps": second}
            written.append({"video": row.video, "conversations": [asked, {"from": "gpt", "value": answer}]})
    write_json(options.output, written)
    print(f"{options.output}: {len(written)} rows, " + ", ".join(f"{counts[name]} {name}" for name in counts))
    return 0
