"""How many tokens samples take: estimated from the rows alone, or measured by opening their media.

An estimate errs on the long side. It orders and groups samples; nothing depends on its being exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset

from ..prompt.messages import Image, Message, frame_parts
from ..pyramid import scheduled_grids, tokens_of_grid
from .formats import read_row
from .registry import DataSet
from .sample import Sample, SampleError

if TYPE_CHECKING:
    from .dataset import ConversationDataset

CALIBRATED_ON = 32
"""Rows of a set whose text is tokenised to learn how many tokens a byte takes."""


def estimate_lengths(dataset: ConversationDataset) -> list[int]:
    """Tokens of each sample, at most `max_length`. Reads every row once; opens no media."""
    max_length = dataset.settings.max_length
    by_set = []
    for data_set, rows in zip(dataset.data_sets, dataset.annotations, strict=True):
        estimator = LengthEstimator(dataset, data_set, [rows[n] for n in spread(len(rows), CALIBRATED_ON)])
        by_set.append([min(estimator.row(rows[number]), max_length) for number in range(len(rows))])
    return [by_set[set_number][row] for set_number, row in dataset.rows.tolist()]


def measure_lengths(dataset: ConversationDataset, *, num_workers: int = 0) -> list[int]:
    """Tokens of each sample, exactly (but for where tracking begins, which changes from epoch to epoch)."""
    loader = DataLoader(_Lengths(dataset), batch_size=64, num_workers=num_workers, collate_fn=list)
    return [length for batch in loader for length in batch]


def spread(size: int, count: int) -> list[int]:
    """At most `count` numbers below `size`, evenly spread."""
    return sorted({size * number // count for number in range(count)})


class LengthEstimator:
    """Lengths of one set's rows."""

    def __init__(self, dataset: ConversationDataset, data_set: DataSet, examples: Iterable[dict[str, Any]]) -> None:
        self.config, self.settings = dataset.config, dataset.settings
        self._render = dataset.processor.render
        self._max_tiles = data_set.max_dynamic_patch or self.settings.max_dynamic_patch or self.config.max_dynamic_patch
        self._fixed = self._length(())
        self._turn = self._length((), num_turns=2) - self._fixed
        frame = self._length(frame_parts([(99, 100.0, 1)])) - self._fixed - 1
        memory = self.config.memory_config
        grids = scheduled_grids(self.settings.max_frames, memory.every, memory.grids)
        self._frames = list(accumulate((tokens_of_grid(grid) + frame for grid in grids), initial=0))
        """Tokens of the first n frames."""
        self._image = self._length((Image(1),)) - self._fixed - 1
        self._per_byte = self._tokens_per_byte(examples)

    def row(self, row: dict[str, Any]) -> int:
        """Tokens of a row; those of an empty dialogue where it cannot be understood."""
        try:
            return self.sample(read_row(row))
        except SampleError:
            return self._fixed

    def sample(self, sample: Sample) -> int:
        num_bytes = sum(len((turn.question + turn.answer).encode()) for turn in sample.turns)
        num_bytes += sum(len(f"At {box.timestamp:.1f}s, {box.text}\n") for box in sample.boxes)
        num_turns = max(len(sample.turns), len(sample.boxes))
        words = self._fixed + self._turn * (num_turns - 1) + math.ceil(self._per_byte * num_bytes)
        return words + (self._film(sample) if sample.video else self._stills(len(sample.images)))

    def _film(self, sample: Sample) -> int:
        num_frames = min(self.settings.max_frames, max(1, math.ceil(self._seconds(sample) * self.settings.fps)))
        return self._frames[num_frames]

    def _seconds(self, sample: Sample) -> float:
        """How much of the video is seen, as far as the row says it; endless where it does not."""
        video = sample.video
        assert video is not None, "only a video has frames"
        limits = [math.inf]
        if video.clip:
            limits.append(video.clip[1] - video.clip[0])
        if video.files:
            limits.append(len(video.files) / (video.fps or 1.0))
        if sample.kind == "online" and sample.turns[-1].timestamp is not None:
            start = 0.0 if video.reset_timestamps or not video.clip else video.clip[0]
            limits.append(sample.turns[-1].timestamp - start)
        if sample.boxes:
            limits.append(min(len(sample.boxes) / self.settings.fps, sample.boxes[-1].timestamp + 1))
        return min(min(limits), self.settings.max_frames / self.settings.fps)

    def _stills(self, num_images: int) -> int:
        """Every image in as many tiles as it may have, because its size is not known."""
        if num_images == 0:
            return 0
        each = max(1, self._max_tiles // num_images) if self.config.dynamic_image_size else 1
        tiles = each + (self.config.use_thumbnail and each > 1)
        return num_images * (tiles * tokens_of_grid(self.config.grid) + self._image)

    def _tokens_per_byte(self, rows: Iterable[dict[str, Any]]) -> float:
        num_bytes, num_tokens = 1, 1
        for row in rows:
            try:
                turn = read_row(row).turns[0]
            except SampleError:
                continue
            num_bytes += len((turn.question + turn.answer).encode())
            num_tokens += self._length((turn.question,), turn.answer) - self._fixed
        return num_tokens / num_bytes

    def _length(self, parts: tuple[str | Image, ...], answer: str = "", *, num_turns: int = 1) -> int:
        messages = [Message("user", parts), Message("assistant", (answer,))] * num_turns
        return len(self._render(messages).ids)


class _Lengths(Dataset[int]):
    def __init__(self, dataset: ConversationDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> int:
        return self._dataset.length(index)
