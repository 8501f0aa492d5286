"""Rows -> training examples, one at a time and only when asked: the same index gives the same example.

Media are opened where the example is made, so the data set can be sent to worker processes. What a sample says, shows
and costs is decided in `prepare`, which decodes no video; `[i]` adds the pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from ..media.readers import MediaError, VideoReader, check_decoder, open_video
from ..model_config import VideoChatOnlineConfig
from ..processing import Processor
from ..prompt.render import Rendered
from .annotations import Annotations
from .failures import FailureLog, Source
from .formats import read_row
from .frame_cache import FrameCache
from .lengths import estimate_lengths
from .material import Material, Prepared, augment, open_material
from .mixing import epoch_rows
from .registry import DataSet
from .sample import Sample, SampleError
from .settings import DataSettings

UNREADABLE = (MediaError, SampleError, OSError)
"""What is a sample's own fault; anything else is ours and is raised."""
MAX_REPLACEMENTS = 10
SHRINK = 3 / 4
"""A sample too long is tried with this share of its pictures, again and again."""


@dataclass
class TrainingExample:
    """One sample as the model reads it. N tokens, T pictures of S x S pixels."""

    input_ids: list[int]
    labels: list[int]
    """(N,): the ids where there is loss, -100 elsewhere."""
    pixel_values: torch.Tensor
    """float32 (T, 3, S, S): frames and tiles in order."""
    image_grids: list[int]
    """(T,): side of the map each picture is average-pooled to."""
    source: Source
    """(set, row) it was made from; another than asked for where that one could not be read."""

    def __post_init__(self) -> None:
        sizes = len(self.input_ids), len(self.labels), len(self.image_grids), len(self.pixel_values)
        assert sizes[0] == sizes[1] and sizes[2] == sizes[3], f"tokens, labels, grids, pictures: {sizes}"


@dataclass(frozen=True)
class Prompted:
    """A sample laid out and rendered; its pictures wait in `prepared`."""

    source: Source
    data_set: DataSet
    sample: Sample
    rendered: Rendered
    prepared: Prepared
    seed: str


class ConversationDataset(torch.utils.data.Dataset[TrainingExample]):
    """Samples of one epoch over several sets.

    Equal indices give equal examples within an epoch; `set_epoch` changes the random choices (where tracking begins,
    JPEG qualities), nothing else. A sample that cannot be read is replaced by another of its set.
    """

    def __init__(
        self,
        data_sets: Sequence[DataSet],
        processor: Processor,
        config: VideoChatOnlineConfig,
        settings: DataSettings | None = None,
    ) -> None:
        self.data_sets = list(data_sets)
        self.processor = processor
        self.config = config
        self.settings = settings or DataSettings()
        check_decoder(self.settings.decoder)  # before a worker finds it missing
        self.annotations = [Annotations(data_set.annotation) for data_set in self.data_sets]
        self.epoch = 0
        self.failures = FailureLog(self.settings.max_failed_share)
        repeats = [data_set.repeat_time for data_set in self.data_sets]
        sizes = [len(rows) for rows in self.annotations]
        self.rows = epoch_rows(sizes, repeats, mixing=self.settings.mixing, seed=self.settings.seed)
        """int64 (len, 2): set and row of each sample."""

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Call it before the epoch's workers start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> TrainingExample:
        """Example `index`, else its first replacement that can be read. TooManyFailures when too many cannot."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} asked for, expected 0 <= index < {len(self)}")
        for attempt, place in enumerate(self._places(index)):
            self.failures.read()
            try:
                with self.prepare(*place, seed=f"{self.settings.seed}/{self.epoch}/{index}/{attempt}") as prompted:
                    return self.example(prompted)
            except UNREADABLE as error:
                self.failures.fail(self.source(*place), error)
        raise self.failures.error(f"nor could {MAX_REPLACEMENTS} replacements of sample {index}")

    @contextmanager
    def prepare(self, set_number: int, row: int, *, seed: str = "0") -> Iterator[Prompted]:
        """The sample of a row, laid out to fit `max_length` and rendered; its media stay open within the context.

        MediaError or SampleError: what is wrong with it.
        """
        data_set = self.data_sets[set_number]
        sample = read_row(self.annotations[set_number][row])
        open_file = self._open_file(data_set)
        material = open_material(sample, data_set, self.config, self.settings, seed=seed, open_file=open_file)
        try:
            prepared, rendered = self._fit(material, self.source(set_number, row))
            yield Prompted(self.source(set_number, row), data_set, sample, rendered, prepared, seed)
        finally:
            material.close()

    def _open_file(self, data_set: DataSet) -> Callable[[Path], VideoReader]:
        """How a video file is opened; augmentation wants frames in their own size, which the cache has not."""
        num_threads = 1 if torch.utils.data.get_worker_info() else 0
        if not self.settings.frame_cache or data_set.data_augment:
            return partial(open_video, decoder=self.settings.decoder, num_threads=num_threads)
        cache = FrameCache(Path(self.settings.frame_cache), self.processor.transform, self.settings.decoder)
        return partial(cache.open, num_threads=num_threads)

    def source(self, set_number: int, row: int) -> Source:
        return self.data_sets[set_number].name, int(row)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 (len,): tokens of each sample, for grouping and packing: estimated from the rows alone."""
        return estimate_lengths(self)

    def _places(self, index: int) -> Iterator[tuple[int, int]]:
        """(set, row) of a sample, then of its replacements: other rows of the same set, the same ones every time."""
        set_number, row = self.rows[index].tolist()
        yield set_number, row
        rng = random.Random(f"{self.settings.seed}/replace/{index}")
        for _ in range(MAX_REPLACEMENTS):
            yield set_number, rng.randrange(len(self.annotations[set_number]))

    def _fit(self, material: Material, source: Source) -> tuple[Prepared, Rendered]:
        """Lay out and render with as many pictures as `max_length` tokens allow. Text is never cut."""
        limit, max_length = material.limit, self.settings.max_length
        wanted = None
        while True:
            prepared = material.prepare(limit)
            rendered = self.processor.render(prepared.layout.messages)
            num_pictures = len(prepared.layout.grids)
            wanted = wanted or num_pictures
            if len(rendered.ids) <= max_length:
                break
            if limit == 1 or num_pictures == 0:
                raise SampleError(
                    f"needs {len(rendered.ids)} tokens with {num_pictures} pictures, expected at most "
                    f"max_length={max_length}: its text is too long"
                )
            limit = max(1, int(min(limit, num_pictures) * SHRINK))
        if num_pictures < wanted:
            self.failures.shorten(source, num_pictures, wanted, max_length)
        return prepared, rendered

    def example(self, prompted: Prompted) -> TrainingExample:
        """Decode the pictures of a prepared sample, one at a time: a clip in its own size may be gigabytes."""
        layout, pictures = prompted.prepared.layout, prompted.prepared.read()
        if prompted.data_set.data_augment:
            pictures = augment(pictures, prompted.seed)
        size = self.processor.transform.size
        pixel_values = torch.empty(len(layout.grids), 3, size, size)
        for place, picture in zip(pixel_values, pictures, strict=True):
            place.copy_(self.processor.frames([picture])[0])
        rendered = prompted.rendered
        return TrainingExample(rendered.ids, rendered.labels, pixel_values, layout.grids, prompted.source)
