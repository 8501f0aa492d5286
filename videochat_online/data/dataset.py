"""Rows -> training examples, made one at a time: the same index gives the same example. Examples -> one batch.

What a sample says, shows and costs is decided in `prepare`, which decodes no video; `example` adds the pixels. Media
are opened where the example is made, so the data set can be sent to worker processes.

A batch is padded to the longest, or packed end to end into full sequences. B sequences, L tokens of the longest, T
pictures of the whole batch in order. Both give what the model's forward takes: input_ids and labels (B, L),
attention_mask or position_ids (B, L), and, if there are pictures, pixel_values (T, 3, S, S) with image_grids (T,).
"""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from ..config import tokens_of_grid
from ..media.readers import MediaError, check_decoder, open_image, open_video
from ..media.transforms import Picture
from ..model.backbone import Facts
from ..processing import Processor
from ..prompt.render import IGNORE_INDEX, Rendered
from .clip import OpenFile, open_clip
from .formats import read_row
from .frame_cache import FrameCache
from .layout import Layout, lay_out_clip, lay_out_clips, lay_out_images, tile_limit
from .lengths import estimate_lengths
from .registry import Annotations, DataSet
from .sample import SampleError
from .sampler import epoch_rows, first_fit
from .settings import DataSettings

logger = logging.getLogger(__name__)

UNREADABLE = (MediaError, SampleError, OSError)
"""What is a sample's own fault; anything else is ours and is raised."""
MAX_REPLACEMENTS = 10
SHRINK = 3 / 4
"""A sample too long is tried with this share of its pictures, again and again."""
JPEG_QUALITIES = (75, 100)
"""Lowest and highest of augmentation, InternVL's."""
FEWEST_READ = 100
"""The share of failures is taken of this many samples at least, so one bad sample does not stop a short run."""
NAMED = 10
"""Failures that the error names."""

Source = tuple[str, int]
"""(set, row)."""
Batch = dict[str, torch.Tensor]


@dataclass
class TrainingExample:
    """One sample as the model reads it. N tokens, T pictures of S x S pixels."""

    input_ids: list[int]
    labels: list[int]
    """(N,): the ids where there is loss, -100 elsewhere."""
    pixel_values: torch.Tensor
    """uint8 (T, 3, S, S), channels last in memory: frames and tiles in order. The model normalises them."""
    image_grids: list[int]
    """(T,): side of the map each picture is average-pooled to."""
    source: Source
    """What it was made from: another row than the index names where that one could not be read."""

    def __post_init__(self) -> None:
        sizes = len(self.input_ids), len(self.labels), len(self.image_grids), len(self.pixel_values)
        assert sizes[0] == sizes[1] and sizes[2] == sizes[3], f"tokens, labels, grids, pictures: {sizes}"


