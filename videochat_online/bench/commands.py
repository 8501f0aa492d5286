"""`videochat-online bench NAME`: which measurements there are, and printing them."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_bench_command(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed, each number beside its straightforward counterpart",
        description="Measure speed. Every result stands beside a straightforward implementation measured in the same "
        "run and, where there is one, beside a physical limit. Let nothing else run meanwhile.",
    )
    names = parser.add_subparsers(title="benchmarks", metavar="NAME", required=True)
    memory = names.add_parser("memory", help="the memory bank against a plain one and against one read of the map")
    memory.add_argument("--channels", type=int, default=4096, help="channels of a map (default: %(default)s)")
    memory.add_argument("--batch", type=int, default=32, help="frames in a batch (default: %(default)s)")
    memory.set_defaults(run=run_memory)
    stream = names.add_parser("stream", help="where a frame's time goes; is it constant; what re-encoding costs")
    stream.add_argument("--model", default="pocket", help="model to watch with (default: %(default)s)")
    stream.add_argument("--frames", type=int, default=2000, help="length of the long stream (default: %(default)s)")
    stream.add_argument(
        "--large-frames",
        type=int,
        default=3,
        help="frames through the 300M encoder; 0 leaves it out (default: %(default)s)",
    )
    stream.set_defaults(run=run_stream)
    ask = names.add_parser("ask", help="time to the first token with and without KV reuse")
    ask.set_defaults(run=run_ask)
    e2e = names.add_parser("e2e", help="a ten-minute stream with twenty questions against re-encoding at each question")
    e2e.add_argument("--model", default="pocket", help="model to watch with (default: %(default)s)")
    e2e.add_argument("--seconds", type=float, default=600.0, help="length of the stream (default: %(default)s)")
    e2e.set_defaults(run=run_e2e)
    for each in (memory, stream, ask, e2e):
        each.add_argument("--repeats", type=int, default=9, help="counted runs of each timing (default: %(default)s)")
        each.add_argument("--threads", type=int, default=2, help="threads torch may use (default: %(default)s)")
        each.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")


def run_memory(options: argparse.Namespace) -> int:
    import torch

    from .memory import bench_memory

    torch.set_num_threads(options.threads)
    results = {"memory": bench_memory(channels=options.channels, batch=options.batch, repeats=options.repeats)}
    return _report(options, "bench memory", results)


def run_stream(options: argparse.Namespace) -> int:
    """1. a long stream (first: its peak memory must be its own) 2. re-encoding 3. where time goes 4. transform."""
    import torch

    from ..processing import load_model
    from ..streaming.session import StreamingSession
    from .stream import against_reencoding, flatness, large_encoder, transform_speed, where_time_goes, write_clip

    torch.set_num_threads(options.threads)
    model, processor = load_model(options.model)
    long_stream = flatness(StreamingSession(model, processor), num_frames=options.frames)
    reencoding = against_reencoding(lambda: StreamingSession(model, processor), num_frames=240, num_questions=12)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", width=1280, height=720, num_frames=128)
        rows = [
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
    results = {
        "milliseconds a frame": rows,
        "transform": [transform_speed(repeats=options.repeats)],
        "a long stream": [long_stream],
        "against re-encoding at each question": [reencoding],
    }
    return _report(options, f"bench stream, model {options.model}", results)


def run_ask(options: argparse.Namespace) -> int:
    import torch

    from ..processing import load_model
    from .ask import bench_ask

    torch.set_num_threads(options.threads)
    _, processor = load_model("pocket")  # for its tokenizer and prompt format
    return _report(options, "bench ask", {"a question": bench_ask(processor, repeats=options.repeats)})


def run_e2e(options: argparse.Namespace) -> int:
    import torch

    from ..processing import load_model
    from ..streaming.session import StreamingSession
    from .e2e import bench_e2e

    torch.set_num_threads(options.threads)
    model, processor = load_model(options.model)
    rows = bench_e2e(lambda **more: StreamingSession(model, processor, **more), seconds=options.seconds)
    return _report(options, f"bench e2e, model {options.model}", {"a stream with questions": rows})


def _report(options: argparse.Namespace, title: str, results: dict[str, list[dict[str, Any]]]) -> int:
    from .measure import machine, table, write_json

    about = machine()
    print(
        f"{title}; {about['cores']} cores, {options.threads} threads, torch {about['torch']}, commit {about['commit']}"
    )
    for name, rows in results.items():
        print(f"\n{name}\n{table(rows)}")
    if options.json:
        write_json(options.json, {"title": title, "machine": about, "results": results})
    return 0
