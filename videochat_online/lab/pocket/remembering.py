"""Whether memory helps, tested so that it can fail: questions of every age, fair baselines, three worlds, intervals.

    bash shell/pocket/evidence.sh remembering

Writes remembering.md with its plots. Each answer is kept as it comes: run again, it goes on where it was, and with
--minutes it ends in time and says how much was asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...command_line import CommandParser
from ...processing import load_model
from ...streaming.chooser import Chooser
from ...streaming.session import StreamingSession
from ..shapeworld.render import render_frames
from ..shapeworld.simulate import sample_stream
from .aged import FPS, SEEDS, Streams
from .remembering_page import write_page
from .showing import CHOSEN, RECALL, WAYS, Bench

if TYPE_CHECKING:
    from ...model.backbone import Backbone
    from ...processing import Processor


def ask_everything(bench: Bench, streams: int, minutes: float | None) -> None:
    """Stream by stream, worlds and lengths in turn, so that a run that ends early has asked of each as much.

    Of half a minute, in which hardly anything is old, there are half as many streams.
    """
    began, log = time.monotonic(), bench.work / "time.jsonl"
    groups = [Streams(seconds, fps, seed, streams) for seconds, fps in FPS.items() for seed in SEEDS]
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
    torch.set_num_threads(1)
    model, processor = load_model(options.model)
    chooser = Chooser.load(options.chooser, model) if options.chooser else None
    bench = Bench(options.work, model, processor, ways=options.ways, chooser=chooser)
    ask_everything(bench, options.streams, options.minutes)
    rows = costs(model, processor, chosen=CHOSEN in options.ways and chooser is None)
    command = f"STREAMS={options.streams} bash shell/pocket/evidence.sh {options.page}"
    page = options.folder / f"{options.page}.md"
    write_page(page, options.work, command, rows)
    print(page, flush=True)
    return 0


if __name__ == "__main__":
    main()
