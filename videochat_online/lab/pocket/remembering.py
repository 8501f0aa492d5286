"""Whether memory helps, tested so that it can fail: questions of every age, fair baselines, three worlds, intervals.

    python -m videochat_online.lab.pocket.remembering FOLDER --work RUNS [--model MODEL] [--streams N] [--minutes M]

Writes FOLDER/remembering.md with its plots. Each answer is kept in RUNS as it comes: run again, it goes on where it
was, and with --minutes it ends in time and says how much was asked.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from ...command_line import CommandParser
from ...processing import load_model
from .aged import FPS, SEEDS, Streams
from .remembering_page import write_page
from .showing import Bench


def ask_everything(bench: Bench, streams: int, minutes: float | None) -> None:
    """Stream by stream, worlds and lengths in turn, so that a run that ends early has asked of each as much."""
    began, log = time.monotonic(), bench.work / "time.jsonl"
    groups = [Streams(seconds, fps, seed, streams) for seconds, fps in FPS.items() for seed in SEEDS]
    tasks = [list(bench.tasks(group)) for group in groups]
    for number in range(streams):
        for group, of_group in zip(groups, tasks, strict=True):
            spent = (time.monotonic() - began) / 60
            if minutes is not None and spent >= minutes:
                print(f"{spent:.0f} minutes are over: run again to go on", flush=True)
                return
            if seconds := bench.run(group, *of_group[number]):
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"stream": f"{group.name}/{number}", "seconds": round(seconds, 1)}) + "\n")
                print(f"{group.name}, stream {number + 1} of {streams}: {seconds:.0f} s", flush=True)


def main() -> None:
    parser = CommandParser(description="Whether memory helps, on questions of every age.")
    parser.add_argument("folder", type=Path, help="where the page and its plots go")
    parser.add_argument("--work", type=Path, required=True, help="folder of questions and answers")
    parser.add_argument("--model", default="pocket", help="model under test")
    parser.add_argument("--streams", type=int, default=16, help="streams of each length in each world")
    parser.add_argument("--minutes", type=float, help="begin no stream later than this (default: ask everything)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(options.work, *load_model(options.model))
    ask_everything(bench, options.streams, options.minutes)
    command = "python -m videochat_online.lab.pocket.remembering docs/evidence --work runs/pocket/remembering"
    write_page(options.folder, options.work, f"{command} --streams {options.streams}")
    print(options.folder / "remembering.md", flush=True)


if __name__ == "__main__":
    main()
