"""`bench train`: batches padded, grouped and packed on one mix of lengths; the data pipeline against the decoder; what
attention over a packed sequence, and the loss in chunks, save.

The mix is a small ShapeWorld: images, short and long videos, offline questions and online dialogues, read by the
ordinary loaders. Times are of forward and backward; the optimizer is left out, it costs the same per step.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config

from ...data.dataset import ConversationDataset, PackingCollator, PaddingCollator
from ...data.registry import read_lists
from ...data.sampler import grouping_plan, packing_plan
from ...data.settings import DataSettings
from ...media.readers import Decoder, open_video
from ...media.sampling import sample_pass
from ...model.language_model import border_arguments, build_language_model, use_varlen
from ...model.videochat import VideoChatOnline
from ...processing import Processor, load_model
from ...training.loss import weighted_loss
from ..shapeworld.build import WorldConfig, build_world
from .decode import SHIPPED_CLIP
from .measure import Tables
from .pipeline import bench_real_clips

WORLD = WorldConfig(videos=6, seed=0, seconds=(15.0, 30.0, 60.0), level=(2,), fps=4, size=64)
MAX_LENGTH = 2048
SMALL_LLM = Qwen2Config(
    vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=65536,
)  # fmt: skip


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = mixed_dataset(folder, model, processor, decoder=options.decoder)
        return {
            "forward and backward": bench_batches(dataset, model, processor, num_samples=options.samples),
            "data pipeline": bench_pipeline(folder, dataset, num_samples=options.samples),
            "packed attention": bench_attention(options.tokens),
            "loss in chunks": bench_loss(),
            "input pipeline of real clips, milliseconds a sample": bench_real_clips(
                options.clips or [SHIPPED_CLIP],
                folder / "real",
                options.model,
                samples=max(8, options.samples // 4),
                repeats=min(3, options.repeats),
            ),
        }


def mixed_dataset(
    folder: Path, model: VideoChatOnline, processor: Processor, *, decoder: Decoder = "pyav"
) -> ConversationDataset:
    """Builds the world in `folder` and opens the list of stage 2, which holds samples of every kind."""
    build_world(folder, WORLD, progress=False)
    roots = {"DATA_ROOT": str(folder), "ANNO_ROOT": str(folder)}
    sets = read_lists([folder / "train" / "stage2.json"], roots)
    return ConversationDataset(sets, processor, model.config, DataSettings(max_length=MAX_LENGTH, decoder=decoder))


def bench_batches(
    dataset: ConversationDataset, model: VideoChatOnline, processor: Processor, *, num_samples: int, batch_size: int = 8
) -> list[dict[str, Any]]:
    """Samples a second and padding share of three ways to batch the same samples."""
    chosen = random.Random(0).sample(range(len(dataset)), min(num_samples, len(dataset)))
    examples = [dataset[number] for number in chosen]
    lengths = [len(example.input_ids) for example in examples]
    pad = processor.tokenizer.pad_token_id
    shuffled = [list(range(k, min(k + batch_size, len(examples)))) for k in range(0, len(examples), batch_size)]
    ways: dict[str, tuple[Iterable[list[int]], Callable[..., dict[str, Any]]]] = {
        "padded, shuffled": (shuffled, PaddingCollator(pad)),
        "padded, grouped by length": (grouping_plan(lengths, batch_size), PaddingCollator(pad)),
        "packed": (packing_plan(lengths, MAX_LENGTH), PackingCollator(pad, MAX_LENGTH)),
    }
    rows = []
    for name, (plan, collator) in ways.items():
        batches = [collator([examples[number] for number in numbers]) for numbers in plan]
        seconds = _forward_and_backward(model, batches)
        positions = sum(batch["input_ids"].numel() for batch in batches)
        rows.append(
            {
                "batches": name,
                "samples": len(examples),
                "positions": positions,
                "padding share": 1 - sum(lengths) / positions,
                "samples a second": len(examples) / seconds,
                "tokens a second": sum(lengths) / seconds,
            }
        )
    for row in rows:
        row["speed/shuffled"] = row["samples a second"] / rows[0]["samples a second"]
    return rows


def _forward_and_backward(model: VideoChatOnline, batches: Sequence[dict[str, Any]]) -> float:
    """Seconds for one pass over the batches; encoder frozen, as published. The first batch is a warm-up beforehand."""
    model.vision_model.requires_grad_(False)
    model.train()
    started = 0.0
    for number, batch in enumerate([batches[0], *batches]):
        if number == 1:
            started = time.perf_counter()
        model.zero_grad()
        model(**batch, use_cache=False).loss.backward()
    seconds = time.perf_counter() - started
    model.zero_grad()
    model.eval().requires_grad_(True)
    return seconds


def bench_pipeline(folder: Path, dataset: ConversationDataset, *, num_samples: int) -> list[dict[str, Any]]:
    """Milliseconds a frame of the videos: from row to tensors, the same from the frame cache, and decoding alone."""
    shown = [data_set.name for data_set in dataset.data_sets]
    videos = [number for number, (place, _) in enumerate(dataset.rows.tolist()) if "image" not in shown[place]]
    chosen = random.Random(1).sample(videos, min(num_samples, len(videos)))
    settings = replace(dataset.settings, frame_cache=str(folder / "cache"))
    cached = ConversationDataset(dataset.data_sets, dataset.processor, dataset.config, settings)
    pipeline = _milliseconds_a_frame(dataset, chosen)
    _milliseconds_a_frame(cached, chosen)  # fills the cache
    from_cache = _milliseconds_a_frame(cached, chosen)
    files = sorted((folder / "videos").glob("*.mp4"))
    decoder = _decoder_alone(files, num_frames=16 * len(chosen), decoder=settings.decoder)
    return [
        {
            "samples": len(chosen),
            "pipeline ms a frame": pipeline,
            "from the cache ms a frame": from_cache,
            "decoder alone ms a frame": decoder,
            "pipeline/decoder": pipeline / decoder,
            "cache/pipeline": from_cache / pipeline,
        }
    ]


def bench_attention(lengths: Sequence[int], *, sample: int = 1024) -> list[dict[str, Any]]:
    """Forward and backward of a small language model over packed samples: by sample, against a mask of L x L.

    MiB are the most that the tensors of a pass take at once, without the weights.
    """
    rows = []
    for length in lengths:
        positions = torch.arange(length)[None] % sample
        inputs: dict[str, Any] = {"input_ids": positions % 97, "position_ids": positions, "logits_to_keep": 1}
        found = {}
        for way in ("mask", "varlen"):
            model = build_language_model(deepcopy(SMALL_LLM))
            if way == "varlen":
                use_varlen(model)
                inputs |= border_arguments(positions, flash=False, device=torch.device("cpu"))
            found[way] = _cost(model, partial(_forward_backward_of, model, inputs))
        (slow, most), (fast, least) = found["mask"], found["varlen"]
        rows.append(
            {
                "tokens": length,
                "samples": -(-length // sample),
                "mask MiB": length**2 / 2**20,
                "with mask, peak MiB": most,
                "by sample, peak MiB": least,
                "peak by sample/mask": least / most,
                "time by sample/mask": fast / slow,
            }
        )
    return rows


def bench_loss(*, num_tokens: int = 3277, width: int = 64, vocabulary: int = 32020) -> list[dict[str, Any]]:
    """The last layer and the loss of the tokens that bear it in 32,768, at the 4B model's vocabulary; --loss-chunks."""
    head, targets = torch.nn.Linear(width, vocabulary, bias=False), torch.arange(num_tokens)[None]
    hidden, weights = torch.randn(1, num_tokens, width, requires_grad=True), torch.ones(1, num_tokens)
    found = {}
    for chunks in (1, 4, 16):
        of_batch = partial(weighted_loss, head, hidden, targets=targets, weights=weights, positions=targets[0])
        found[chunks] = _cost(head, lambda: of_batch(num_chunks=chunks).backward())  # noqa: B023
    slow, most = found[1]
    return [
        {"chunks": chunks, "peak MiB": peak, "peak/whole": peak / most, "seconds/whole": seconds / slow}
        for chunks, (seconds, peak) in found.items()
    ]