class ConversationDataset(torch.utils.data.Dataset[TrainingExample]):
    """Samples of one epoch over several sets.

    Equal indices give equal examples within an epoch; `set_epoch` changes the random choices (where tracking begins,
    the order of pairs, JPEG qualities), nothing else. A sample that cannot be read is replaced by another of its set.
    """

    def __init__(
        self, data_sets: Sequence[DataSet], processor: Processor, config: Facts, settings: DataSettings
    ) -> None:
        """Reads the annotations. ValueError for one that cannot be read, ImportError for a missing decoder."""
        check_decoder(settings.decoder)  # before a worker finds it missing
        self.data_sets, self.processor, self.config, self.settings = list(data_sets), processor, config, settings
        self.annotations = [Annotations(data_set.annotation) for data_set in self.data_sets]
        self.epoch = 0
        self.failures = FailureLog(settings.max_failed_share)
        repeats = [data_set.repeat_time for data_set in self.data_sets]
        self.rows = epoch_rows(list(map(len, self.annotations)), repeats, mixing=settings.mixing, seed=settings.seed)
        """int64 (len, 2): set and row of each sample."""
        self.usable: list[Sequence[int] | np.ndarray] = [range(len(rows)) for rows in self.annotations]
        """Rows of each set that may stand in for one that cannot be read; held-out rows are none."""

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Call it before the epoch's workers start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> TrainingExample:
        """Example `index`, else the first other one of its set that can be read, of some chosen at random.

        TooManyFailures when too many cannot, IndexError where there is no such index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is out of range, expected 0 <= index < {len(self)}")
        set_number, row = self.rows[index].tolist()
        replacements = random.Random(f"{self.settings.seed}/replace/{index}")  # the same ones every time
        for attempt in range(1 + MAX_REPLACEMENTS):
            if attempt:
                row = int(replacements.choice(self.usable[set_number]))
            self.failures.num_read += 1
            source = self.data_sets[set_number].name, row
            seed = f"{self.settings.seed}/{self.epoch}/{index}/{attempt}"
            try:
                with self.prepare(set_number, row, seed=seed) as (layout, rendered):
                    return self.example(layout, rendered, source)
            except UNREADABLE as error:
                self.failures.fail(source, error)
        raise self.failures.error(f"nor could {MAX_REPLACEMENTS} replacements of sample {index}")

    @contextmanager
    def prepare(self, set_number: int, row: int, *, seed: str = "0") -> Iterator[tuple[Layout, Rendered]]:
        """The sample of a row, laid out to fit `max_length` and rendered; its media stay open within the context.

        `seed` decides its random choices. MediaError or SampleError: what is wrong with it.
        """
        data_set, config, settings = self.data_sets[set_number], self.config, self.settings
        # 1. the row's meaning
        sample = read_row(self.annotations[set_number][row], settings)
        if sample.any_order and settings.pair_order == "shuffled":
            turns = random.Random(f"{seed}/pairs").sample(sample.turns, len(sample.turns))
            sample = replace(sample, turns=tuple(turns))
        with ExitStack() as opened:
            # 2. its media
            lay_out: Callable[[int], Layout]
            if sample.video is not None:
                clips = []
                for video in sample.videos:
                    alone = replace(sample, video=video, more_videos=())
                    clips.append(open_clip(alone, data_set.data_root, self._open_file(data_set), settings))
                    opened.enter_context(clips[-1].reader)
                limit, memory, style = settings.num_frames, config.memory_config, self.processor.template.frame
                lay_out = partial(lay_out_clip, sample, clips[0], settings, memory=memory, seed=seed, style=style)
                if sample.more_videos:
                    lay_out = partial(lay_out_clips, sample, clips, settings, memory=memory, style=style)
            else:
                images = [open_image(data_set.data_root / name) for name in sample.images]
                limit = tile_limit(data_set, settings, config)
                lay_out = partial(lay_out_images, sample, images, config)
            # 3. as many pictures as fit
            layout, rendered = self._fit(lay_out, limit, (data_set.name, row))
            if data_set.data_augment:
                layout = replace(layout, pictures=augment(layout.pictures, seed))
            yield layout, rendered

    def _open_file(self, data_set: DataSet) -> OpenFile:
        """How a video file is opened; augmentation wants frames in their own size, which the cache has not."""
        num_threads = 1 if torch.utils.data.get_worker_info() else 0
        open_file = partial(open_video, decoder=self.settings.decoder, num_threads=num_threads)
        if not self.settings.frame_cache or data_set.data_augment:
            return open_file
        return FrameCache(Path(self.settings.frame_cache), self.processor.transform, open_file).open

    def _fit(self, lay_out: Callable[[int], Layout], limit: int, source: Source) -> tuple[Layout, Rendered]:
        """Lay out and render with at most `limit` pictures, and as many as `max_length` allows. Text is never cut."""
        max_length, wanted = self.settings.max_length, 0
        while True:
            layout = lay_out(limit)
            rendered, num_pictures = self.processor.render(layout.messages), len(layout.grids)
            wanted = wanted or num_pictures
            if len(rendered.ids) <= max_length:
                break
            if limit == 1 or num_pictures == 0:
                raise SampleError(
                    f"needs {len(rendered.ids)} tokens with {num_pictures} pictures, expected at most "
                    f"max_length={max_length}: its text is too long"
                )
            limit = max(1, int(min(limit, num_pictures) * SHRINK))
        num_tokens = sum(map(tokens_of_grid, layout.grids))
        assert rendered.num_image_tokens == num_tokens, f"{rendered.num_image_tokens} places, grids {layout.grids}"
        if num_pictures < wanted:
            self.failures.shorten(source, num_pictures, wanted, max_length)
        return layout, rendered

    def example(self, layout: Layout, rendered: Rendered, source: Source) -> TrainingExample:
        """Decode the pictures of a prepared sample, one at a time: a clip in its own size may be gigabytes.

        MediaError for one that cannot be decoded.
        """
        size = self.processor.transform.size
        pixel_values = torch.empty(len(layout.grids), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        for place, picture in zip(pixel_values, layout.pictures, strict=True):
            place.copy_(self.processor.transform.bytes_of(picture))
        return TrainingExample(rendered.ids, rendered.labels, pixel_values, layout.grids, source)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 (len,): tokens of each sample, for grouping and packing: estimated from the rows alone."""
        of_sets = [
            estimate_lengths(rows, data_set, self.processor, self.config, self.settings)
            for rows, data_set in zip(self.annotations, self.data_sets, strict=True)
        ]
        starts = np.cumsum([0, *map(len, of_sets)])
        set_numbers, row_numbers = self.rows.T
        return np.concatenate(of_sets)[starts[set_numbers] + row_numbers]


def augment(pictures: Iterable[Picture], seed: str) -> Iterator[Picture]:
    """Each picture as a JPEG of a random quality would show it."""
    rng = random.Random(f"{seed}/augment")
    for picture in pictures:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=rng.randint(*JPEG_QUALITIES))
        yield np.asarray(Image.open(file).convert("RGB"))


