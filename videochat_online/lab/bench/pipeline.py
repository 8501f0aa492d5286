"""The input pipeline of training on real clips, with the published sampling: against decoding alone, and decord.

Samples a second of one data worker, torch's DataLoader around each: what it sends to the training process is sent by
all. `alone` decodes the same frames by the shortest loop (bench decode) and sends nothing; `decord way` is what
published loaders do: decord's get_batch, PIL's bicubic resize, float32 normalised in the worker, no words at all. Ours
is the data set and collator as `train` uses them, words included: without a cache, filling it, and from it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ...data.clip import choose_frames
from ...data.dataset import ConversationDataset, PaddingCollator
from ...data.registry import read_lists
from ...data.settings import DataSettings
from ...extras import lacks
from ...media.transforms import FrameTransform
from ...media.video_index import VideoIndex, index_video
from ...pixels import IMAGENET_MEAN, IMAGENET_STD
from ...processing import Processor
from .decode import _read_alone
from .lists import load_config

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