def _forward_backward_of(model: Any, inputs: dict[str, Any]) -> None:
    model(**inputs, use_cache=False).logits.sum().backward()


def _cost(module: torch.nn.Module, once: Callable[[], None]) -> tuple[float, float]:
    """Seconds of a pass, the second; and the MiB that the tensors of the first take at once."""
    with Peak() as found:
        once()
    module.zero_grad()
    started = time.perf_counter()
    once()
    seconds = time.perf_counter() - started
    module.zero_grad()
    return seconds, found.most / 2**20


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once within the context; without what a kernel takes inside."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor) and (storage := one.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.held)
        return result

    def _free(self, key: int, num_bytes: int) -> None:
        self.known.discard(key)
        self.held -= num_bytes


def _milliseconds_a_frame(dataset: ConversationDataset, numbers: Sequence[int]) -> float:
    started = time.perf_counter()
    num_frames = sum(len(dataset[number].image_grids) for number in numbers)
    return (time.perf_counter() - started) / num_frames * 1e3


def _decoder_alone(files: Sequence[Path], *, num_frames: int, decoder: Decoder) -> float:
    """Milliseconds a frame of opening the files and decoding them at 1 fps, again and again."""
    started, decoded = time.perf_counter(), 0
    while decoded < num_frames:
        for file in files:
            with open_video(file, decoder=decoder) as video:
                decoded += sum(1 for _ in video.read(sample_pass(video.timestamps, 1.0, video_fps=video.fps)))
    return (time.perf_counter() - started) / decoded * 1e3
