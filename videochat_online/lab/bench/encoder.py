"""`bench encoder`: ways to run the vision encoder, ways to keep it fed, and frames that it need not see.

How near it comes to the machine's own peak; frames of several sessions in one batch; decoding and transform in another
thread; frames that did not change. Verdicts are for the machine it runs on. A way that this machine cannot run is
reported as such, with the reason.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...media.readers import Decoder, open_video
from ...media.source import Frame
from ...model.videochat import VideoChatOnline
from ...model.vision_encoder import InternVisionModel
from ...model_config import VideoChatOnlineConfig, VisionConfig
from ...processing import Processor, load_model
from ...streaming.encoding import FrameEncoder, SharedEncoder
from ...streaming.session import StreamingSession
from ...streaming.watching import watch
from ..shapeworld.build import WorldConfig, build_world
from .measure import Tables, alternate, matmul_peak, write_clip
from .paper import encoder_flops

WORLD = WorldConfig(videos=1, seed=0, split="test", seconds=(60.0,), level=(2,), fps=4, size=64)
THRESHOLDS = (2.0, 4.0, 6.0, 8.0)
"""Mean absolute difference over all pixels, of 255."""


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", width=640, height=360, num_frames=256)
        return {
            "ways to run the encoder": bench_encoder(model.config, batch=16, repeats=options.repeats),
            "several sessions": bench_sessions(model, processor, repeats=options.repeats),
            "decoding ahead": bench_overlap(model, processor, clip, repeats=options.repeats, decoder=options.decoder),
            "unchanged frames": bench_unchanged(model, processor, Path(folder) / "world", decoder=options.decoder),
        }


def ways(encoder: InternVisionModel) -> dict[str, Callable[[], nn.Module]]:
    """Name -> makes the encoder that runs this way."""

    def compiled() -> nn.Module:
        return torch.compile(copy.deepcopy(encoder))  # type: ignore[return-value]

    def int8() -> nn.Module:
        with warnings.catch_warnings():  # torch moves this to the package torchao; it is only measured here
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.ao.quantization import quantize_dynamic

            return quantize_dynamic(copy.deepcopy(encoder), {nn.Linear}, dtype=torch.qint8)

    return {
        "float32": lambda: encoder,
        "float32, torch.compile": compiled,
        "bfloat16": lambda: copy.deepcopy(encoder).bfloat16(),
        "int8 weights (dynamic)": int8,
    }


@torch.no_grad()
def bench_encoder(config: VideoChatOnlineConfig, *, batch: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds a frame of each way, its speed against float32, and how far its features are from float32's."""
    torch.manual_seed(0)
    vision: VisionConfig = config.vision_config
    encoder = InternVisionModel(vision).eval()
    pixels = torch.randn(batch, vision.num_channels, config.image_size, config.image_size)
    expected = encoder(pixels)
    flops, peak = encoder_flops(config) * batch, matmul_peak()
    rows: list[dict[str, Any]] = []
    for name, make in ways(encoder).items():
        row: dict[str, Any] = {"way": name, "batch": batch}
        try:
            model = make()
            shown = pixels.to(torch.bfloat16) if name == "bfloat16" else pixels
            difference = (model(shown).float() - expected).abs().max() / expected.abs().max()
        except Exception as error:  # a compiler or kernel this machine does not have: that is the result
            rows.append(
                {
                    **row,
                    "ms a frame": None,
                    "speed/float32": None,
                    "of matmul peak": None,
                    "largest difference": None,
                    "note": _first_line(error),
                }
            )
            continue
        seconds = alternate({"plain": lambda: encoder(pixels), "this": lambda: model(shown)}, repeats=repeats)  # noqa: B023
        rows.append(
            {
                **row,
                "ms a frame": seconds["this"] / batch * 1e3,
                "speed/float32": seconds["plain"] / seconds["this"],
                "of matmul peak": flops / seconds["this"] / peak,
                "largest difference": float(difference),
                "note": "",
            }
        )
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:80]


def bench_sessions(
    model: VideoChatOnline, processor: Processor, *, repeats: int, num_frames: int = 16
) -> list[dict[str, Any]]:
    """Frames a second of 1, 4 and 8 live sessions in as many threads, each frame by itself and encoded together."""
    return [_sessions(model, processor, number, num_frames, repeats=repeats) for number in (1, 4, 8)]


