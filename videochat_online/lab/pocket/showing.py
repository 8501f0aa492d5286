"""What a question is shown: by each memory, at random, all of it, or the right frames. One prompt, scored as by `eval`.

Frames come from the scene itself, not from a video file, and are encoded once a stream. T frames, C channels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...config import MemoryConfig
from ...evaluation.benchmarks.ovbench import OVBench
from ...evaluation.modes import label_scores
from ...model.memory_bank import MemoryFrame, PyramidMemoryBank, average_pool
from ...prompt.messages import stream_dialogue
from ...streaming.chooser import Chooser, chooser_file
from ...streaming.encoding import FrameEncoder
from ...streaming.language import LanguageSide
from ...streaming.recall import Recall
from ..shapeworld.render import render_frames
from .aged import Streams, write_questions

if TYPE_CHECKING:
    from ...evaluation.questions import Question
    from ...model.backbone import Backbone
    from ...processing import Processor

NEWEST, RIGHT = 4, 4
"""Frames of perfect choice: the newest, and those that show the evidence."""
SAME_POSITIONS = 19
"""Frames of one token that cost as many positions as the pyramid's 16 of 52 tokens: 9 of text beside each."""
PAST, NOW = 18, 6
"""Questions of a stream."""
Frames = list[MemoryFrame]


def memories(model: Backbone, num_frames: int) -> dict[str, MemoryConfig]:
    """Every memory that is compared; the first three hold 52 tokens, the next cost as many positions or fewer."""
    pyramid = model.config.memory_config

    def single(policy: Any, capacity: int, grid: int = 1) -> MemoryConfig:
        return MemoryConfig.single(policy, capacity=capacity, grid=grid)

    return {
        "pyramid": pyramid,
        "uniform 52x1": single("uniform", 52),
        "uniform 13x4": single("uniform", 13, 2),
        "newest 8x1": single("fifo", 8),
        "newest 16x1": single("fifo", 16),
        "uniform 19x1": single("uniform", SAME_POSITIONS),
        "no limit": pyramid.adapted(capacities=(num_frames,) * len(pyramid.levels)),
    }


RECALL, CHOSEN = "recall by time", "recall by choice"
CHOICES = ("random 19x1", "perfect", "perfect of the bank", "no frames")
WAYS = (
    "pyramid", "uniform 52x1", "uniform 13x4", "newest 8x1", "newest 16x1", "uniform 19x1", "no limit",
    *CHOICES, RECALL, CHOSEN,
)  # fmt: skip
"""Of showing frames, in the order of the page."""


@dataclass
class Stream:
    """One stream as far as it has been watched."""

    features: torch.Tensor
    """(T, C, g, g)."""
    times: np.ndarray
    banks: dict[str, PyramidMemoryBank]
    recall: Recall
    chooser: Chooser | None = None
    seen: int = 0

    def watch(self, until: float) -> None:
        """Show every memory the frames up to this second."""
        upto = int(np.searchsorted(self.times, until, side="right"))
        for bank in self.banks.values():
            bank.write(self.features[self.seen : upto], self.times[self.seen : upto].tolist())
        self.recall.write(self.features[self.seen : upto], self.times[self.seen : upto].tolist())
        self.seen = upto

    def coarse(self, indices: Sequence[int]) -> Frames:
        """These frames, one token each."""
        maps = {index: average_pool(self.features[index], 1) for index in sorted({*map(int, indices)})}
        return [MemoryFrame(index, float(self.times[index]), 9, each) for index, each in maps.items()]

    def choose(self, name: str, question: Question, evidence: Sequence[Sequence[float]]) -> Frames:
        """What a memory or one of CHOICES shows."""
        if name in (RECALL, CHOSEN):
            self.recall.chooser = self.chooser if name == CHOSEN else None
            recalled = self.recall.choose(question.prompt)
            return self.banks["pyramid"].read() if recalled is None else recalled
        if name in self.banks:
            return self.banks[name].read()
        newest = list(range(max(self.seen - NEWEST, 0), self.seen))
        if name == "no frames":
            return []
        if name == "random 19x1":
            rng = np.random.default_rng(list(question.id.encode()))
            return self.coarse(rng.permutation(self.seen)[:SAME_POSITIONS].tolist())
        held = range(self.seen)
        if name == "perfect of the bank":
            held = [frame.index for frame in self.banks["pyramid"].read()]  # type: ignore[assignment]
            newest = list(held)[-NEWEST:]
        return self.coarse([*newest, *right_frames(self.times, held, evidence)])


