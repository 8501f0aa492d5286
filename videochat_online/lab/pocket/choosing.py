"""Trains the pocket model's chooser: which remembered frames a question is about that names no time (docs/memory.md).

    bash shell/pocket/evidence.sh chooser

Free labels: the world knows when what a question asks about was to be seen. Streams are watched once, what a chooser
sees of them is kept, and a run that was cut off goes on. K frames, Q questions, C channels.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...command_line import CommandParser
from ...evaluation.questions import age_of
from ...files import whole
from ...processing import load_model
from ...streaming.chooser import STATES, Chooser, ChooserNetwork
from ...streaming.encoding import FrameEncoder
from ...streaming.gate import Gate
from ...streaming.language import LanguageSide
from ...streaming.recall import named_times
from ..shapeworld.questions.engine import ask_questions, default_times
from ..shapeworld.questions.types import SUB_TASKS, WorldQuestion
from ..shapeworld.render import render_frames
from ..shapeworld.scenes import UNSEEN, Scene, Thing
from .aged import Streams

if TYPE_CHECKING:
    from ...model.backbone import Backbone
    from ...processing import Processor

SEED = 71
GROUPS = ((30.0, 1.0, 5), (60.0, 1.0, 2), (120.0, 0.5, 5), (120.0, 0.25, 4), (600.0, 0.25, 4))
"""Seconds, frames a second, and how many of 20 streams are like that."""
CHUNK = 20
"""Streams that are kept in one file."""
POOL = 300
"""Questions asked of a stream."""
TOGETHER, QUESTIONS = 6, 12
"""Of a step: streams, and questions about each."""
RATE, DECAY, WARM_UP, STATE_WEIGHT = 2e-3, 0.02, 100, 0.3
TESTED = 40
"""Questions about each held-out stream, at most."""
NOW_SHARE = 0.15
"""Of the questions of a step, those about what is visible now."""


@dataclass
class ChoiceLesson:
    """One stream as a chooser sees it, and what is asked about it."""

    maps: torch.Tensor
    """(K, C)."""
    times: torch.Tensor
    """(K,) seconds."""
    states: torch.Tensor
    """(things, K): 0 unseen, 1 + action, STATES - 2 anything else."""
    asked: list[Any]
    """Rows: text, seconds, evidence, the thing it names (-1: none), its weight."""
    group: int


def state_of(thing: Thing, seconds: float) -> int:
    """What a thing is doing, as a number below STATES."""
    segment = thing.at(seconds)
    return 0 if segment.kind in UNSEEN else 1 + segment.action if segment.kind == "act" else STATES - 2


def weights_of(asked: Sequence[WorldQuestion]) -> list[float]:
    """Ages count alike on a logarithmic scale, and rare kinds of questions nearly as much as common ones."""
    ages = [-1 if one.visible_now else int(log2(max(age_of(one.evidence, one.time), 1))) for one in asked]
    of_age, of_kind = Counter(ages), Counter(one.template for one in asked)
    past = max(sum(age >= 0 for age in of_age), 1)
    shares = [(1 - NOW_SHARE) / past if age >= 0 else NOW_SHARE for age in ages]
    return [
        share / of_age[age] / of_kind[one.template] ** 0.5 for share, age, one in zip(shares, ages, asked, strict=True)
    ]


def lesson_of(scene: Scene, group: int, fps: float, encode: Any, rng: np.random.Generator) -> ChoiceLesson:
    """Watch a stream, and ask about it what names no time."""
    times = np.arange(0, scene.seconds, 1 / fps)
    maps = encode(render_frames(scene, times, 128)).mean((2, 3)).half()
    moments = [moment for moment in default_times(scene) if moment >= min(10.0, scene.seconds / 3)]
    asked = [
        one
        for one in ask_questions(scene, SUB_TASKS, POOL, rng, moments)
        if not named_times(one.question, 0.0, float(times[times <= one.time][-1]))
    ]
    rows = []
    for one, weight in zip(asked, weights_of(asked), strict=True):
        things = [n for n, thing in enumerate(scene.things) if thing.name(one.time) in one.question]
        rows.append((one.question, one.time, one.evidence, things[0] if len(things) == 1 else -1, weight))
    states = torch.tensor([[state_of(thing, float(moment)) for moment in times] for thing in scene.things])
    return ChoiceLesson(maps, torch.tensor(times), states, rows, group)


def choice_lessons(
    work: Path, split: str, seed: int, num: int, model: Backbone, processor: Processor
) -> list[ChoiceLesson]:
    """At least `num` streams of a split, kept in `work` as they come."""
    encoder, found = FrameEncoder(model, processor), []

    def encode(frames: np.ndarray) -> torch.Tensor:
        batches = (list(frames[first : first + 16]) for first in range(0, len(frames), 16))
        return torch.cat([encoder.encode(encoder.prepare(batch)) for batch in batches])

    worlds = [Streams(seconds, fps, seed + n, num, split) for n, (seconds, fps, _) in enumerate(GROUPS)]
    for chunk in range(-(-num // CHUNK)):
        file, began = work / f"{split}-{seed}-{chunk}.pt", time.monotonic()
        if not file.is_file():
            work.mkdir(parents=True, exist_ok=True)
            lessons = []
            for group, (_, fps, share) in enumerate(GROUPS):
                for number in range(chunk * share, (chunk + 1) * share):
                    rng = worlds[group].config.rng("choosing", number)
                    lessons.append(lesson_of(worlds[group].config.scene(number), group, fps, encode, rng))
            with whole(file) as beside:
                torch.save([vars(one) for one in lessons], beside)
            print(f"{file.name}: {CHUNK} streams in {time.monotonic() - began:.0f} s", flush=True)
        found += [ChoiceLesson(**one) for one in torch.load(file, weights_only=True)]
    return found


@dataclass
class Batch:
    """Questions about several streams, padded to the longest."""

    maps: list[torch.Tensor]
    """(K, C) of each stream."""
    stream: torch.Tensor
    """(Q,) number of the stream."""
    times: torch.Tensor
    lengths: torch.Tensor
    texts: list[str]
    wanted: torch.Tensor
    """(Q, K): where the evidence is, 1 together."""
    states: torch.Tensor
    """(Q, K), -1 where nothing is known."""


def wanted_of(times: torch.Tensor, evidence: Sequence[Sequence[float]]) -> torch.Tensor:
    """(K,) the same for each interval, evenly over its frames; on the nearest where it has none."""
    wanted = torch.zeros(len(times))
    for start, end in evidence:
        inside = ((times >= start) & (times <= end)).float()
        if not inside.any():
            inside[(times - (start + end) / 2).abs().argmin()] = 1
        wanted += inside / inside.sum() / len(evidence)
    return wanted


def batch_of(lessons: Sequence[ChoiceLesson], rng: random.Random, num: int | None = QUESTIONS) -> Batch:
    """`num` questions about each stream, as they are weighted, of streams that miss some frames; None: all, whole."""
    parts: list[Any] = []
    for number, one in enumerate(lessons):
        kept = torch.arange(len(one.times))
        rows = one.asked
        if num is not None:
            rows = rng.choices(rows, [row[-1] for row in rows], k=num)
            share = rng.random() * 0.4 if rng.random() < 0.4 else 0.0
            kept = kept[torch.rand(len(kept)) >= share] if share and len(kept) > 8 else kept
        times = one.times[kept]
        for text, now, evidence, thing, _ in rows:
            length = int((times <= now).sum())
            if length:
                text = f"Question at {now:.1f}s: {text}" if num is None or rng.random() < 0.3 else text
                states = one.states[thing, kept][:length] if thing >= 0 else torch.full((length,), -1)
                parts.append((number, times[:length], text, wanted_of(times[:length], evidence), states))
        parts.append(one.maps[kept])
    maps = [part.float() for part in parts if isinstance(part, torch.Tensor)]
    rows = [part for part in parts if not isinstance(part, torch.Tensor)]
    columns: Any = zip(*rows, strict=True)
    numbers, seconds, texts, wanted, told = columns
    pad = nn.utils.rnn.pad_sequence
    return Batch(
        maps,
        torch.tensor(numbers),
        pad([each.float() for each in seconds], batch_first=True),
        torch.tensor([len(each) for each in seconds]),
        list(texts),
        pad(wanted, batch_first=True),
        pad(told, batch_first=True, padding_value=-1),
    )


def logits_of(network: ChooserNetwork, batch: Batch, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As the network gives them, of a whole batch."""
    seen = nn.utils.rnn.pad_sequence([network.seen(each) for each in batch.maps], batch_first=True)
    longest = batch.times.shape[1]
    seen = nn.functional.pad(seen, (0, 0, 0, max(longest - seen.shape[1], 0)))[:, :longest]
    found: tuple[torch.Tensor, torch.Tensor] = network(
        seen[batch.stream], batch.times, batch.lengths, [words(text) for text in batch.texts]
    )
    return found