class TooManyFailures(ValueError):
    """More samples than allowed cannot be read."""


@dataclass
class FailureLog:
    """Samples that could not be used, each named in the log once. Of one process: every worker keeps its own."""

    max_share: float
    num_read: int = 0
    """Samples tried, replacements among them."""
    num_failed: int = 0
    failed: dict[Source, str] = field(default_factory=dict)
    """What is wrong with each sample that failed."""
    shortened: set[Source] = field(default_factory=set)
    """Samples shown with fewer frames or tiles than the settings allow, to fit the length."""

    def fail(self, source: Source, error: Exception) -> None:
        """Count a failure. TooManyFailures, with the files, when the share is exceeded."""
        self.num_failed += 1
        if source not in self.failed:
            self.failed[source] = str(error)
            logger.warning("%s, row %d cannot be used and is replaced: %s", *source, error)
        if self.num_failed > max(1, self.max_share * max(self.num_read, FEWEST_READ)):
            raise self.error(f"more than --max-failed-share {self.max_share:g} allows")

    def error(self, why: str) -> TooManyFailures:
        """The first failures by name."""
        lines = [f"  {name}, row {row}: {message}" for (name, row), message in list(self.failed.items())[:NAMED]]
        more = f"\n  and {len(self.failed) - NAMED} more" if len(self.failed) > NAMED else ""
        return TooManyFailures(
            f"{self.num_failed} of {self.num_read} samples could not be used, {why}; `videochat-online data check` "
            "lists every problem:\n" + "\n".join(lines) + more
        )

    def shorten(self, source: Source, kept: int, wanted: int, max_length: int) -> None:
        """Note a sample that is shown with fewer pictures."""
        if source not in self.shortened:
            self.shortened.add(source)
            level = logging.WARNING if len(self.shortened) <= NAMED else logging.INFO
            message = "%s, row %d is longer than %d tokens: shown with %d pictures instead of %d (%d such so far)"
            logger.log(level, message, *source, max_length, kept, wanted, len(self.shortened))


@dataclass(frozen=True)
class PaddingCollator:
    """One example a sequence, padded at the end. `attention_mask` (B, L) int64 is 1 where there is no padding."""

    pad_token_id: int

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        batch = _batch([[example] for example in examples], self.pad_token_id)
        sizes = torch.tensor([len(example.input_ids) for example in examples])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < sizes[:, None]).long()  # (B, L)
        return batch


@dataclass(frozen=True)
class PackingCollator:
    """Several examples a sequence: `position_ids` (B, L) start at 0 in each example, and in the padding.

    There is no mask of L x L: the language model reads the borders off the positions (model/language_model.py),
    torch's sdpa only while it keeps no cache (use_cache=False).
    Examples go, in order, into the first sequence of `max_length` tokens that has room; a plan whose lengths were
    estimates may thus need one sequence more. ValueError for an example of more tokens than that.
    """

    pad_token_id: int
    max_length: int

    def __call__(self, examples: Sequence[TrainingExample]) -> Batch:
        # 1. which examples stand in which sequence
        bins = first_fit([len(example.input_ids) for example in examples], self.max_length)
        rows = [[examples[number] for number in numbers] for numbers in bins]
        batch = _batch(rows, self.pad_token_id)
        # 2. positions that show where each begins
        positions = torch.zeros_like(batch["input_ids"])
        for places, row in zip(positions, rows, strict=True):
            sizes = [len(example.input_ids) for example in row]
            places.copy_(torch.cat([*map(torch.arange, sizes), torch.arange(len(places) - sum(sizes))]))
        # 3. a label is the next token's: the last token of an example does not predict the next example
        batch["labels"][positions == 0] = IGNORE_INDEX
        return {**batch, "position_ids": positions}


def _batch(rows: Sequence[Sequence[TrainingExample]], pad_token_id: int) -> Batch:
    """Ids, labels and pictures of B sequences, each of the examples of one row, end to end."""
    ids = [[id_ for example in row for id_ in example.input_ids] for row in rows]
    labels = [[label for example in row for label in example.labels] for row in rows]
    batch = {"input_ids": _padded(ids, pad_token_id), "labels": _padded(labels, IGNORE_INDEX)}
    examples = [example for row in rows for example in row]
    if grids := [grid for example in examples for grid in example.image_grids]:
        pixels = [example.pixel_values for example in examples]
        batch["pixel_values"] = torch.cat(pixels) if len(pixels) > 1 else pixels[0]
        batch["image_grids"] = torch.tensor(grids)
    return batch


def _padded(sequences: Sequence[list[int]], value: int) -> torch.Tensor:
    return pad_sequence(list(map(torch.tensor, sequences)), batch_first=True, padding_value=value)
