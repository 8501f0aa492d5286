"""Frames chosen for one question: around the time that it names ("What was it doing 8 seconds ago (at 22.0s)?"), or,
where it names none and a chooser is there, those that the chooser finds.

A model is distracted more than it is forgetful: few frames that a question is about, with the newest, say more than the
whole memory. They come from the memory and from an archive of the stream, which holds coarsest maps evenly over time,
in host memory, and stand in a prompt of their own with a small cache of its own. Without a chooser a question that
names no time is answered as ever. Knows no session; the session calls it under its lock. T frames, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..config import MemoryConfig
from ..model.memory_bank import BatchPooling, MemoryFrame, PyramidMemoryBank
from .cache import position_bytes
from .chooser import Chooser
from .language import LanguageSide

NEWEST, NEAREST = 4, 12
"""Frames that a question is shown: the newest, and those nearest to the times that it names."""
ARCHIVED, CELLS = 128, 8192
"""Frames of the archive, and cells of their maps, at most: where the memory keeps full maps only, it holds fewer."""
CACHED = 512
"""Positions whose keys and values are kept from one such question to the next, at most."""
ARCHIVE = "archive."
"""What the archive's entries of a saved session begin with."""

# ---- the times that a question names --------------------------------------------------------------------------------

WORDS = {
    "half a": 0.5, "half an": 0.5, "a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0,
    "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0, "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0,
}  # fmt: skip
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""By the first letter of a unit."""
_NUMBER = rf"(?:\d+(?:\.\d+)?|{'|'.join(sorted(WORDS, key=len, reverse=True))})"
_HOURS, _MINUTES, _SECONDS = (
    rf"{_NUMBER}[\s-]*(?:{unit})(?![a-z/])"
    for unit in (
        r"hours?|hrs?|h",
        r"minutes?|mins?|m(?=\s*\d|\s+(?:ago|earlier|back)\b)",
        r"second\(s\)|seconds?|secs?|s",
    )
)
_AND = r"(?:,|\s|and\b)*"
_LENGTH = (
    rf"(?<![\w.])(?:{_HOURS}(?:{_AND}{_MINUTES})?(?:{_AND}{_SECONDS})?|{_MINUTES}(?:{_AND}{_SECONDS})?|{_SECONDS})"
)
_BEFORE = (
    r"(?:\b(?:at|around|near|from|to|until|till|since|by|between|and|before|after)\s+(?:about\s+|around\s+)?|[(\[@]\s*)"
)
AGO = re.compile(
    rf"({_LENGTH})\s+(?:(?:ago|earlier|back)\b|before\s*(?=[?.,;:!)]|$))|\bbefore\s+the\s+(?:last|past)\s+({_LENGTH})",
    re.IGNORECASE,
)
"""8 seconds ago, half a minute ago, 1 minute and 5 seconds earlier; as OVBench asks, 5 second(s) before? and before the
last 10 seconds."""
AT = re.compile(rf"{_BEFORE}({_LENGTH})(?!\s+(?:ago|earlier|back|later|before|after|long|intervals?)\b)", re.IGNORECASE)
"""at 12.5s, around 1m 5s, between 10 s and 20 s; not "for 5 seconds", which is how long."""
_CLOCK = r"(?:(\d+):)?(\d{1,2}):([0-5]\d(?:\.\d+)?)(?![\d:])"
CLOCK = re.compile(rf"{_BEFORE}{_CLOCK}(?!\s*[ap]\.?m\b)", re.IGNORECASE)
"""at 1:05, at 01:02:03; no hour of the day such as 3:05 pm."""
_MARK = r"\s+(?:into\b|mark\b)"
MARK = re.compile(rf"({_LENGTH}){_MARK}", re.IGNORECASE)
"""12 seconds into the video, at the 12-second mark."""
CLOCK_MARK = re.compile(rf"(?<![\d:]){_CLOCK}{_MARK}", re.IGNORECASE)
"""the 1:05 mark"""
PAIR = re.compile(
    rf"\b(?:between|from|at)\s+({_NUMBER})\s*(?:-|to|until|till|and|or)\s*(?:{_NUMBER})[\s-]*"
    r"(seconds?|secs?|s|minutes?|mins?)(?![a-z])",
    re.IGNORECASE,
)
"""The first of two numbers with one unit: between 5 and 9 seconds."""
OPTIONS = re.compile(r"^\s*(?:options|choices)\s*:|^\s*\(?A[.)]\s|\(A\)\s", re.MULTILINE | re.IGNORECASE)
"""Where the question ends and its options begin: a time among those is one of several answers."""


def named_times(question: str, first: float, last: float) -> list[float]:
    """Seconds of a stream seen from `first` to `last` that a question names, in English, options apart.

    What lies outside names nothing that could be shown; nor does `last`, which is now ("Question at 30.0s: ...").

    >>> named_times("What did it do 8 seconds ago (at 22.0s)? Options: (A) spin at 5s", 0.0, 30.0)
    [22.0, 22.0]
    """
    text = without_options(question)
    times = [last - _seconds(match[1] or match[2]) for match in AGO.finditer(text)]
    times += [_seconds(match[1]) for form in (AT, MARK) for match in form.finditer(text)]
    times += [_seconds(f"{match[1]} {match[2]}") for match in PAIR.finditer(text)]
    clocks = [match for form in (CLOCK, CLOCK_MARK) for match in form.finditer(text)]
    times += [3600 * float(match[1] or 0) + 60 * float(match[2]) + float(match[3]) for match in clocks]
    return [time for time in times if first <= time < last]


def without_options(question: str) -> str:
    """What is asked, without the answers to choose from."""
    return question[: found.start()] if (found := OPTIONS.search(question)) else question


def _seconds(length: str) -> float:
    """Of "1 minute and 5 seconds"."""
    found = re.findall(rf"({_NUMBER})[\s-]*([hms])", length.lower())
    return sum((WORDS[number] if number in WORDS else float(number)) * SECONDS[unit] for number, unit in found)


# ---- the frames -----------------------------------------------------------------------------------------------------


class Recall:
    """The archive of one stream beside its memory, and the language model's side of prompts made from both.

    Args:
        memory: of the session, which writes to it before it calls `write`.
        beside: the session's own side, whose limits hold here too.
        chooser: for questions that name no time; None: those see the memory.
    """

    def __init__(self, memory: PyramidMemoryBank, beside: LanguageSide, chooser: Chooser | None = None) -> None:
        small, most = CACHED * position_bytes(beside.model), beside.cache.max_bytes
        self.memory, self.chooser = memory, chooser
        self.language = LanguageSide(
            beside.model,
            beside.processor,
            reuse_cache=beside.reuse_cache,
            max_cache_bytes=small if most is None else min(small, most),
            max_prompt_tokens=beside.max_positions,
        )
        self.reset()

    def reset(self) -> None:
        """Forget the stream, and what is cached of its prompts."""
        self._begin()
        self.language.reset()

    def _begin(self) -> None:
        """An empty archive, on the grid of the memory's coarsest level."""
        rows, columns = grid = self.memory.coarsest_grid
        most = min(ARCHIVED, max(CELLS // (rows * columns), NEAREST))
        self.archive = PyramidMemoryBank(MemoryConfig.single("uniform", capacity=most, grid=1))
        self.archive.reset([grid])
        self._pool = BatchPooling(grid)

    def write(self, features: torch.Tensor | Mapping[int, torch.Tensor], timestamps: Sequence[float]) -> None:
        """Archive the frames that the memory has just taken: what it was given, (T, C, h, w) or by level."""
        if not self.archive.num_written:
            self._begin()  # a stream's first frame has decided the grids
        if len(timestamps):
            maps = features if isinstance(features, torch.Tensor) else features[max(features)]
            self.archive.write(self._pool(maps).cpu(), timestamps)  # pooled where they are: little is moved

    def choose(self, question: str) -> list[MemoryFrame] | None:
        """The frames to show instead of the memory, oldest first; None where that is to be shown."""
        archived, held = self.archive.times, self.memory.times
        if not archived:
            return None
        known = sorted((held | archived).items())
        times = named_times(question, known[0][1], known[-1][1])
        if times:
            newest = dict(known[-NEWEST:])
            others = sorted(known[:-NEWEST], key=lambda frame: min(abs(frame[1] - time) for time in times))
            return self._read(newest.keys() | dict(others[:NEAREST]).keys())
        if self.chooser is None:
            return None
        words = self.language.words(without_options(question).strip() or question)
        return self.chooser.choose(self._read(held.keys() | archived.keys()), words, NEWEST)

    def _read(self, chosen: set[int]) -> list[MemoryFrame]:
        """The frames of these numbers at the coarsest grid, from the archive where that has them."""
        archived = self.archive.times.keys()
        # below the memory's levels: a map pooled in one step differs in the last bit from one that came down them
        level, device = len(self.memory.config.levels), self.language.model.device
        back = [
            replace(frame, level=level, features=frame.features.to(device))
            for frame in self.archive.read(chosen & archived)
        ]
        return sorted([*back, *self.memory.read(chosen - archived, coarsest=True)], key=lambda frame: frame.index)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The archive as entries of a saved session."""
        return {f"{ARCHIVE}{name}": value for name, value in self.archive.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_dict` gave. ValueError where it does not fit, or stops short of what the memory saw."""
        self.reset()
        self.archive.load_state_dict({name.removeprefix(ARCHIVE): value for name, value in state.items()})
        if self.archive.num_written != self.memory.num_written:
            seen = f"{self.archive.num_written} frames, the memory {self.memory.num_written}"
            raise ValueError(f"not the archive of this session: it has seen {seen}")