def choice_loss(network: ChooserNetwork, batch: Batch, words: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the logits are from the evidence, and the read-out of states from what is so."""
    logits, states = logits_of(network, batch, words)
    chances = logits.log_softmax(-1)
    missed = -(batch.wanted * chances.masked_fill(batch.wanted == 0, 0)).sum(-1).mean()
    return missed, nn.functional.cross_entropy(states.flatten(0, 1), batch.states.flatten(), ignore_index=-1)


def fit_chooser(
    network: ChooserNetwork, lessons: Sequence[ChoiceLesson], words: Any, *, steps: int, tests: Sequence[ChoiceLesson]
) -> None:
    """Train in place."""
    every = torch.cat([one.maps for one in lessons[::3]]).float()
    network.mean.copy_(every.mean(0))
    network.scale.copy_(1 / every.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    rate = lambda step: min(1.0, (step + 1) / WARM_UP, 1.6 * (1 - step / steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    rng, began, mean = random.Random(SEED), time.monotonic(), [0.0, 0.0]
    groups = [[one for one in lessons if one.group == group and one.asked] for group in range(len(GROUPS))]
    shares = [share for *_, share in GROUPS]
    for step in range(1, steps + 1):
        batch = batch_of(rng.choices(rng.choices(groups, shares)[0], k=TOGETHER), rng)
        optimizer.zero_grad()
        missed, misread = choice_loss(network, batch, words)
        (missed + STATE_WEIGHT * misread).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = [0.98 * old + 0.02 * float(new.detach()) for old, new in zip(mean, (missed, misread), strict=True)]
        if step % 200 == 0 or step == steps:
            network.eval()
            told = ", ".join(f"{name} {share:.2f}" for name, share in found_of(network, tests, words).items())
            network.train()
            scale = 1 - 0.98**step
            print(
                f"step {step}: loss {mean[0] / scale:.3f}, states {mean[1] / scale:.3f}; evidence found: {told} "
                f"({time.monotonic() - began:.0f} s)",
                flush=True,
            )


@torch.no_grad()
def found_of(network: ChooserNetwork, tests: Sequence[ChoiceLesson], words: Any) -> dict[str, float]:
    """Of questions about the past, which share of the evidence lies among the 4 newest frames and 12 others: the
    likeliest, or the newest 12."""
    shares: dict[str, list[float]] = {"chosen": [], "newest": [], "evenly": []}
    for one in tests:
        some = replace(one, asked=one.asked[:: 1 + len(one.asked) // TESTED])
        batch = batch_of([some], random.Random(0), None)
        logits, _ = logits_of(network, batch, words)
        for n, length in enumerate(batch.lengths.tolist()):
            wanted = batch.wanted[n, :length]
            if length <= 20 or wanted[-4:].sum() > 0.9:
                continue
            chosen = logits[n, : length - 4].topk(12).indices
            shares["chosen"].append(float(wanted[-4:].sum() + wanted[chosen].sum()))
            shares["newest"].append(float(wanted[-16:].sum()))
            evenly = torch.linspace(0, length - 5, 12).round().long()
            shares["evenly"].append(float(wanted[-4:].sum() + wanted[evenly].sum()))
    return {name: float(np.mean(found)) for name, found in shares.items()}


def main() -> None:
    parser = CommandParser(description="Train a chooser of frames for questions that name no time.")
    parser.add_argument("output", type=Path, help="chooser.safetensors")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is seen of the streams")
    parser.add_argument("--model", default="pocket", help="whose chooser")
    parser.add_argument("--streams", type=int, default=340, help="streams to learn from")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--most", type=int, default=8, help="frames it shows at most beside the newest")
    parser.add_argument("--sure", type=float, default=0.9, help="probability of having shown enough at which it stops")
    parser.set_defaults(run=train_chooser)
    sys.exit(parser.run())


def train_chooser(options: argparse.Namespace) -> int:
    """1. Watch the streams. 2. Train. 3. Write it."""
    torch.set_num_threads(1)
    model, processor = load_model(options.model)
    lessons = choice_lessons(options.work, "train", SEED, options.streams, model, processor)
    tests = choice_lessons(options.work, "dev", SEED, 3 * CHUNK, model, processor)
    words = lru_cache(20_000)(LanguageSide(model, processor, reuse_cache=False).words)
    torch.manual_seed(SEED)
    network = ChooserNetwork(*Gate.sizes(model))
    fit_chooser(network, lessons, words, steps=options.steps, tests=tests)
    Chooser(network, options.most, options.sure, Path(options.model).name).save(options.output)
    print(options.output, flush=True)
    return 0


if __name__ == "__main__":
    main()
