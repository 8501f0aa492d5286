"""How many tokens samples take, estimated from the rows alone.

An estimate errs on the long side: a packed sequence that holds less than planned costs little, one that overflows
costs a second sequence. Nothing else depends on its being exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from ..config import scheduled_grids, tokens_of_grid
from ..model_config import VideoChatOnlineConfig
from ..processing import Processor
from ..prompt.messages import Image, Message, frame_parts
from .clip import due_moments, tracking_turns
from .formats import read_row
from .layout import tile_limit
from .registry import Annotations, DataSet
from .sample import Box, Sample, SampleError, Turn
from .settings import DataSettings

CALIBRATED_ON = 32
"""Rows of a set whose text is tokenised to learn how many tokens a byte takes at most."""


def estimate_lengths(
    rows: Annotations, data_set: DataSet, processor: Processor, config: VideoChatOnlineConfig, settings: DataSettings
) -> np.ndarray:
    """int32 (num_rows,): tokens of each row's sample, at most `max_length`. Opens no media.

    A row that cannot be understood counts as an empty dialogue.
    """
    estimator = LengthEstimator(processor, config, settings, tile_limit(data_set, settings, config))
    # 1. tokens of a byte, from rows spread over the set
    chosen = sorted({len(rows) * number // CALIBRATED_ON for number in range(CALIBRATED_ON)})
    estimator.calibrate([sample for number in chosen if (sample := _sample(rows, number)) is not None])
    # 2. every row, read once
    lengths = (estimator.length(_sample(rows, number)) for number in range(len(rows)))
    return np.fromiter((min(length, settings.max_length) for length in lengths), np.int32, len(rows))


def _sample(rows: Annotations, number: int) -> Sample | None:
    try:
        return read_row(rows[number])
    except SampleError:
        return None


class LengthEstimator:
    """Tokens of one set's samples."""

    def __init__(
        self, processor: Processor, config: VideoChatOnlineConfig, settings: DataSettings, max_tiles: int
    ) -> None:
        self.config, self.settings, self.max_tiles = config, settings, max_tiles
        self._render = processor.render
        self._empty = self._rendered(())
        self._turn = self._rendered((), num_turns=2) - self._empty
        self._image = self._rendered((Image(1),)) - self._empty - 1
        self._frames = self._tokens_of_frames()
        """Tokens of the first n frames."""
        self._per_byte = 1.0

    def calibrate(self, samples: Iterable[Sample]) -> None:
        """Take the most tokens of a byte that the words of any of the samples need."""
        ratios = []
        for turns in map(self._turns, samples):
            messages = [m for t in turns for m in (Message("user", (t.question,)), Message("assistant", (t.answer,)))]
            num_tokens = len(self._render(messages).ids) - self._empty - self._turn * (len(turns) - 1)
            ratios.append(num_tokens / max(1, _num_bytes(turns)))
        self._per_byte = max(ratios, default=1.0)

    def length(self, sample: Sample | None) -> int:
        """Tokens of a sample; None: of an empty dialogue."""
        if sample is None:
            return self._empty
        turns = self._turns(sample)
        words = self._empty + self._turn * (len(turns) - 1) + math.ceil(self._per_byte * _num_bytes(turns))
        return words + (self._of_video(sample) if sample.video else self._of_images(len(sample.images)))

    def _turns(self, sample: Sample) -> Sequence[Turn]:
        """What is said; tracking says most where it begins at its first box."""
        if not sample.boxes:
            return sample.turns
        return tracking_turns(sample.turns[0], self._boxes(sample), start=0)

    def _boxes(self, sample: Sample) -> list[Box]:
        due = due_moments([box.timestamp for box in sample.boxes], self.settings.fps)
        return [sample.boxes[n] for n in due[: self.settings.num_frames]]

    def _of_video(self, sample: Sample) -> int:
        if sample.boxes:
            return self._frames[len(self._boxes(sample))]
        num_frames = min(self.settings.num_frames, max(1, math.ceil(self._seconds(sample) * self.settings.fps)))
        return self._frames[num_frames]

    def _seconds(self, sample: Sample) -> float:
        """How much of the video is shown at most, as far as the row says it."""
        video = sample.video
        assert video is not None, "only a video has frames"
        limits = [self.settings.num_frames / self.settings.fps]
        if video.clip:
            limits.append(video.clip[1] - video.clip[0])
        if video.files:
            limits.append(len(video.files) / (video.fps or 1.0))
        if sample.kind == "online" and sample.turns[-1].timestamp is not None:
            start = 0.0 if video.reset_timestamps or not video.clip else video.clip[0]
            limits.append(sample.turns[-1].timestamp - start)
        return min(limits)

    def _of_images(self, num_images: int) -> int:
        """Every image in as many tiles as it may have, because its size is not known."""
        tiles = max(1, self.max_tiles // max(1, num_images))
        tiles += self.config.use_thumbnail and tiles > 1
        return num_images * (tiles * tokens_of_grid(self.config.grid) + self._image)

    def _tokens_of_frames(self) -> list[int]:
        """By number of frames, with the longer kind of line before each: with its time or without."""
        memory, most = self.config.memory_config, self.settings.num_frames
        times: list[list[float | None]] = [[None] * most, [(n + 0.5) / self.settings.fps for n in range(most)]]
        lines = [frame_parts((n, one[n], 1) for n in range(most)) for one in times]
        per_line = math.ceil(max(self._rendered(line) - self._empty - most for line in lines) / most)
        grids = scheduled_grids(most, memory.every, memory.grids)
        return list(accumulate((tokens_of_grid(grid) + per_line for grid in grids), initial=0))

    def _rendered(self, parts: tuple[str | Image, ...], *, num_turns: int = 1) -> int:
        messages = [Message("user", parts), Message("assistant", ("",))] * num_turns
        return len(self._render(messages).ids)


def _num_bytes(turns: Iterable[Turn]) -> int:
    return sum(len((turn.question + turn.answer).encode()) for turn in turns)
