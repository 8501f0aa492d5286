"""How many tokens samples take, estimated from the rows alone.

An estimate errs on the long side: a packed sequence that holds less than planned costs little, one that overflows
costs a second sequence. Nothing else depends on its being exact.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import scheduled_grids, tokens_of_grid
from ..prompt.messages import Image, Message, frame_parts
from .footage import due_moments, tracking_turns
from .formats import read_row
from .registry import DataSet
from .sample import Box, Sample, SampleError, Turn

if TYPE_CHECKING:
    from .dataset import ConversationDataset

CALIBRATED_ON = 32
"""Rows of a set whose text is tokenised to learn how many tokens a byte takes at most."""


def estimate_lengths(dataset: ConversationDataset) -> np.ndarray:
    """int32 (num_samples,): tokens of each sample, at most `max_length`. Reads every row once; opens no media."""
    max_length = dataset.settings.max_length
    starts, lengths = [], array("i")  # of all rows, set after set
    for data_set, rows in zip(dataset.data_sets, dataset.annotations, strict=True):
        starts.append(len(lengths))
        estimator = LengthEstimator(dataset, data_set, [rows[n] for n in spread(len(rows), CALIBRATED_ON)])
        lengths.extend(min(estimator.row(rows[number]), max_length) for number in range(len(rows)))
    set_numbers, row_numbers = dataset.rows.T
    return np.frombuffer(lengths, dtype=np.int32)[np.array(starts)[set_numbers] + row_numbers]


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
        self._frames = self._tokens_of_frames()
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
        turns = self._turns(sample)
        words = self._fixed + self._turn * (len(turns) - 1) + math.ceil(self._per_byte * _num_bytes(turns))
        return words + (self._film(sample) if sample.video else self._stills(len(sample.images)))

    def _turns(self, sample: Sample) -> Sequence[Turn]:
        """What is said; tracking says most where it begins at its first box."""
        if not sample.boxes:
            return sample.turns
        return tracking_turns(sample.turns[0], self._boxes(sample), start=0)

    def _boxes(self, sample: Sample) -> list[Box]:
        due = due_moments([box.timestamp for box in sample.boxes], self.settings.fps)
        return [sample.boxes[n] for n in due[: self.settings.num_frames]]

    def _film(self, sample: Sample) -> int:
        if sample.boxes:
            return self._frames[len(self._boxes(sample))]
        num_frames = min(self.settings.num_frames, max(1, math.ceil(self._seconds(sample) * self.settings.fps)))
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
        return min(min(limits), self.settings.num_frames / self.settings.fps)

    def _stills(self, num_images: int) -> int:
        """Every image in as many tiles as it may have, because its size is not known."""
        if num_images == 0:
            return 0
        each = max(1, self._max_tiles // num_images) if self.config.dynamic_image_size else 1
        tiles = each + (self.config.use_thumbnail and each > 1)
        return num_images * (tiles * tokens_of_grid(self.config.grid) + self._image)

    def _tokens_of_frames(self) -> list[int]:
        """By number of frames, with the longer kind of line before each: with its time or without."""
        memory, most = self.config.memory_config, self.settings.num_frames
        times: list[list[float | None]] = [[None] * most, [(n + 0.5) / self.settings.fps for n in range(most)]]
        lines = [self._length(frame_parts((n, one[n], 1) for n in range(most))) - self._fixed - most for one in times]
        line = math.ceil(max(lines) / most)
        grids = scheduled_grids(most, memory.every, memory.grids)
        return list(accumulate((tokens_of_grid(grid) + line for grid in grids), initial=0))

    def _tokens_per_byte(self, rows: Iterable[dict[str, Any]]) -> float:
        """The most that the words of a row take."""
        ratios = []
        for row in rows:
            try:
                turns = self._turns(read_row(row))
            except SampleError:
                continue
            messages = [m for t in turns for m in (Message("user", (t.question,)), Message("assistant", (t.answer,)))]
            num_tokens = len(self._render(messages).ids) - self._fixed - self._turn * (len(turns) - 1)
            ratios.append(num_tokens / max(1, _num_bytes(turns)))
        return max(ratios, default=1.0)

    def _length(self, parts: tuple[str | Image, ...], *, num_turns: int = 1) -> int:
        messages = [Message("user", parts), Message("assistant", ("",))] * num_turns
        return len(self._render(messages).ids)


def _num_bytes(turns: Iterable[Turn]) -> int:
    return sum(len((turn.question + turn.answer).encode()) for turn in turns)
