"""Whether memory helps, tested so that it can fail: questions of every age, fair baselines, three worlds, intervals.

    bash shell/pocket/evidence.sh remembering

Writes remembering.md with its plots. Each answer is kept as it comes: run again, it goes on where it was, and with
--minutes it ends in time and says how much was asked. Intervals are of 95 %, a stream being one draw; differences are
paired, question by question, to the pyramid. A question counts where every way that is compared has answered it. Q
questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...command_line import CommandParser
from ...drawing import chart
from ...evaluation.intervals import accuracy_interval, difference_interval
from ...evaluation.questions import age_of
from ...evaluation.report import provenance
from ...files import write_text
from ...processing import load_model
from ...streaming.chooser import Chooser
from ...streaming.recall import named_times
from ...streaming.session import StreamingSession
from ..shapeworld.render import render_frames
from ..shapeworld.simulate import sample_stream
from .aged import FPS, SEEDS, YOUNGEST, Streams
from .evidence import markdown_table
from .showing import CHOSEN, RECALL, WAYS, Bench, read_rows

if TYPE_CHECKING:
    from ...model.backbone import Backbone
    from ...processing import Processor

NEWEST_16 = 16
"""Frames: what is older than these, no window of 16 shows."""
EDGES = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 600.0)
"""Seconds, of the ages of evidence that a plot puts together."""
PLOTTED = ("pyramid", "newest 16x1", "uniform 19x1", RECALL, CHOSEN, "perfect")
TITLES = {
    "five_things": "Whether memory helps where five things are to be seen",
    "choosing": "Whether choosing frames helps",
    "distraction": "The model that was trained against distraction",
}
FEW = 12
"""A point of a plot stands on at least so many questions."""


@dataclass(frozen=True)
class Asked:
    """One question as the page needs it."""

    world: str
    stream: str
    length: float
    age: float
    frames_ago: int
    is_now: bool
    names_time: bool
    chance: float


@dataclass(frozen=True)
class Results:
    """All questions that were asked in every way."""

    asked: list[Asked]
    right: dict[str, np.ndarray]
    """bool (Q,) by what was shown."""
    positions: dict[str, np.ndarray]
    milliseconds: dict[str, np.ndarray]

    def of(self, chosen: np.ndarray) -> Results:
        """The chosen questions, bool (Q,)."""
        parts = (
            {name: each[chosen] for name, each in part.items()}
            for part in (self.right, self.positions, self.milliseconds)
        )
        return Results([one for one, kept in zip(self.asked, chosen, strict=True) if kept], *parts)

    def mask(self, **wanted: Any) -> np.ndarray:
        """bool (Q,): the questions of which these fields have these values."""
        return np.array(
            [all(getattr(one, name) == value for name, value in wanted.items()) for one in self.asked], bool
        )

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(V, 1) of each stream."""
        _, stream = np.unique([one.stream for one in self.asked], return_inverse=True)
        return np.bincount(stream, values.astype(float))[:, None]

    def share(self, name: str) -> tuple[float, float, float]:
        """Percent right, and the ends of its interval."""
        count = self.sums(np.ones(len(self.asked)))
        low, high = accuracy_interval(self.sums(self.right[name]), count, np.ones(1)) or (0.0, 1.0)
        return 100 * float(self.right[name].mean()), 100 * low, 100 * high

    def difference(self, name: str, base: str) -> tuple[float, float, float]:
        """Percent by which `name` is better than `base`, and the ends of its interval."""
        one, other, count = self.right[name], self.right[base], self.sums(np.ones(len(self.asked)))
        ends = difference_interval(self.sums(one & ~other), self.sums(~one & other), count, np.ones(1)) or (-1.0, 1.0)
        return 100 * float(one.mean() - other.mean()), 100 * ends[0], 100 * ends[1]


def read_results(work: Path) -> Results:
    """Join the answers with what the worlds know about their questions."""
    asked: dict[str, Asked] = {}
    for path in sorted((work / "worlds").glob("*/ovbench.json")):
        world = path.parent.name.rpartition("-")[0]
        for item in json.loads(path.read_text(encoding="utf-8")):
            for row in item["questions"]:
                asked[row["id"]] = _asked(world, item, row)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_rows(work / "answers.jsonl"):
        found.setdefault(row["id"], {})[row["shown"]] = row
    names = list(dict.fromkeys(name for rows in found.values() for name in rows if RECALL in rows))
    names = [name for name in names if all(name in rows for rows in found.values() if RECALL in rows)]
    ids = [one for one, rows in found.items() if RECALL in rows and one in asked]
    columns = (
        {name: np.array([found[one][name][field] for one in ids]) for name in names}
        for field in ("right", "positions", "ms")
    )
    return Results([asked[one] for one in ids], *columns)


