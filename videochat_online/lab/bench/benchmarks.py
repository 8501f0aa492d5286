"""Which measurements there are: from flags to tables. Nothing heavy is imported before one of them is run."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

Tables = dict[str, list[dict[str, Any]]]
"""Title -> rows."""


def measure_memory(options: argparse.Namespace) -> Tables:
    from .memory import bench_memory

    return {
        "milliseconds a frame": bench_memory(channels=options.channels, batch=options.batch, repeats=options.repeats)
    }


def measure_stream(options: argparse.Namespace) -> Tables:
    """1. a long stream (first: its peak memory must be its own) 2. re-encoding 3. where time goes 4. transform."""
    from ...processing import load_model
    from ...streaming.session import StreamingSession
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
                **where_time_goes(model, processor, clip, num_frames=128, batch=batch, decoder=options.decoder),
            }
            for batch in (1, 16)
        ]
        if options.large_frames:
            large, transform = large_encoder()
            large_processor = replace(processor, transform=transform)
            times = where_time_goes(
                large, large_processor, clip, num_frames=options.large_frames, batch=1, decoder=options.decoder
            )
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
    from ...processing import load_model
    from .encoder import bench_encoder
    from .feeding import bench_overlap, bench_sessions, bench_unchanged
    from .stream import write_clip

    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", width=640, height=360, num_frames=256)
        return {
            "ways to run the encoder": bench_encoder(model.config, batch=16, repeats=options.repeats),
            "several sessions": bench_sessions(model, processor, repeats=options.repeats),
            "decoding ahead": bench_overlap(model, processor, clip, repeats=options.repeats, decoder=options.decoder),
            "unchanged frames": bench_unchanged(model, processor, Path(folder) / "world", decoder=options.decoder),
        }


def measure_ask(options: argparse.Namespace) -> Tables:
    from ...processing import load_model
    from .ask import bench_ask
    from .order import bench_order

    _, processor = load_model("pocket")  # for its tokenizer and prompt format
    return {
        "a question": bench_ask(processor, repeats=options.repeats),
        "share of the prompt to compute after each new frame, by the order in it": bench_order(
            num_frames=options.frames
        ),
    }


def measure_eval(options: argparse.Namespace) -> Tables:
    from ...processing import load_model
    from .evaluation import bench_eval

    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        return {"a small benchmark": bench_eval(model, processor, Path(folder) / "world", decoder=options.decoder)}


def measure_e2e(options: argparse.Namespace) -> Tables:
    from ...processing import load_model
    from ...streaming.session import StreamingSession
    from .e2e import bench_e2e

    model, processor = load_model(options.model)
    return bench_e2e(lambda **more: StreamingSession(model, processor, **more), seconds=options.seconds)


def measure_endurance(options: argparse.Namespace) -> Tables:
    from ...processing import load_model
    from .endurance import bench_endurance

    model, processor = load_model(options.model)
    length = {"num_frames": options.long_frames, "num_questions": options.long_frames // 20}
    return {  # this order: the process's peak memory only grows
        "one session, no question stays": bench_endurance(model, processor, keep=False, **length),
        "one session, every other question stays": bench_endurance(model, processor, keep=True, **length),
    }


def measure_train(options: argparse.Namespace) -> Tables:
    from ...processing import load_model
    from .train import bench_batches, bench_pipeline, mixed_dataset

    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = mixed_dataset(folder, model, processor, decoder=options.decoder)
        return {
            "forward and backward": bench_batches(dataset, model, processor, num_samples=options.samples),
            "data pipeline": bench_pipeline(folder, dataset, num_samples=options.samples),
        }


def measure_decode(options: argparse.Namespace) -> Tables:
    from .decode import SHIPPED_CLIP, bench_decode

    rows = bench_decode(options.clips or [SHIPPED_CLIP], repeats=options.repeats)
    return {"milliseconds to read a clip": rows}


BENCHMARKS = {
    "memory": (measure_memory, "the memory bank against a plain one and against one read of the map"),
    "stream": (measure_stream, "where a frame's time goes; is it constant; what re-encoding costs"),
    "encoder": (measure_encoder, "torch.compile, bfloat16, int8; sessions together, decoding ahead, unchanged frames"),
    "ask": (measure_ask, "time to the first token with and without KV reuse; what the order of the prompt buys"),
    "train": (measure_train, "batches padded, grouped and packed; the data pipeline against decoding alone"),
    "eval": (measure_eval, "scoring a benchmark in one pass, against encoding the stream anew for each question"),
    "decode": (measure_decode, "reading clips as training does, through PyAV and through decord"),
    "e2e": (measure_e2e, "a ten-minute stream with twenty questions against re-encoding at each question"),
    "endurance": (measure_endurance, "10,000 frames and 500 questions on one session: memory, drift"),
}
