"""`bench train`: batches padded, grouped and packed on one mix of lengths; the data pipeline against the decoder; what
attention over a packed sequence, and the loss in chunks, save.

The mix is a small ShapeWorld: images, short and long videos, offline questions and online dialogues, read by the
ordinary loaders. Times are of forward and backward; the optimizer is left out, it costs the same per step.

On real clips, with the published sampling: samples a second of one data worker, torch's DataLoader around each: what
it sends to the training process is sent by all. `alone` decodes the same frames by the shortest loop (bench decode) and
sends nothing; `decord way` is what published loaders do: decord's get_batch, PIL's bicubic resize, float32 normalised
in the worker, no words at all. Ours is the data set and collator as `train` uses them: without a cache, filling it, and
from it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2Config

from ...data.clip import choose_frames
from ...data.dataset import ConversationDataset, PackingCollator, PaddingCollator
from ...data.registry import read_lists
from ...data.sampler import grouping_plan, packing_plan
from ...data.settings import DataSettings
from ...extras import lacks
from ...media.readers import Decoder, open_video
from ...media.sampling import sample_pass
from ...media.transforms import FrameTransform
from ...media.video_index import VideoIndex, index_video
from ...model.language_model import border_arguments, build_language_model, use_varlen
from ...model.videochat import VideoChatOnline
from ...pixels import IMAGENET_MEAN, IMAGENET_STD
from ...processing import Processor, load_model
from ...training.loss import weighted_loss
from ..shapeworld.build import WorldConfig, build_world
from .decode import SHIPPED_CLIP, _read_alone
from .lists import load_config
from .measure import Tables

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


SIZE = 448
"""Of the published encoder's pictures."""
PUBLISHED = DataSettings()
WARM_UP = 3
"""Samples that a worker has made or begun before the clock runs."""


def bench_real_clips(clips: Sequence[Path], folder: Path, model: str, *, samples: int, repeats: int) -> list[Any]:
    """A row for each clip: samples a second, and the ratios that count."""
    has_decord = lacks("decord") is None
    return [_row(clip, folder / str(number), model, samples, repeats, has_decord) for number, clip in enumerate(clips)]


def _row(clip: Path, folder: Path, model: str, samples: int, repeats: int, has_decord: bool) -> dict[str, Any]:
    # 1. the same frames for all
    index = index_video(clip)
    chosen = choose_frames(len(index.timestamps), index.fps, PUBLISHED.fps, PUBLISHED.num_frames)
    plain = dataset_of(clip, folder, model, samples)
    cache, cached = folder / "cache", copy(plain)
    cached.settings = replace(plain.settings, frame_cache=str(cache))
    assert len(plain[0].image_grids) == len(chosen)
    # 2. in turn, so that a drifting machine is fair to all
    collate = PaddingCollator(0)

    def fill_the_cache() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return _seconds(cached, collate, is_first=True)

    runs: dict[str, Callable[[], float]] = {
        "alone": lambda: _seconds(Alone(index, chosen, samples), list),
        "ours": lambda: _seconds(plain, collate),
        "fills the cache": fill_the_cache,
        "from the cache": lambda: _seconds(cached, collate),
    }
    if has_decord:
        runs["decord way"] = lambda: _seconds(DecordWay(str(clip), samples), torch.cat)
    times = {name: median(run() for _ in range(repeats)) for name, run in runs.items()}
    row: dict[str, Any] = {
        "clip": f"{clip.name} {index.size[0]}x{index.size[1]}",
        "frames": f"{len(chosen)} of {len(index.timestamps)}",
        **{f"{name} ms": times[name] * 1e3 if name in times else None for name in (*runs, "decord way")},
    }
    row["alone/ours"] = times["alone"] / times["ours"]
    for name in ("ours", "from the cache"):
        row[f"decord way/{name}"] = times["decord way"] / times[name] if has_decord else None
    return row


def dataset_of(clip: Path, folder: Path, model: str, samples: int) -> ConversationDataset:
    """The clip with a question, again and again, as the published model's encoder takes it."""
    folder.mkdir(parents=True)
    turns = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "A ride through a town."}]
    (folder / "rows.json").write_text(json.dumps([{"video": clip.name, "conversations": turns}]))
    entry = {"annotation": "rows.json", "data_root": str(clip.absolute().parent), "repeat_time": samples}
    (folder / "list.json").write_text(json.dumps({"clips": entry}))
    config = load_config(model)
    processor = replace(Processor.from_pretrained(model, config), transform=FrameTransform(SIZE))
    return ConversationDataset(read_lists([folder / "list.json"]), processor, config, PUBLISHED)


def _seconds(dataset: Dataset[Any], collate: Callable[..., Any], *, is_first: bool = False) -> float:
    """Seconds a sample of one worker. Of many, those it still makes while the first ones are taken are left out."""
    batches = iter(DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=collate, prefetch_factor=1))
    if not is_first:
        for _ in range(WARM_UP):
            next(batches)
    began = perf_counter()
    number = 1
    next(batches)
    if not is_first:
        number += sum(1 for _ in batches)
    return (perf_counter() - began) / number


@dataclass
class Alone(Dataset[None]):
    """Decodes the frames, and that is all."""

    index: VideoIndex
    frames: list[int]
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> None:
        _read_alone(self.index, self.frames, 1)


@dataclass
class DecordWay(Dataset[torch.Tensor]):
    """float32 (T, 3, S, S) of each sample."""

    path: str
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> torch.Tensor:
        import decord

        video = decord.VideoReader(self.path, num_threads=1)
        fps = video.get_avg_fps()
        pictures = video.get_batch(choose_frames(len(video), fps, PUBLISHED.fps, PUBLISHED.num_frames)).asnumpy()
        resized = [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for one in pictures]
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        floats = (torch.from_numpy(np.array(one)).permute(2, 0, 1).contiguous().float().div(255) for one in resized)
        return torch.stack([(one - mean) / std for one in floats])