def _asked(world: str, item: dict[str, Any], row: dict[str, Any]) -> Asked:
    length, time = float(item["clip"][1]), float(row["middle_frame_timestamp"])
    age, fps = age_of(row["evidence"], time), FPS[length]
    newest = np.floor(time * fps) / fps
    ago = int(np.floor((newest - (time - age)) * fps)) + 1  # frames behind the evidence
    names_time = bool(named_times(row["question"], 0.0, newest))
    return Asked(world, item["video_id"], length, age, ago, row["visible_now"], names_time, 1 / len(row["options"]))


def past_table(results: Results, base: str = "pyramid") -> str:
    """One row a way: percent right of several groups of questions, the difference to `base`, and what it costs."""
    past = results.of(~results.mask(is_now=True))
    old = np.array([one.frames_ago >= NEWEST_16 for one in past.asked], bool)
    groups = {
        "only in the past": past,
        "... within the newest 16 frames": past.of(~old),
        "... older": past.of(old),
        "names a time": past.of(past.mask(names_time=True)),
        "names none": past.of(past.mask(names_time=False)),
        "visible now": results.of(results.mask(is_now=True)),
    }
    rows = []
    for name in results.right:
        cost = f"{results.positions[name].mean():.0f}", f"{np.median(results.milliseconds[name]):.0f}"
        rows.append([name, *cost, *(_cell(group, name, base) for group in groups.values())])
    heads = (f"{name} ({len(group.asked)})" for name, group in groups.items())
    return markdown_table(("shown", "positions", "ms", *heads), rows)


def _cell(group: Results, name: str, base: str) -> str:
    if not group.asked:
        return "-"
    if name == base:
        value, low, high = group.share(name)
        return f"**{value:.1f}** ({low:.0f} to {high:.0f})"
    if (group.right[name] == group.right[base]).all():
        return f"{100 * group.right[name].mean():.1f} (the same)"
    value, low, high = group.difference(name, base)
    return f"{100 * group.right[name].mean():.1f} ({low:+.0f} to {high:+.0f})"


def plot(results: Results, title: str) -> str:
    """Percent right over the age of the evidence."""
    lines: dict[str, list[tuple[float, ...]]] = {name: [] for name in PLOTTED if name in results.right}
    ages = np.array([one.age for one in results.asked])
    ticks = {}
    for begin, end in pairwise(EDGES):
        chosen = (begin <= ages) & (ages < end) & ~results.mask(is_now=True)
        if chosen.sum() >= FEW:
            middle = float(np.log2(begin * end) / 2)
            ticks[middle] = f"{begin:g} to {end:g} s"
            for name, line in lines.items():
                line.append((middle, *results.of(chosen).share(name)))
    return chart(title, lines, scale=(0, 100), ticks=ticks, width=620)


