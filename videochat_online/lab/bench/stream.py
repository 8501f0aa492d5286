"""`bench stream`: where a frame's time goes, whether it stays the same, and what re-encoding at each question costs."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from ...config import MemoryConfig, SmallFrames
from ...media.readers import Decoder, open_video
from ...media.transforms import FrameTransform, Picture
from ...model.backbone import Backbone
from ...model.memory_bank import PyramidMemoryBank
from ...model.videochat import VideoChatOnline
from ...model_config import VideoChatOnlineConfig
from ...pixels import IMAGENET_MEAN, IMAGENET_STD
from ...processing import Processor, load_model
from ...streaming.session import StreamingSession
from .measure import Tables, alternate, write_clip

PICTURE_SIZE = (1280, 720)
STEPS = ("decode", "transform", "encoder", "bank", "connector")


class Stopwatch:
    """Adds up seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    # 1. a long stream, first: its peak memory must be its own
    long_stream = flatness(StreamingSession(model, processor), num_frames=options.frames)
    # 2. re-encoding
    reencoding = against_reencoding(lambda: StreamingSession(model, processor), num_frames=240, num_questions=12)
    # 3. where time goes
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
    # 4. the transform, and where the encoder takes any shape, what pictures and small frames cost
    ways: Tables = {}
    if model.config.any_shape:
        ways["shapes and small frames"] = shapes_and_ways(model, processor, repeats=options.repeats)
    return {
        **ways,
        "milliseconds a frame": rows,
        "transform": [transform_speed(repeats=options.repeats)],
        "a long stream": [long_stream],
        "against re-encoding at each question": [reencoding],
    }


def where_time_goes(
    model: VideoChatOnline, processor: Processor, clip: Path, *, num_frames: int, batch: int, decoder: Decoder = "pyav"
) -> dict[str, float]:
    """Milliseconds a frame of each step, from a file to the language model's door.

    The connector works once a question: its time is that of a full memory, divided among the frames it holds.
    """
    watch = Stopwatch()
    bank = PyramidMemoryBank(MemoryConfig.pyramid().for_encoder(model.config.grid))
    with open_video(clip, decoder=decoder) as video, torch.no_grad():
        frames = video.read(range(min(num_frames, len(video))))
        done = 0
        while done < min(num_frames, len(video)):
            with watch.lap("decode"):
                shown = [next(frames) for _ in range(min(batch, num_frames - done))]
            with watch.lap("transform"):
                pixels = processor.frames([frame.image for frame in shown])
            with watch.lap("encoder"):
                features = model.encode_frames(pixels)
            with watch.lap("bank"):
                bank.write(features, [frame.timestamp for frame in shown])
            done += len(shown)
        per_frame = {step: watch.seconds[step] / done * 1e3 for step in STEPS}
        while len(bank) < bank.config.capacity:  # the connector is asked for a full memory
            bank.write(features, [shown[-1].timestamp] * len(features))
        with watch.lap("connector"):
            model.project([frame.features for frame in bank.read()])
    per_frame["connector"] = watch.seconds["connector"] / len(bank) * 1e3
    return per_frame


def shapes_and_ways(
    model: Backbone, processor: Processor, *, repeats: int, num_frames: int = 64
) -> list[dict[str, Any]]:
    """A square camera and one of 16:9, small frames pooled and encoded: what watching costs, in turn in one run."""
    cameras = {"square": (720, 720), "16:9": PICTURE_SIZE[::-1]}
    rng = np.random.default_rng(0)
    shown = {name: list(rng.integers(0, 255, (num_frames, *size, 3), dtype=np.uint8)) for name, size in cameras.items()}

    def watched(camera: str, way: SmallFrames, batch: int = 16) -> StreamingSession:
        memory = MemoryConfig.pyramid(small_frames=way)
        session = StreamingSession(model, processor, memory=memory, encode_batch_size=batch)
        session.see_many(shown[camera], range(num_frames))
        return session

    ways: list[tuple[str, SmallFrames]] = [(camera, way) for way in get_args(SmallFrames) for camera in cameras]
    runs: dict[str, Callable[[], object]] = {
        f"{camera} {way} {batch}": partial(watched, camera, way, batch) for camera, way in ways for batch in (1, 16)
    }
    for camera, frames in shown.items():
        runs[camera] = partial(processor.frames, frames, processor.picture_size(frames[0], model.config))
    milliseconds = {name: each / num_frames * 1e3 for name, each in alternate(runs, repeats=repeats).items()}
    rows = []
    for camera, way in ways:
        stats = watched(camera, way).stats()
        rows.append({
            "camera": camera, "small frames": way, "ms a frame, one by one": milliseconds[f"{camera} {way} 1"],
            "ms a frame, 16 at once": milliseconds[f"{camera} {way} 16"], "of them transform": milliseconds[camera],
            "ratio, 16 at once": milliseconds[f"{camera} {way} 16"] / milliseconds["square pooled 16"],
            "visual tokens": stats["tokens"], "bank bytes": stats["bytes"],
        })  # fmt: skip
    return rows


