"""Checks whole data sets before training: every file, clip, timestamp, box and placeholder.

All problems come in one report. Each file is opened once, however many rows name it. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .formats import read_row
from .layout import check_placeholders
from .looking import MediaCheck, MediaFacts, MediaKey, Row, look_at_all, with_bar
from .registry import Annotations, DataSet, collect_lists
from .sample import Sample, SampleError, Video
from .sampler import samples_of_set
from .settings import DataSettings

SLACK_SECONDS = 1.0
"""A clip or question may lie this much past the end: annotations round, and containers differ in the last frame."""
NAMED_ROWS = 5
"""Rows with a blank answer that a warning names."""
NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
BOX = re.compile(rf"\[{NUMBER},{NUMBER},{NUMBER},{NUMBER}\]")


@dataclass(frozen=True)
class DataProblem:
    data_set: str
    row: int | None
    """None: the whole set."""
    source: str
    """The media it is about."""
    message: str

    def __post_init__(self) -> None:
        for name in ("data_set", "source", "message"):
            object.__setattr__(self, name, _writable(getattr(self, name)))

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
    warnings: list[DataProblem] = field(default_factory=list)
    """What is damaged, while the rest can be read; said once a file, of the first row that names it."""
    num_decoded: int | None = None
    """Still images, and frames that training shows; None where frames were not decoded."""
    num_looked_at: int | None = None
    """Rows that all counts but `rows` and `samples` are of; None: all."""

    def to_dict(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def as_table(self) -> str:
        """Counts of each set, then every warning and problem on its own line, then how many there are."""
        counts = ("rows", "samples", "questions", "images", "videos")
        cells = [["set", *counts, "duration", "problems"]]
        for one in self.sets:
            numbers = [str(getattr(one, count)) for count in counts]
            cells.append([one.name, *numbers, _clock(one.seconds), str(one.problems)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
        counted = []
        for what, found in (("warning", self.warnings), ("problem", self.problems)):
            if found:
                counted.append(f"{len(found)} {what}{'s' if len(found) > 1 else ''}")
                lines += ["", f"{counted[-1]}:", *(f"  {one}" for one in found)]
        if not self.problems:
            counted.insert(0, "no problems")
        decoded = "" if self.num_decoded is None else f"{self.num_decoded:,} frames and images decoded: "
        looked = ""
        if self.num_looked_at is not None:
            of_all = f"{self.num_looked_at:,} of {sum(one.rows for one in self.sets):,} rows"
            looked = f"{of_all} were looked at, evenly spread (`videochat-online data check` looks at all): "
        return "\n".join([*lines, "", looked + decoded + ", ".join(counted)])


def check_lists(
    paths: Sequence[str],
    *,
    num_workers: int,
    strict: bool = False,
    decode: DataSettings | None = None,
    unlisted: Sequence[DataSet] = (),
    most_rows: int | None = None,
) -> Report:
    """Everything that is wrong with the data of some lists; `num_workers` processes read the files.

    `unlisted`: further sets, which stand in no list.
    `strict`: what is damaged or cut off is a problem, not a warning; training reads what can be decoded of it.
    `decode`: decode the frames that training with these settings shows.
    `most_rows`: look at so many rows at most and at their files, as many of each set, evenly spread; None: at all.
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
    chosen = _spread([len(rows) for _, rows in loaded], most_rows)
    users = _users(loaded, chosen)

    def samples_of(key: MediaKey) -> dict[Row, Sample]:
        return {(number, row): read_row(loaded[number][1][row]) for number, row in users[key] if decode}

    facts = look_at_all(list(users), samples_of, MediaCheck(strict, decode), num_workers=num_workers)
    warnings = [
        DataProblem(loaded[number][0].name, row, _name(media), message)
        for (root, media), found in facts.items()
        for number, row in users[root, media][:1]
        for message in found.warnings
    ]
    # 3. every row against its files
    reports = [_check_set(number, *one, chosen[number], facts, problems) for number, one in enumerate(loaded)]
    warnings += [DataProblem(one.name, None, "", text) for one in reports if (text := _blanks_text(one))]
    num_decoded = sum(found.num_decoded for found in facts.values()) if decode else None
    num_looked_at = sum(map(len, chosen))
    is_all = num_looked_at == sum(len(rows) for _, rows in loaded)
    return Report(reports, problems, warnings, num_decoded, None if is_all else num_looked_at)