def write_page(file: Path, work: Path, command: str, costs: Sequence[Sequence[str]]) -> None:
    """`file`, such as remembering.md, and its plots beside it; `costs`: rows of what a question costs."""
    results = read_results(work)
    if not results.asked:
        raise ValueError(f"{work} holds no question that was asked in every way: let the run go on for longer")
    file.parent.mkdir(parents=True, exist_ok=True)
    spent = sum(row["seconds"] for row in read_rows(work / "time.jsonl"))
    streams, planned = {one.stream for one in results.asked}, 0
    for path in (work / "worlds").glob("*/ovbench.json"):
        num = len(json.loads(path.read_text(encoding="utf-8")))
        planned += -(-num // 2) if path.parent.name.startswith("30s") else num  # see `ask_everything`
    sections = [
        f"# {TITLES.get(file.stem, 'Whether memory helps')}, by age of evidence",
        HOW.format(
            questions=len(results.asked), streams=len(streams), planned=planned,
            youngest=f"{YOUNGEST:g}", minutes=f"{spent / 60:.0f}",
            chance=f"{100 * np.mean([one.chance for one in results.asked]):.0f}",
            shown="; ".join(text for name, text in SHOWN.items() if name in results.right),
        ),
    ]  # fmt: skip
    for length in sorted({one.length for one in results.asked}):
        part = results.of(results.mask(length=length))
        picture = f"{file.stem}_{length:g}s.svg"
        if drawn := plot(part, f"streams of {length:g} s: % right by age of evidence"):
            write_text(file.parent / picture, drawn + "\n")
        num = len({one.stream for one in part.asked})
        sections += [f"## {length:g} s ({num} streams)", past_table(part)]
        sections += [f"![{length:g} s: percent right by age]({picture})"] if drawn else []
    long = results.of(~results.mask(length=30.0))
    if long.asked:
        sections += ["## 2 and 10 minutes together", past_table(long), "## The same, each world alone"]
        sections += [worlds(long)]
    heads = ("question after 150 frames", "positions of the prompt", "of these computed", "ms to the first token")
    sections += ["## What a question costs", markdown_table(heads, costs)]
    about = provenance(command.split())
    about["command"] = command
    sections += ["## How it was made", "\n".join(f"- {key}: {value}" for key, value in about.items())]
    write_text(file, "\n\n".join(sections) + "\n")


def worlds(results: Results) -> str:
    """Past-only questions of each world, which share no scene."""
    seeds = sorted({one.world.rpartition("-")[2] for one in results.asked})
    parts = []
    for seed in seeds:
        own = np.array([one.world.rpartition("-")[2] == seed and not one.is_now for one in results.asked], bool)
        parts.append(results.of(own))
    rows = [[name, *(_cell(part, name, "pyramid") for part in parts)] for name in results.right]
    return markdown_table(("shown", *(f"world {s} ({len(p.asked)})" for s, p in zip(seeds, parts, strict=True))), rows)


HOW = """{questions} questions about {streams} held-out streams of three worlds (the command asks about {planned}; \
it may be cut off and goes on when it is given again), asked in {minutes} minutes of one thread, other work going on \
beside. The evidence of three of four questions lies in the past, at ages spread evenly on a logarithmic scale from \
{youngest} s to the stream's length (the age is that of the oldest piece that the answer needs); the others are \
visible now. Chance is {chance} %.

Shown: {shown}.

Percent right; in brackets the 95 % interval of the difference to the pyramid, question by question, a stream being \
one draw (for the pyramid itself: of its percentage). Positions of the whole prompt; ms: median of one question from \
a cold cache, other work going on beside."""
SHOWN = {
    "pyramid": "the **pyramid** (the default: 2 frames of 16 tokens, 2 of 4, 12 of 1: 52 tokens, about 196 positions "
    "with the words beside each frame)",
    "uniform 52x1": "*NxT*, N frames of T tokens, of which `uniform 52x1` and `uniform 13x4` have as many tokens as "
    "the pyramid",
    "newest 16x1": "the newest 16 or spread evenly 19 of one token, which have as many positions as the pyramid",
    "no limit": "no limit, every frame seen",
    "perfect": "perfect, the newest 4 and 4 that show the evidence, one token each: a ceiling for any choice (what is "
    "left out is a hint)",
    "perfect of the bank": "of the bank, the same out of what the pyramid holds",
    "no frames": "no frames, the question alone",
    RECALL: 'recall by time, `recall="time"` as the product does it',
    CHOSEN: 'recall by choice, `recall="chosen"`: the same where a time is named, else what the trained chooser finds',
}
"""What the page says of each way that it compares."""


def ask_everything(bench: Bench, streams: int, minutes: float | None, levels: tuple[int, ...] = (1, 2, 3)) -> None:
    """Stream by stream, worlds and lengths in turn, so that a run that ends early has asked of each as much.

    Of half a minute, in which hardly anything is old, there are half as many streams.
    """
    began, log = time.monotonic(), bench.work / "time.jsonl"
    groups = [Streams(seconds, fps, seed, streams, levels=levels) for seconds, fps in FPS.items() for seed in SEEDS]
    tasks = [list(bench.tasks(group)) for group in groups]
    for number in range(streams):
        for group, of_group in zip(groups, tasks, strict=True):
            spent = (time.monotonic() - began) / 60
            if minutes is not None and spent >= minutes:
                print(f"{spent:.0f} minutes are over: run again to go on", flush=True)
                return
            if group.seconds <= 30 and number % 2:
                continue
            if seconds := bench.run(group, *of_group[number]):
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"stream": f"{group.name}/{number}", "seconds": round(seconds, 1)}) + "\n")
                print(f"{group.name}, stream {number + 1} of {streams}: {seconds:.0f} s", flush=True)


