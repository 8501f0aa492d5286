"""`videochat-online bench NAME`: flags, running measurements, printing them."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ...command_line import CommandParser, add_decoder_flag
from ...extras import lacks
from ...files import write_json
from .measure import Tables, machine, tables_of

BENCHMARKS = {
    "memory": "the memory bank against a plain one and against one read of the map",
    "stream": "where a frame's time goes; is it constant; what re-encoding costs",
    "encoder": "torch.compile, bfloat16, int8; sessions together, decoding ahead, unchanged frames",
    "ask": "time to the first token with and without KV reuse; what the order of the prompt buys",
    "standing": "positions and time of 0, 1, 4 and 16 standing instructions after each frame",
    "train": "batches padded, grouped and packed; attention over packed ones; the data pipeline against decoding alone",
    "lists": "a start on lists of published size (--samples 2000000): seconds and memory of each step",
    "eval": "scoring a benchmark in one pass, against encoding the stream again for each question",
    "decode": "reading clips as training does, through PyAV and through decord",
    "serve": "1, 4 and 16 sessions that ask at once: threads, made together, and vLLM (--engine-url)",
    "e2e": "a ten-minute stream with twenty questions against re-encoding at each question",
    "endurance": "10,000 frames and 500 questions on one session: memory, drift",
}
"""Module of this folder -> what its `measure(options)` compares. It is imported when it is run, not before."""
OF_OURS = ("encoder", "eval", "serve", "train")
"""Benchmarks that take apart a model of our own layout."""


def add_bench_command(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed, each number beside its straightforward counterpart",
        description="Measure speed. Every result stands beside a straightforward implementation measured in the same "
        "run and, where there is one, beside a physical limit. Let nothing else run meanwhile.",
    )
    names = parser.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    common = _common_flags()
    for name, what in BENCHMARKS.items():
        names.add_parser(name, help=what, parents=[common]).set_defaults(run=run_one, name=name)
    everything = names.add_parser("all", help="all of these, written to a folder with plots", parents=[common])
    everything.add_argument("--output", type=Path, required=True, metavar="DIR")
    everything.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="these; the folder keeps the others"
    )
    everything.set_defaults(run=run_all)
    comparison = names.add_parser("compare", help="the ratios of two reports of `bench all` side by side")
    comparison.add_argument("old", type=Path, help="--output folder of `bench all`")
    comparison.add_argument("new", type=Path, help="another, of the same machine")
    comparison.set_defaults(run=run_comparison)
    paper = names.add_parser("paper", help="FLOPs and bytes of the 4B model on paper; nothing is measured")
    paper.add_argument("--model", help="a folder or hub id instead of the published 4B sizes")
    paper.set_defaults(run=run_paper)


def _common_flags() -> CommandParser:
    flags = CommandParser(add_help=False)
    flags.add_argument("--repeats", type=int, default=9, help="counted runs of each timing")
    flags.add_argument("--threads", type=int, default=2, help="threads torch may use")
    flags.add_argument("--model", default="pocket", help="model to watch with; ask: to measure (default: a random one)")
    flags.add_argument("--channels", type=int, default=4096, help="memory: channels of a map")
    flags.add_argument("--batch", type=int, default=32, help="memory: frames in a batch")
    flags.add_argument("--frames", type=int, default=2000, help="stream: length in frames")
    flags.add_argument(
        "--large-frames",
        type=int,
        default=3,
        help="stream: frames through a 300M encoder; 0: none",
    )
    flags.add_argument("--samples", type=int, default=96, help="train: how many; lists: rows")
    what = "train: lengths of packed sequences to attend over; the mask route takes gigabytes from 16384 on"
    flags.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192], metavar="N", help=what)
    flags.add_argument("--seconds", type=float, default=600.0, help="e2e: length of the stream")
    flags.add_argument("--long-frames", type=int, default=10_000, help="endurance: length in frames")
    flags.add_argument(
        "--clips", nargs="+", type=Path, metavar="FILE", help="decode: videos to read (default: the clip that ships)"
    )
    flags.add_argument("--engine-url", metavar="URL", help="serve: a vLLM server that runs --model (see export-llm)")
    add_decoder_flag(flags)
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    return flags


def run_one(options: argparse.Namespace) -> int:
    results = _measure(options, options.name)
    if options.json:
        write_json(options.json, {"benchmark": options.name, "machine": machine(), "results": results})
    return 0


def run_all(options: argparse.Namespace) -> int:
    from .suite import add_to_report

    if problem := lacks("matplotlib"):
        print(f"no plots will be drawn: {problem}", file=sys.stderr)
    for name in options.only:
        files = add_to_report(options.output, name, _measure(options, name))
        print(f"\nwritten to {options.output}: {', '.join(files)}\n", flush=True)
    return 0


def _measure(options: argparse.Namespace, name: str) -> Tables:
    """Run one benchmark and print its tables."""
    import torch

    for flag in ("repeats", "threads"):
        if getattr(options, flag) < 1:
            raise ValueError(f"--{flag} must be at least 1, got {getattr(options, flag)}")
    torch.set_num_threads(options.threads)
    if name in OF_OURS:
        from .lists import load_config

        load_config(options.model)  # refuses others
    results: Tables = import_module(f"{__package__}.{name}").measure(options)
    _show(f"bench {name}, {options.threads} threads", results)
    return results


def run_comparison(options: argparse.Namespace) -> int:
    from .suite import both_ratios

    _show("bench compare", {"ratios": both_ratios(options.old, options.new)})
    return 0


def run_paper(options: argparse.Namespace) -> int:
    from ...model_config import VideoChatOnlineConfig
    from .paper import PUBLISHED_4B, paper_report

    if options.model:
        from .lists import load_config

        config = load_config(options.model)
    else:
        config = VideoChatOnlineConfig(**PUBLISHED_4B)
    print(paper_report(config))
    return 0


def _show(title: str, tables: Tables) -> None:
    about = machine()
    print(f"{title}; {about['cores']} cores, torch {about['torch']}, commit {about['commit']}\n{tables_of(tables)}")