def large_encoder(image_size: int = 448) -> tuple[VideoChatOnline, FrameTransform]:
    """The published encoder and connector (InternViT-300M at 448 px), random weights, a language model of one layer."""
    llm = {
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "vocab_size": 64,
    }
    config = VideoChatOnlineConfig(
        vision_config={},
        llm_config={**llm, "intermediate_size": 64, "pad_token_id": 0, "eos_token_id": 0},
        force_image_size=image_size,
    )
    return VideoChatOnline(config).eval(), FrameTransform(image_size)


def flatness(session: StreamingSession, *, num_frames: int, size: tuple[int, int] = (160, 120)) -> dict[str, Any]:
    """Cost per frame over a long stream, one by one: median of the last tenth against the second; and peak memory."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) for _ in range(32)]
    seconds, peaks = [], []
    for k in range(num_frames):
        started = time.perf_counter()
        session.see(pictures[k % len(pictures)], k / 2.0)
        seconds.append(time.perf_counter() - started)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    tenth = num_frames // 10
    second, last = median(seconds[tenth : 2 * tenth]), median(seconds[-tenth:])
    return {
        "frames": num_frames,
        "second tenth ms": second * 1e3,
        "last tenth ms": last * 1e3,
        "last/second": last / second,
        "peak MiB after the second tenth": peaks[2 * tenth - 1] / 1024,
        "peak MiB at the end": peaks[-1] / 1024,
        "memory bank bytes": session.stats()["bytes"],
    }


def against_reencoding(make: Callable[[], StreamingSession], *, num_frames: int, num_questions: int) -> dict[str, Any]:
    """Seconds to watch a stream and answer questions spread over it: one pass, against encoding all frames so far again
    at each question (as the published code does). Both answer alike."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (120, 160, 3), dtype=np.uint8) for _ in range(num_frames)]
    moments = [num_frames * (k + 1) // num_questions for k in range(num_questions)]

    def ask(session: StreamingSession) -> str:
        return session.ask("What is happening now?", max_new_tokens=8, keep=False)

    started = time.perf_counter()
    session, shown, ours = make(), 0, []
    for moment in moments:
        session.see_many(pictures[shown:moment], [k / 2.0 for k in range(shown, moment)])
        shown = moment
        ours.append(ask(session))
    one_pass = time.perf_counter() - started
    started, theirs = time.perf_counter(), []
    for moment in moments:
        session = make()
        session.see_many(pictures[:moment], [k / 2.0 for k in range(moment)])
        theirs.append(ask(session))
    again = time.perf_counter() - started
    if ours != theirs:
        raise AssertionError(f"one pass and re-encoding answer differently: {ours} and {theirs}")
    return {
        "frames": num_frames, "questions": num_questions, "one pass s": one_pass, "re-encoding s": again,
        "re-encoding/one pass": again / one_pass,
    }  # fmt: skip


def straightforward_transform(
    frame: Picture,
    size: int,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> np.ndarray:
    """What FrameTransform does, with PIL and numpy, step by step: float32 (3, size, size)."""
    image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
    resized = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    unit = np.asarray(resized, dtype=np.float32) / 255  # (size, size, 3)
    normalised = (unit - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def transform_speed(*, repeats: int, size: int = 448) -> dict[str, Any]:
    """The transform of a 1280x720 frame against PIL and numpy, and the largest difference of their results."""
    width, height = PICTURE_SIZE
    picture = (
        np.random.default_rng(0)
        .integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    transform = FrameTransform(size)
    ours, theirs = transform(picture), torch.as_tensor(straightforward_transform(picture, size))
    scale = torch.tensor(transform.std).view(3, 1, 1) * 255
    seconds = alternate(
        {"ours": lambda: transform(picture), "PIL + numpy": lambda: straightforward_transform(picture, size)},
        repeats=repeats,
    )
    return {
        "frame": f"{width}x{height} to {size}",
        "ours ms": seconds["ours"] * 1e3,
        "PIL + numpy ms": seconds["PIL + numpy"] * 1e3,
        "ratio": seconds["PIL + numpy"] / seconds["ours"],
        "largest difference of 255": round(float(((ours - theirs).abs() * scale).max()), 3),
    }
