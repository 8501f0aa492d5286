"""Checks whole data sets before training: every file, clip, timestamp, box and placeholder.

All problems come in one report. Each file is opened once, however many rows name it. Knows no model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from ..media.readers import MediaError, open_image, open_video
from .clip import open_reader
from .formats import read_row
from .layout import check_placeholders
from .registry import Annotations, DataSet, collect_lists
from .sample import Sample, SampleError, Video
from .sampler import samples_of_set

SLACK_SECONDS = 1.0
"""A clip or question may lie this much past the end: annotations round, and containers differ in the last frame."""
NAMED_ROWS = 5
"""Rows with a blank answer that a warning names."""
ONE_PROCESS_FILES = 16
"""Up to this many files, starting processes takes longer than reading."""
NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")

MediaKey = tuple[Path, Video | str]
"""(data root, a video or the name of a still image)."""
T = TypeVar("T")


@dataclass(frozen=True)
class MediaFacts:
    """What was found at one file, folder or list of frames."""

    problem: str | None = None
    duration: float = 0.0
    """Seconds; of a still image 0."""
    num_frames: int = 0
    size: tuple[int, int] = (0, 0)
    """(W, H) pixels."""
    file_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataProblem:
    data_set: str
    row: int | None
    """None: the whole set."""
    source: str
    """The media it is about."""
    message: str

    def __str__(self) -> str:
        place = self.data_set if self.row is None else f"{self.data_set}, row {self.row}"
        return f"{place}: {self.message}" if self.source in self.message else f"{place}: {self.source}: {self.message}"


@dataclass
class SetReport:
    """Counts of one set."""

    name: str
    rows: int
    samples: int
    """Of an epoch, by repeat_time."""
    kinds: dict[str, int] = field(default_factory=dict)
    questions: int = 0
    images: int = 0
    """Different still images, by name."""
    videos: int = 0
    """Different videos, by name."""
    seconds: float = 0.0
    """Of the different videos, whole."""
    shown_seconds: float = 0.0
    """Of the clips of all rows."""
    problems: int = 0
    blank_answers: int = 0
    blank_rows: list[int] = field(default_factory=list)
    """The first rows that hold one."""


@dataclass
class Report:
    sets: list[SetReport]
    problems: list[DataProblem]

    def to_dict(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def blanks(self) -> Iterator[str]:
        """A line for each set with blank answers, of which a model learns to say nothing."""
        for one in self.sets:
            if one.blank_answers:
                rows = ", ".join(map(str, one.blank_rows)) + (", ..." if len(one.blank_rows) == NAMED_ROWS else "")
                yield f"warning: {one.name}: {one.blank_answers} of {one.questions} answers are blank, in rows {rows}"

    def as_table(self) -> str:
        """Counts of each set, blank answers, then every problem on its own line."""
        counts = ("rows", "samples", "questions", "images", "videos")
        cells = [["set", *counts, "duration", "problems"]]
        for one in self.sets:
            numbers = [str(getattr(one, count)) for count in counts]
            cells.append([one.name, *numbers, _clock(one.seconds), str(one.problems)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
        count = len(self.problems)
        summary = "no problems" if count == 0 else f"{count} problem{'s' if count > 1 else ''}:"
        return "\n".join([*lines, "", *self.blanks(), summary, *(f"  {problem}" for problem in self.problems)])


def check_lists(
    paths: Sequence[str], *, num_workers: int, strict: bool = False, unlisted: Sequence[DataSet] = ()
) -> Report:
    """Everything that is wrong with the data of some lists; `num_workers` processes read the files.

    `unlisted`: further sets, which stand in no list.
    `strict`: what is damaged or cut off is a problem, too; training reads what can be decoded of it.
    ValueError where one of these processes dies.
    """
    # 1. the lists and their annotations
    data_sets, list_problems = collect_lists(paths) if paths else ([], [])
    problems = [DataProblem("list", None, "", message) for message in list_problems]
    loaded: list[tuple[DataSet, Annotations]] = []
    for data_set in [*data_sets, *unlisted]:
        try:
            loaded.append((data_set, Annotations(data_set.annotation)))
        except ValueError as error:
            problems.append(DataProblem(data_set.name, None, str(data_set.annotation), str(error)))
    # 2. every file that they name, once
    keys = list(dict.fromkeys(key for data_set, rows in loaded for key in _media_of_set(data_set, rows)))
    facts = _look_at_all(keys, num_workers, strict=strict)
    # 3. every row against its files
    reports = [_check_set(data_set, rows, facts, problems) for data_set, rows in loaded]
    return Report(reports, problems)


def _look_at_all(keys: list[MediaKey], num_workers: int, *, strict: bool) -> dict[MediaKey, MediaFacts]:
    look = partial(look_at, strict=strict)
    if num_workers <= 1 or len(keys) <= ONE_PROCESS_FILES:
        return {key: look(key) for key in _with_bar(keys, len(keys), "files")}
    try:
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            results = pool.map(look, keys, chunksize=8)
            return dict(zip(keys, _with_bar(results, len(keys), "files"), strict=True))
    except BrokenProcessPool as error:
        message = "a process that reads files died, of memory or of a damaged file; --workers 1 shows at which"
        raise ValueError(message) from error


def look_at(key: MediaKey, *, strict: bool = False) -> MediaFacts:
    """Open one file, or all frames of a folder or list."""
    root, media = key
    try:
        if isinstance(media, str):
            return MediaFacts(size=open_image(root / media, strict=strict).size, num_frames=1)
        reader, files = open_reader(media, root, partial(open_video, num_threads=1, strict=strict))
        with reader:
            for file in files:
                open_image(file, strict=strict)
            names = tuple(file.name for file in files)
            return MediaFacts(None, reader.duration, reader.num_frames, reader.size, names)
    except (MediaError, SampleError, OSError) as error:
        return MediaFacts(str(error))


def _check_set(
    data_set: DataSet, rows: Annotations, facts: dict[MediaKey, MediaFacts], problems: list[DataProblem]
) -> SetReport:
    """The counts of a set; what is wrong with its rows goes to `problems`."""
    report = SetReport(data_set.name, len(rows), samples_of_set(len(rows), data_set.repeat_time))
    media: dict[MediaKey, MediaFacts] = {}
    before = len(problems)
    for number in _with_bar(range(len(rows)), len(rows), f"rows of {data_set.name}"):
        try:
            sample = read_row(rows[number])
        except SampleError as error:
            problems.append(DataProblem(data_set.name, number, str(rows[number].get("video") or ""), str(error)))
            continue
        own = {key: facts[key] for key in _media_of(sample, data_set.data_root)}
        problems += [DataProblem(data_set.name, number, *pair) for pair in _row_problems(sample, own)]
        media |= own
        report.kinds[sample.kind] = report.kinds.get(sample.kind, 0) + 1
        report.questions += len(sample.turns)
        if blanks := sum(not turn.answer.strip() for turn in sample.turns if sample.kind != "tracking"):
            report.blank_answers += blanks
            if len(report.blank_rows) < NAMED_ROWS:
                report.blank_rows.append(number)
        for found in own.values():
            start, end = (sample.video and sample.video.clip) or (0.0, found.duration)
            report.shown_seconds += max(0.0, min(end, found.duration) - start)
    report.images = sum(isinstance(name, str) for _, name in media)
    report.videos = len(media) - report.images
    report.seconds = sum(found.duration for found in media.values())
    report.problems = len(problems) - before
    return report


def _media_of_set(data_set: DataSet, rows: Annotations) -> Iterator[MediaKey]:
    for number in range(len(rows)):
        try:
            yield from _media_of(read_row(rows[number]), data_set.data_root)
        except SampleError:
            continue  # reported when the rows are checked


def _media_of(sample: Sample, root: Path) -> Iterator[MediaKey]:
    """The media of a sample, each under one name whatever part of it is used."""
    if sample.video is not None:
        yield root, replace(sample.video, clip=None, reset_timestamps=False)
    yield from ((root, name) for name in dict.fromkeys(sample.images))


def _row_problems(sample: Sample, facts: dict[MediaKey, MediaFacts]) -> Iterator[tuple[str, str]]:
    """(media, what is wrong) of one sample and what was found of its media."""
    try:
        check_placeholders(sample)
    except SampleError as error:
        yield sample.name, str(error)
    for (_, media), found in facts.items():
        if found.problem:
            yield (media if isinstance(media, str) else media.name), found.problem
        elif sample.video is not None:
            yield from ((sample.name, message) for message in _video_problems(sample, sample.video, found))


def _video_problems(sample: Sample, video: Video, found: MediaFacts) -> Iterator[str]:
    """What is wrong with a sample's clip, times, frame files and boxes, given its video."""
    # 1. the clip
    start, end = video.clip or (0.0, found.duration)
    if end > found.duration + SLACK_SECONDS:
        yield f"the clip {start:g} to {end:g} s goes past the end of the video, which lasts {found.duration:.1f} s"
    # 2. times, unless frames are named or counted
    earliest, latest = (0.0, end - start) if video.reset_timestamps else (start, min(end, found.duration))
    files = [turn.image_file for turn in sample.turns if turn.image_file is not None]
    times = [turn.timestamp for turn in sample.turns if turn.timestamp is not None]
    times += [box.timestamp for box in sample.boxes]
    for time in () if any(files) or len(sample.boxes) == found.num_frames else times:
        if time < earliest:
            yield f"the timestamp {time:g} s lies before the part shown, which starts at {earliest:.1f} s"
        elif time > latest + SLACK_SECONDS:
            yield f"the timestamp {time:g} s lies past the end of the part shown, at {latest:.1f} s"
    # 3. frame files
    for file in files:
        if Path(file).name not in found.file_names:
            yield f"image_file {file!r} is none of the {found.num_frames} frames"
    # 4. boxes, also those in the words of an online dialogue
    for box in sample.boxes:
        if problem := box_problem(box.text, found.size):
            yield f"the box at {box.timestamp:g} s {problem}"
    for number, turn in enumerate(sample.turns if sample.kind == "online" else ()):
        for match in BOX.finditer(turn.question + "\n" + turn.answer):
            if max(map(float, match.groups())) <= 2 and (problem := box_problem(match.group(), found.size)):
                yield f"the box in turn {number} {problem}"


def box_problem(text: str, size: tuple[int, int]) -> str | None:
    """What is wrong with a box [left, top, right, bottom]: in shares of the frame, in pixels if a number is above 2."""
    match = BOX.search(text)
    if match is None:
        return f"is not [left, top, right, bottom]: {text!r:.60}"
    left, top, right, bottom = map(float, match.groups())
    in_pixels = max(left, top, right, bottom) > 2
    width, height = size if in_pixels else (1, 1)
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        frame = f"of {width} x {height} pixels" if in_pixels else "(0 to 1)"
        return f"lies outside the frame {frame}, or is turned round: {match.group()}"
    return None


def _clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _with_bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The items, with a progress bar where stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="", file=sys.stderr, disable=None, leave=False)
