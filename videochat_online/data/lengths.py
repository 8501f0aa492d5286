"""How many tokens samples take, estimated from the rows alone.

An estimate errs on the long side: a packed sequence that holds less than planned costs little, one that overflows
costs a second sequence. Nothing else depends on its being exact.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate, repeat
from multiprocessing import get_context

import numpy as np

from ..config import scheduled_grids, tokens_of_grid
from ..model.backbone import Facts
from ..processing import Processor
from ..prompt.messages import Image, Message, frame_parts
from .clip import boxes_shown, frame_share, tracking_turns
from .formats import read_row
from .layout import Parts, tile_limit
from .registry import Annotations, DataSet
from .sample import Sample, SampleError, Turn
from .settings import DataSettings, own_cores

CALIBRATED_ON = 32
"""Rows of a set whose text is tokenised to learn how many tokens a byte takes at most."""
ROWS_OF_A_PROCESS = 20_000
"""Fewer are read sooner than a process starts."""


def estimate_lengths(
    rows: Annotations, data_set: DataSet, processor: Processor, config: Facts, settings: DataSettings
) -> np.ndarray:
    """int32 (num_rows,): tokens of each row's sample, at most `max_length`. Opens no media.

    A row that cannot be understood counts as an empty dialogue.
    """
    estimator = LengthEstimator(processor, config, settings, tile_limit(data_set, settings, config))
    # 1. tokens of a byte, from rows spread over the set
    chosen = sorted({len(rows) * number // CALIBRATED_ON for number in range(CALIBRATED_ON)})
    samples = (_sample(rows, number, settings) for number in chosen)
    estimator.per_byte = max((estimator.tokens_of_a_byte(one) for one in samples if one is not None), default=1.0)
    # 2. every row, read once; of a large set by several processes
    num_processes = max(1, min(own_cores(), len(rows) // ROWS_OF_A_PROCESS))
    shares = [range(number, len(rows), num_processes) for number in range(num_processes)]
    if num_processes == 1 or sys.platform != "linux":  # elsewhere a process takes seconds to start
        return estimator.lengths(rows, range(len(rows)))
    found = np.empty(len(rows), np.int32)
    with ProcessPoolExecutor(num_processes, get_context("fork")) as pool:
        for share, lengths in zip(shares, pool.map(estimator.lengths, repeat(rows), shares), strict=True):
            found[share.start :: share.step] = lengths
    return found


def _sample(rows: Annotations, number: int, settings: DataSettings) -> Sample | None:
    try:
        return read_row(rows[number], settings)
    except SampleError:
        return None


class LengthEstimator:
    """Tokens of one set's samples."""

    def __init__(self, processor: Processor, config: Facts, settings: DataSettings, max_tiles: int) -> None:
        self.settings, self.max_tiles, self.has_thumbnail = settings, max_tiles, config.use_thumbnail
        self.tokens_of_a_tile = tokens_of_grid(config.grid)
        self.per_byte = 1.0
        """Tokens of a byte of words, at most."""
        self._render = processor.render
        empty = self._rendered([((), "")])
        self._turn = self._rendered([((), "")] * 2) - empty
        self._start = empty - self._turn
        self._image = self._rendered([((Image(1),), "")]) - empty - 1
        # a line stands before each frame, longest with its time
        memory, most = config.memory_config, settings.num_frames
        numbers, style = range(most), processor.template.frame
        lines = frame_parts(((n, (n + 0.5) / settings.fps, 1) for n in numbers), style)
        per_line = math.ceil((self._rendered([(lines, "")]) - empty - most) / most)
        costs = [tokens_of_grid(grid) + per_line for grid in scheduled_grids(most, memory.every, memory.grids)]
        self._frames = list(accumulate(costs, initial=0))
        """Tokens of the first n frames."""

    def _rendered(self, dialogue: Sequence[tuple[Parts, str]]) -> int:
        messages = [(Message("user", parts), Message("assistant", (answer,))) for parts, answer in dialogue]
        return len(self._render([one for pair in messages for one in pair]).ids)

    def tokens_of_a_byte(self, sample: Sample) -> float:
        """What the words of a sample need."""
        turns = self._said(sample)
        num_tokens = self._rendered([((turn.question,), turn.answer) for turn in turns])
        return (num_tokens - self._start - self._turn * len(turns)) / max(1, _num_bytes(turns))

    def lengths(self, rows: Annotations, numbers: range) -> np.ndarray:
        """int32 (len(numbers),): of these rows."""
        each = (self.length(_sample(rows, number, self.settings)) for number in numbers)
        return np.fromiter((min(length, self.settings.max_length) for length in each), np.int32, len(numbers))

    def length(self, sample: Sample | None) -> int:
        """Tokens of a sample; None: of an empty dialogue."""
        if sample is None:
            return self._start + self._turn
        turns = self._said(sample)
        words = self._start + self._turn * len(turns) + math.ceil(self.per_byte * _num_bytes(turns))
        if sample.video is None:
            return words + self._of_images(len(sample.images))
        num_frames = len(turns) if sample.boxes else self._num_frames(sample)
        most = frame_share(sample, self.settings.num_frames)
        return words + len(sample.videos) * self._frames[min(max(1, num_frames), most)]

    def _said(self, sample: Sample) -> Sequence[Turn]:
        """What is said; tracking says most where it begins at its first box: one turn a frame."""
        if not sample.boxes:
            return sample.turns
        shown = boxes_shown([box.timestamp for box in sample.boxes], self.settings, self.settings.num_frames)
        return tracking_turns(sample.turns[0], [sample.boxes[n] for n in shown], start=0)

    def _num_frames(self, sample: Sample) -> int:
        """Frames of a video that are shown at most, as far as the row says it."""
        video = sample.video
        if video is not None and video.is_listed and self.settings.listed_frames == "all":
            return len(video.files)
        return math.ceil(self._seconds(sample) * self.settings.fps)

    def _seconds(self, sample: Sample) -> float:
        """How much of the video is shown at most, as far as the row says it."""
        video, asked = sample.video, sample.turns[-1].timestamp
        assert video is not None, "only a video has frames"
        limits = [self.settings.num_frames / self.settings.fps]
        if video.clip:
            limits.append(video.clip[1] - video.clip[0])
        if video.files:
            limits.append(len(video.files) / (video.fps or 1.0))
        if sample.kind == "online" and asked is not None:
            start = video.clip[0] if video.clip and not video.reset_timestamps else 0.0
            if video.reset_timestamps and self.settings.clock_zero == "sampled":
                start -= 1 / self.settings.fps  # the clock starts with the first frame, not before it
            limits.append(asked - start)
        return min(limits)

    def _of_images(self, num_images: int) -> int:
        """Every image in as many tiles as it may have, because its size is not known."""
        tiles = max(1, self.max_tiles // max(1, num_images))
        tiles += self.has_thumbnail and tiles > 1
        return num_images * (tiles * self.tokens_of_a_tile + self._image)


def _num_bytes(turns: Sequence[Turn]) -> int:
    return sum(len((turn.question + turn.answer).encode()) for turn in turns)