def _spread(sizes: Sequence[int], most: int | None) -> list[range]:
    """The rows of each set that are looked at: all, or about an equal number of each, `most` together."""
    share = max(1, most // len(sizes)) if most is not None and sum(sizes) > most else None
    return [range(0, size, 1 if share is None else -(-size // share)) for size in sizes]


def _check_set(
    place: int,
    data_set: DataSet,
    rows: Annotations,
    chosen: range,
    facts: dict[MediaKey, MediaFacts],
    problems: list[DataProblem],
) -> SetReport:
    """The counts of the set number `place`; what is wrong with its rows goes to `problems`."""
    report = SetReport(_writable(data_set.name), len(rows), samples_of_set(len(rows), data_set.repeat_time))
    media: dict[MediaKey, MediaFacts] = {}
    before = len(problems)
    for number in with_bar(chosen, len(chosen), f"rows of {data_set.name}"):
        try:
            sample = read_row(rows[number])
        except SampleError as error:
            problems.append(DataProblem(data_set.name, number, str(rows[number].get("video") or ""), str(error)))
            continue
        own = {key: facts[key] for key in _media_of(sample, data_set.data_root)}
        problems += [DataProblem(data_set.name, number, *pair) for pair in _row_problems(sample, own, (place, number))]
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


def _blanks_text(report: SetReport) -> str:
    """Blank answers, of which a model learns to say nothing; empty where there are none."""
    if not report.blank_answers:
        return ""
    rows = ", ".join(map(str, report.blank_rows)) + (", ..." if len(report.blank_rows) == NAMED_ROWS else "")
    return f"{report.blank_answers} of {report.questions} answers are blank, in rows {rows}"


def _users(loaded: Sequence[tuple[DataSet, Annotations]], chosen: Sequence[range]) -> dict[MediaKey, list[Row]]:
    """Everything that the chosen rows of the sets are about -> the rows that name it."""
    users: dict[MediaKey, list[Row]] = {}
    for number, (data_set, rows) in enumerate(loaded):
        for row in chosen[number]:
            with suppress(SampleError):  # reported when the rows are checked
                for key in _media_of(read_row(rows[row]), data_set.data_root):
                    users.setdefault(key, []).append((number, row))
    return users


def _media_of(sample: Sample, root: Path) -> Iterator[MediaKey]:
    """The media of a sample, each under one name whatever part of it is used."""
    yield from ((root, replace(one, clip=None, reset_timestamps=False)) for one in dict.fromkeys(sample.videos))
    yield from ((root, name) for name in dict.fromkeys(sample.images))


def _row_problems(sample: Sample, facts: dict[MediaKey, MediaFacts], row: Row) -> Iterator[tuple[str, str]]:
    """(media, what is wrong) of the sample of a row and what was found of its media."""
    try:
        check_placeholders(sample)
    except SampleError as error:
        yield sample.name, str(error)
    for (_, media), found in facts.items():
        if found.problem:
            yield _name(media), found.problem
        elif sample.video is not None:
            yield from ((sample.name, message) for message in _video_problems(sample, sample.video, found))
            if row in found.row_problems:
                yield sample.name, found.row_problems[row]


def _name(media: Video | str) -> str:
    return media if isinstance(media, str) else media.name


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


def _writable(text: str) -> str:
    """The text with half characters, which json may hold and nothing can be written with, as their numbers."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