def _sessions(
    model: VideoChatOnline, processor: Processor, number: int, num_frames: int, *, repeats: int
) -> dict[str, Any]:
    pictures = list(np.random.default_rng(0).integers(0, 255, (num_frames, 120, 160, 3), dtype=np.uint8))
    pixels = processor.frames(pictures[:1] * number)

    def run(encoder: FrameEncoder) -> None:
        sessions = [StreamingSession(model, processor, encoder=encoder) for _ in range(number)]

        def see(session: StreamingSession) -> None:
            for k, picture in enumerate(pictures):
                session.see(picture, float(k))

        threads = [threading.Thread(target=see, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def floor() -> None:
        with torch.no_grad():
            for _ in range(num_frames):
                model.encode_frames(pixels)

    with SharedEncoder(model, processor) as shared:
        seconds = alternate(
            {"alone": lambda: run(FrameEncoder(model, processor)), "together": lambda: run(shared), "floor": floor},
            repeats=repeats,
        )
        frames = number * num_frames
        batch = frames * (repeats + 1) / shared.num_batches
    return {
        "sessions": number,
        "frames in a batch": batch,
        "each by itself fps": frames / seconds["alone"],
        "together fps": frames / seconds["together"],
        "encoder alone fps": frames / seconds["floor"],
        "together/by itself": seconds["alone"] / seconds["together"],
        "together/encoder alone": seconds["together"] / seconds["floor"],
    }


def bench_overlap(
    model: VideoChatOnline, processor: Processor, clip: Path, *, repeats: int, decoder: Decoder = "pyav"
) -> list[dict[str, Any]]:
    """Milliseconds a frame from a file into memory: one step after another, and decoding ahead in another thread.

    The floor is the longer of the two sides alone: decoding with transform, or encoding.
    """
    with open_video(clip, decoder=decoder) as video:
        indices, batch = range(len(video)), 16
        encoder = FrameEncoder(model, processor)
        pixels = encoder.prepare([frame.image for frame in islice(video.read(indices), batch)])

        def batches() -> Iterator[list[Frame]]:
            frames = video.read(indices)
            while some := list(islice(frames, batch)):
                yield some

        def prepare() -> None:
            for some in batches():
                encoder.prepare([frame.image for frame in some])

        def in_turn() -> None:
            session = StreamingSession(model, processor)
            for some in batches():
                session.see_many([frame.image for frame in some], [frame.timestamp for frame in some])

        runs: dict[str, Callable[[], object]] = {
            "in turn": in_turn,
            "ahead": lambda: watch(StreamingSession(model, processor), video, indices),
            "decode": prepare,
            "encode": lambda: [encoder.encode(pixels) for _ in range(0, len(indices), batch)],
        }
        seconds = alternate(runs, repeats=repeats)
        per_frame = {name: value / len(indices) * 1e3 for name, value in seconds.items()}
    floor = max(per_frame["decode"], per_frame["encode"])
    return [
        {
            "frames": len(indices),
            "in turn ms": per_frame["in turn"],
            "overlapped ms": per_frame["ahead"],
            "decode + transform alone ms": per_frame["decode"],
            "encode alone ms": per_frame["encode"],
            "in turn/overlapped": per_frame["in turn"] / per_frame["ahead"],
            "overlapped/longer side": per_frame["ahead"] / floor,
        }
    ]


def bench_unchanged(
    model: VideoChatOnline, processor: Processor, folder: Path, *, decoder: Decoder = "pyav"
) -> list[dict[str, Any]]:
    """Frames encoded, time, and how far the memory's maps are from those of a session that encodes every frame.

    What it does to answers is measured by `eval --skip-below`.
    """
    build_world(folder, WORLD, progress=False)
    clip = sorted((folder / "videos").glob("*.mp4"))[0]
    return [_unchanged(model, processor, clip, threshold, decoder) for threshold in THRESHOLDS]


def _unchanged(
    model: VideoChatOnline, processor: Processor, clip: Path, threshold: float, decoder: Decoder
) -> dict[str, Any]:
    sessions = [StreamingSession(model, processor, skip_below=below) for below in (None, threshold)]
    taken = []
    for session in sessions:
        with open_video(clip, decoder=decoder) as video:
            started = time.perf_counter()
            for frame in video.read(range(len(video))):
                session.see(frame.image, frame.timestamp)
            taken.append(time.perf_counter() - started)
    stats = sessions[1].stats()
    maps = [{frame.identity: frame.features for frame in session.memory.read()} for session in sessions]
    shared = [key for key in maps[0] if key in maps[1]]
    apart = [float((maps[0][key] - maps[1][key]).norm() / maps[0][key].norm()) for key in shared]
    return {
        "skip below": threshold,
        "frames": stats["frames_seen"],
        "share encoded": 1 - stats["frames_skipped"] / stats["frames_seen"],
        "speed/encode all": taken[0] / taken[1],
        "frames held by both": len(shared),
        "mean relative difference of their maps": sum(apart) / max(1, len(apart)),
    }