def right_frames(times: np.ndarray, held: Sequence[int], evidence: Sequence[Sequence[float]]) -> list[int]:
    """RIGHT of the frames `held` that show the evidence, evenly over its intervals; the nearest where none does."""
    each = max(RIGHT // len(evidence), 1)
    found: list[int] = []
    for start, end in list(evidence)[:RIGHT]:
        inside = [index for index in held if start <= times[index] <= end]
        nearest = sorted(held, key=lambda index: abs(times[index] - (start + end) / 2))[:1]
        places = np.linspace(0, len(inside) - 1, min(each, len(inside))).round().astype(int)
        found += [inside[place] for place in places] or nearest
    return found


@dataclass
class Scored:
    """A conversation about frames that were chosen: it scores the options of a question, and counts what that costs."""

    model: Backbone
    processor: Processor
    system_prompt: str | None

    def __post_init__(self) -> None:
        self.side = LanguageSide(self.model, self.processor, reuse_cache=True)
        self.frames: Frames = []
        self.positions = 0

    def score_options(self, prompt: str, options: Sequence[str]) -> list[float]:
        self.side.reset()  # frames of two memories have the same names
        shown = [(frame.index, frame.timestamp, frame.num_tokens) for frame in self.frames]
        style = self.processor.template.frame
        messages = stream_dialogue([], prompt, shown, system_prompt=self.system_prompt, style=style)
        rendered = self.processor.render(messages, generate=True)
        self.positions = len(rendered.ids)
        return self.side.score(rendered, self.frames, [self.processor.answer_ids(option) for option in options])

    def ask(self, question: Question, frames: Frames) -> dict[str, Any]:
        """Whether the likeliest option is right."""
        self.frames, began = frames, time.perf_counter()
        scores = label_scores(self, question)  # type: ignore[arg-type]
        right = question.labels[int(np.argmax(scores))].strip("()") == question.answer
        milliseconds = round(1000 * (time.perf_counter() - began), 1)
        return {"right": right, "positions": self.positions, "ms": milliseconds}


class Bench:
    """Asks the questions of many streams in every way, and keeps each answer: a run that was cut off goes on."""

    def __init__(
        self, work: Path, model: Backbone, processor: Processor, *, ways: Sequence[str] = WAYS, chooser: Any = None
    ) -> None:
        """`chooser`: for the way CHOSEN; None: the one beside the model."""
        self.work, self.model, self.ways = work, model, ways
        self.chooser = (chooser or Chooser.load(chooser_file(model), model)) if CHOSEN in ways else None
        self.path = work / "answers.jsonl"
        self.scored = Scored(model, processor, OVBench().system_prompt)
        self.encoder = FrameEncoder(model, processor)
        self.done = {(row["id"], row["shown"]) for row in read_rows(self.path)}

    def tasks(self, streams: Streams) -> Iterator[tuple[int, Sequence[Question], dict[str, Any]]]:
        """Each stream's number, its questions, and what the world knows about them by id."""
        path = self.work / "worlds" / f"{streams.name}-{streams.num}" / "ovbench.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_questions(path, streams, past=PAST, now=NOW)
        known = {row["id"]: row for item in json.loads(path.read_text()) for row in item["questions"]}
        for number, task in enumerate(OVBench().read(path).tasks):
            yield number, task.questions, known

    def encode(self, streams: Streams, number: int) -> torch.Tensor:
        """(T, C, g, g) of one stream."""
        frames = render_frames(streams.config.scene(number), streams.times, streams.config.size)
        batches = (list(frames[first : first + 16]) for first in range(0, len(frames), 16))
        return torch.cat([self.encoder.encode(self.encoder.prepare(batch)) for batch in batches])

    def run(self, streams: Streams, number: int, questions: Sequence[Question], known: dict[str, Any]) -> float:
        """All that is still to be asked of one stream; returns the seconds it took."""
        began, rows = time.perf_counter(), []
        if all((question.id, name) in self.done for question in questions for name in self.ways):
            return 0.0
        configs = memories(self.model, len(streams.times))
        banks = {name: PyramidMemoryBank(one) for name, one in configs.items() if name in ("pyramid", *self.ways)}
        recall = Recall(banks["pyramid"], self.scored.side)
        stream = Stream(self.encode(streams, number), streams.times, banks, recall, self.chooser)
        for question in questions:  # in the order of time
            stream.watch(question.timestamp)
            answers: dict[Any, dict[str, Any]] = {}
            for name in self.ways:
                if (question.id, name) in self.done:
                    continue
                frames = stream.choose(name, question, known[question.id]["evidence"])
                alike = tuple((frame.index, frame.features.shape) for frame in frames)
                answers[alike] = answers.get(alike) or self.scored.ask(question, frames)
                rows.append({"id": question.id, "shown": name, **answers[alike]})
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        self.done |= {(row["id"], row["shown"]) for row in rows}
        return time.perf_counter() - began


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows kept so far; a last line that was cut off in the middle is asked again."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        path.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    return [json.loads(line) for line in lines[:-1]]
