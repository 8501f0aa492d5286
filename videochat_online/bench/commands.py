"""`videochat-online bench NAME`: which measurements there are, running and printing them."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

Tables = dict[str, list[dict[str, Any]]]
"""Title -> rows."""


def add_bench_command(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed, each number beside its straightforward counterpart",
        description="Measure speed. Every result stands beside a straightforward implementation measured in the same "
        "run and, where there is one, beside a physical limit. Let nothing else run meanwhile.",
    )
    names = parser.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    common = _common_flags()
    for name, (_, what) in BENCHMARKS.items():
        names.add_parser(name, help=what, parents=[common]).set_defaults(run=run_one, name=name)
    everything = names.add_parser("all", help="all of these, written to a folder with plots", parents=[common])
    everything.add_argument("--output", type=Path, required=True, metavar="DIR")
    everything.set_defaults(run=run_all)
    comparison = names.add_parser("compare", help="the ratios of two reports of `bench all` side by side")
    comparison.add_argument("old", type=Path)
    comparison.add_argument("new", type=Path)
    comparison.set_defaults(run=run_compare)
    paper = names.add_parser("paper", help="FLOPs and bytes of the 4B model on paper; nothing is measured")
    paper.add_argument("--model", help="a folder or hub id instead of the published 4B sizes")
    paper.set_defaults(run=run_paper)


def _common_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--repeats", type=int, default=9, help="counted runs of each timing (default: %(default)s)")
    flags.add_argument("--threads", type=int, default=2, help="threads torch may use (default: %(default)s)")
    flags.add_argument("--model", default="pocket", help="model to watch with (default: %(default)s)")
    flags.add_argument("--channels", type=int, default=4096, help="memory: channels of a map (default: %(default)s)")
    flags.add_argument("--batch", type=int, default=32, help="memory: frames in a batch (default: %(default)s)")
    flags.add_argument("--frames", type=int, default=2000, help="stream: length in frames (default: %(default)s)")
    flags.add_argument(
        "--large-frames",
        type=int,
        default=3,
        help="stream: frames through a 300M encoder; 0: none (default: %(default)s)",
    )
    flags.add_argument("--samples", type=int, default=96, help="train: how many (default: %(default)s)")
    flags.add_argument("--seconds", type=float, default=600.0, help="e2e: length of the stream (default: %(default)s)")
    flags.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    return flags


def measure_memory(options: argparse.Namespace) -> Tables:
    from .memory import bench_memory

    return {
        "milliseconds a frame": bench_memory(channels=options.channels, batch=options.batch, repeats=options.repeats)
    }


def measure_stream(options: argparse.Namespace) -> Tables:
    """1. a long stream (first: its peak memory must be its own) 2. re-encoding 3. where time goes 4. transform."""
    from ..processing import load_model
    from ..streaming.session import StreamingSession
    from .stream import against_reencoding, flatness, large_encoder, transform_speed, where_time_goes, write_clip

    model, processor = load_model(options.model)
    long_stream = flatness(StreamingSession(model, processor), num_frames=options.frames)
    reencoding = against_reencoding(lambda: StreamingSession(model, processor), num_frames=240, num_questions=12)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", width=1280, height=720, num_frames=128)
        rows: list[dict[str, Any]] = [
            {
                "model": options.model,
                "batch": batch,
                **where_time_goes(model, processor, clip, num_frames=128, batch=batch),
            }
            for batch in (1, 16)
        ]
        if options.large_frames:
            large, transform = large_encoder()
            large_processor = replace(processor, transform=transform)
            times = where_time_goes(large, large_processor, clip, num_frames=options.large_frames, batch=1)
            rows.append({"model": "InternViT-300M", "batch": 1, **times})
            del large
    for row in rows:
        row["(bank + connector)/encoder"] = (row["bank"] + row["connector"]) / row["encoder"]
    return {
        "milliseconds a frame": rows,
        "transform": [transform_speed(repeats=options.repeats)],
        "a long stream": [long_stream],
        "against re-encoding at each question": [reencoding],
    }


def measure_encoder(options: argparse.Namespace) -> Tables:
    from ..processing import load_model
    from .encoder import bench_encoder

    model, _ = load_model(options.model)
    return {"ways to run the encoder": bench_encoder(model.config, batch=16, repeats=options.repeats)}


def measure_ask(options: argparse.Namespace) -> Tables:
    from ..processing import load_model
    from .ask import bench_ask

    _, processor = load_model("pocket")  # for its tokenizer and prompt format
    return {"a question": bench_ask(processor, repeats=options.repeats)}


def measure_e2e(options: argparse.Namespace) -> Tables:
    from ..processing import load_model
    from ..streaming.session import StreamingSession
    from .e2e import bench_e2e

    model, processor = load_model(options.model)
    rows = bench_e2e(lambda **more: StreamingSession(model, processor, **more), seconds=options.seconds)
    return {"a stream with questions": rows}


def measure_train(options: argparse.Namespace) -> Tables:
    from ..processing import load_model
    from .train import bench_batches, bench_pipeline, mixed_dataset

    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = mixed_dataset(folder, model, processor)
        return {
            "forward and backward": bench_batches(dataset, model, processor, num_samples=options.samples),
            "data pipeline": bench_pipeline(folder, dataset, num_samples=options.samples),
        }


BENCHMARKS = {
    "memory": (measure_memory, "the memory bank against a plain one and against one read of the map"),
    "stream": (measure_stream, "where a frame's time goes; is it constant; what re-encoding costs"),
    "encoder": (measure_encoder, "torch.compile, bfloat16 and int8 against float32, and the machine's own peak"),
    "ask": (measure_ask, "time to the first token with and without KV reuse"),
    "train": (measure_train, "batches padded, grouped and packed; the data pipeline against decoding alone"),
    "e2e": (measure_e2e, "a ten-minute stream with twenty questions against re-encoding at each question"),
}


def run_one(options: argparse.Namespace) -> int:
    from .measure import machine, write_json

    results = _measure(options, options.name)
    if options.json:
        write_json(options.json, {"benchmark": options.name, "machine": machine(), "results": results})
    return 0


def run_all(options: argparse.Namespace) -> int:
    from .suite import write_report

    write_report(options.output, {name: _measure(options, name) for name in BENCHMARKS})
    print(f"\nwritten to {options.output}: results.json, results.md, results.png")
    return 0


def _measure(options: argparse.Namespace, name: str) -> Tables:
    """Run one benchmark and print its tables."""
    import torch

    torch.set_num_threads(options.threads)
    results = BENCHMARKS[name][0](options)
    _show(f"bench {name}, {options.threads} threads", results)
    return results


def run_compare(options: argparse.Namespace) -> int:
    from .suite import compare

    _show("bench compare", {"ratios": compare(options.old, options.new)})
    return 0


def run_paper(options: argparse.Namespace) -> int:
    from ..config import MemoryConfig
    from ..model_config import VideoChatOnlineConfig
    from .paper import H100, PUBLISHED_4B, per_frame, per_question

    if options.model:
        from ..model.weights import load_config

        config = load_config(options.model)
    else:
        config = VideoChatOnlineConfig(**PUBLISHED_4B)
    banks = [MemoryConfig.pyramid(capacities=c).for_encoder(config.grid) for c in ((2, 2, 12), (24, 24, 144))]
    tables = {"a frame": per_frame(config), "a question": [row for bank in banks for row in per_question(config, bank)]}
    _show(f"on paper: {H100.name}, {H100.reachable:.0%} of {H100.tflops:g} TFLOPS reachable", tables)
    return 0


def _show(title: str, tables: Tables) -> None:
    from .measure import machine, table

    about = machine()
    print(f"{title}; {about['cores']} cores, torch {about['torch']}, commit {about['commit']}")
    for name, rows in tables.items():
        print(f"\n{name}\n{table(rows)}")