def costs(model: Backbone, processor: Processor, *, chosen: bool) -> list[list[str]]:
    """What an ordinary question, one that names a time and (`chosen`) one whose frames are chosen cost after 150
    frames: the prompt, what is computed of it, ms."""
    last = "Where was the red circle when it last performed the {}?"
    scene, past = sample_stream(0, "test", 2, 600.0), "What was the red circle doing at {}.0s?"
    rows = []
    for name, recall, questions in (
        ("memory, prefilled while idle", None, [past.format(200)]),
        ("named time, another than before", "time", [past.format(at) for at in (100, 200, 300, 400)]),
        ("named time, the same again", "time", [past.format(200)] * 4),
        ("no time, chosen frames", "chosen", [last.format(what) for what in ("spin", "glow", "grow", "fade")]),
    )[: 4 if chosen else 3]:
        session = StreamingSession(model, processor, recall=recall)  # type: ignore[arg-type]
        session.see_many(list(render_frames(scene, np.arange(0, 600, 4), 128)), np.arange(0, 600, 4).tolist())
        if recall is None:
            session.prefill()
        asked = []
        for question in questions:
            session.ask(question, max_new_tokens=1, keep=False)
            stats = session.stats()
            prompt, cached = stats["prompt_tokens"] or 0, stats["cached_tokens"] or 0
            asked.append((prompt, prompt - cached, 1000 * (stats["time_to_first_token"] or 0)))
        rows.append([name, *(f"{value:.0f}" for value in np.median(asked[1:] if recall else asked, axis=0))])
    return rows


def main() -> None:
    parser = CommandParser(description="Whether memory helps, on questions of every age.")
    parser.add_argument("folder", type=Path, help="where the page and its plots go")
    parser.add_argument("--work", type=Path, required=True, help="folder of questions and answers")
    parser.add_argument("--model", default="pocket", help="model under test")
    parser.add_argument("--streams", type=int, default=16, help="streams of each length in each world")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help="what is compared")
    parser.add_argument("--page", default="remembering", help="name of the page")
    parser.add_argument("--chooser", type=Path, help="for recall by choice (default: the one beside the model)")
    parser.add_argument(
        "--level", type=int, nargs="+", default=[1, 2, 3], help="difficulties, in a folder of their own"
    )
    parser.add_argument("--minutes", type=float, help="begin no stream later than this (default: ask everything)")
    parser.set_defaults(run=remember)
    sys.exit(parser.run())


def remember(options: argparse.Namespace) -> int:
    """Ask, then write the page. ValueError where nothing was asked yet."""
    if options.streams < 1:
        raise ValueError(f"--streams must be >= 1, got {options.streams}")
    if not {RECALL, "pyramid"} <= set(options.ways):
        raise ValueError(f"--ways must name pyramid, with which all is compared, and {RECALL!r}")
    options.work.mkdir(parents=True, exist_ok=True)
    about, levels = options.work / "levels.json", sorted(set(options.level))
    if (known := json.loads(about.read_text(encoding="utf-8")) if about.exists() else levels) != levels:
        raise ValueError(f"{options.work} holds answers about levels {known}, not {levels}: use another folder")
    write_text(about, f"{json.dumps(levels)}\n")
    torch.set_num_threads(1)
    model, processor = load_model(options.model)
    chooser = Chooser.load(options.chooser, model) if options.chooser else None
    bench = Bench(options.work, model, processor, ways=options.ways, chooser=chooser)
    ask_everything(bench, options.streams, options.minutes, tuple(options.level))
    rows = costs(model, processor, chosen=CHOSEN in options.ways and chooser is None)
    command = f"STREAMS={options.streams} bash shell/pocket/evidence.sh {options.page}"
    page = options.folder / f"{options.page}.md"
    write_page(page, options.work, command, rows)
    print(page, flush=True)
    return 0


if __name__ == "__main__":
    main()
