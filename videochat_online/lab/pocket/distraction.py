"""Trains the pocket model against distraction: old evidence in long streams, shown as a session shows it.

    bash shell/pocket/evidence.sh distraction

The recipe's videos last a minute at most, and show every frame of it. Here streams last up to ten minutes, at the
pyramid's grids, out of the memory itself, or as a chooser shows them; questions are of every age. Several questions
about one moment share their prompt. Only the layers of the language model are trained, so that frames, words and what
reads them (gate, chooser) stay. A run that was cut off takes up its streams again. D channels of the language model.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ...command_line import CommandParser
from ...evaluation.benchmarks.ovbench import OVBench
from ...files import whole, write_json
from ...model.memory_bank import PyramidMemoryBank
from ...processing import load_model
from ...prompt.messages import stream_dialogue
from ...streaming.recall import Recall
from ..shapeworld.annotations import streaming_item
from ..shapeworld.questions.engine import ask_questions, default_times
from ..shapeworld.questions.types import SUB_TASKS
from .aged import Streams
from .choosing import weights_of
from .showing import Bench, Frames, Stream, memories

if TYPE_CHECKING:
    from ...evaluation.questions import Question

SEED = 83
GROUPS = ((30.0, 1.0, 5), (60.0, 1.0, 2), (120.0, 0.5, 5), (120.0, 0.25, 3), (600.0, 0.25, 5))
"""Seconds, frames a second, and how many of 20 streams are like that."""
CHUNK = 20
"""Streams that are kept in one file."""
MOMENTS, POOL, ASKED = 6, 240, 8
"""Of a stream: when it is asked, and how often; of these a moment has so many at most."""
SHOWN = {"pyramid": 0.6, "newest 16x1": 0.1, "uniform 19x1": 0.1, "perfect": 0.2}
"""What a moment's questions are shown, and how often; of `perfect` each has frames of its own, and three are asked."""
OWN = 3
TOGETHER, WARM_UP, TOKEN_WEIGHT = 4, 50, 0.5
"""Prompts of a step; steps; weight of the right answer's tokens beside the choice among the options."""


@dataclass
class SharedPrompt:
    """Questions about one moment behind one prompt."""

    rows: torch.Tensor
    """(tokens, D): the frames as the language model sees them."""
    prompt: list[int]
    asked: list[tuple[list[int], list[list[int]], int]]
    """Ids that follow the prompt, those of each option with its end mark, and which is right."""
    group: int
    shown: str


class Teacher:
    """Makes lessons of streams."""

    def __init__(self, work: Path, model: Any, processor: Any) -> None:
        self.work, self.model, self.processor = work, model, processor
        self.bench = Bench(work / "unused", model, processor, ways=("pyramid",))

    def lessons(self, split: str, num: int) -> list[SharedPrompt]:
        """Of at least `num` streams, kept as they come."""
        worlds = [Streams(seconds, fps, SEED + n, num, split) for n, (seconds, fps, _) in enumerate(GROUPS)]
        found: list[SharedPrompt] = []
        for chunk in range(-(-num // CHUNK)):
            file, began = self.work / f"{split}-{chunk}.pt", time.monotonic()
            if not file.is_file():
                self.work.mkdir(parents=True, exist_ok=True)
                made: list[SharedPrompt] = []
                for group, (_, _, share) in enumerate(GROUPS):
                    for number in range(chunk * share, (chunk + 1) * share):
                        made += self.of_stream(worlds[group], number, group, only_pyramid=split == "dev")
                with whole(file) as beside:
                    torch.save([vars(one) for one in made], beside)
                print(f"{file.name}: {len(made)} prompts in {time.monotonic() - began:.0f} s", flush=True)
            found += [SharedPrompt(**one) for one in torch.load(file, weights_only=True)]
        return found

    def of_stream(self, streams: Streams, number: int, group: int, *, only_pyramid: bool) -> Iterator[SharedPrompt]:
        """1. questions at some moments 2. the stream 3. at each moment what is shown."""
        scene, rng = streams.config.scene(number), streams.config.rng("distraction", number)
        times = [moment for moment in default_times(scene) if moment >= min(10.0, scene.seconds / 3)]
        moments = sorted(times[place] for place in rng.permutation(len(times))[:MOMENTS])
        asked = ask_questions(scene, SUB_TASKS, POOL, rng, moments)
        weights = dict(zip((one.id for one in asked), weights_of(asked), strict=True))
        evidence = {one.id: one.evidence for one in asked}
        path = self.work / "asked.json"
        write_json(path, [streaming_item(scene, "video", asked, streams.config.fps)])
        (task,) = OVBench().read(path).tasks
        configs = memories(self.model, len(streams.times))
        banks = {name: PyramidMemoryBank(configs[name]) for name in SHOWN if name in configs}
        recall = Recall(banks["pyramid"], self.bench.scored.side)
        stream = Stream(self.bench.encode(streams, number), streams.times, banks, recall)
        for moment in moments:
            here = [one for one in task.questions if one.timestamp == moment]
            if not here:
                continue
            stream.watch(moment)
            way = "pyramid" if only_pyramid else str(rng.choice(list(SHOWN), p=list(SHOWN.values())))
            shares = np.array([weights[one.id] for one in here])
            most = min(OWN if way == "perfect" else ASKED, len(here))
            kept = [here[place] for place in rng.choice(len(here), most, replace=False, p=shares / shares.sum())]
            system = OVBench().system_prompt if only_pyramid or rng.random() < 0.8 else None
            for some in [[one] for one in kept] if way == "perfect" else [kept]:
                frames = stream.choose(way, some[0], evidence[some[0].id])
                yield self.lesson(some, frames, system, group, way)

    @torch.no_grad()
    def lesson(
        self, asked: Sequence[Question], frames: Frames, system: str | None, group: int, way: str
    ) -> SharedPrompt:
        shown = [(frame.index, frame.timestamp, frame.num_tokens) for frame in frames]
        style, render, ids_of = self.processor.template.frame, self.processor.render, self.processor.answer_ids
        whole_ids = [
            list(render(stream_dialogue([], one.prompt, shown, system_prompt=system, style=style), generate=True).ids)
            for one in asked
        ]
        same = min(next((k for k, pair in enumerate(zip(whole_ids[0], ids, strict=False)) if pair[0] != pair[1]),
                        len(ids) - 1) for ids in whole_ids)  # fmt: skip
        rows = self.model.project([frame.features for frame in frames])
        behind = [
            (ids[same:], [list(ids_of(option)) for option in one.options], one.labels.index(f"({one.answer})"))
            for one, ids in zip(asked, whole_ids, strict=True)
        ]
        return SharedPrompt(rows.half(), whole_ids[0][:same], behind, group, way)


def packed(
    lesson: SharedPrompt,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[tuple[list[int], list[int]]]]]:
    """Ids (N,), positions (N,), what each sees (N, N); of each question and option the places whose logits count, and
    the tokens that they should tell."""
    ids, positions, part, over = list(lesson.prompt), list(range(len(lesson.prompt))), [0] * len(lesson.prompt), [[0]]
    wanted = []

    def append(new: list[int], behind: int, begin: int) -> tuple[int, list[int]]:
        over.append([*over[behind], len(over)])
        places = list(range(len(ids), len(ids) + len(new)))
        ids.extend(new)
        positions.extend(range(begin, begin + len(new)))
        part.extend([len(over) - 1] * len(new))
        return len(over) - 1, places

    for rest, options, _ in lesson.asked:
        end = len(lesson.prompt) + len(rest)
        asked, places = append(rest, 0, len(lesson.prompt))
        last, of_question = places[-1], []
        for option in options:
            _, places = append(option[:-1], asked, end)
            of_question.append(([last, *places], option))
        wanted.append(of_question)
    ancestors = torch.zeros(len(over), len(over), dtype=torch.bool)
    for number, above in enumerate(over):
        ancestors[number, above] = True
    of = torch.tensor(part)
    order = torch.arange(len(ids))
    sees = ancestors[of][:, of] & (order[None] <= order[:, None])
    return torch.tensor(ids), torch.tensor(positions), sees, wanted


def option_scores(model: Any, lesson: SharedPrompt) -> list[tuple[torch.Tensor, int, int]]:
    """Of each question the log-probability of its options, which is right, and how many tokens that has."""
    ids, positions, sees, wanted = packed(lesson)
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[None, None]
    embeds = model.embed(ids[None], lesson.rows.float())
    places = sorted({place for of_question in wanted for some, _ in of_question for place in some})
    row = {place: number for number, place in enumerate(places)}
    done = model(
        inputs_embeds=embeds, position_ids=positions[None], attention_mask=mask, use_cache=False,
        logits_to_keep=torch.tensor(places),
    )  # fmt: skip
    chances = done.logits[0].log_softmax(-1)
    found = []
    for of_question, (_, _, right) in zip(wanted, lesson.asked, strict=True):
        scores = [chances[[row[place] for place in some], option].sum() for some, option in of_question]
        found.append((torch.stack(scores), right, len(of_question[right][1])))
    return found


def choice_and_token_loss(model: Any, lesson: SharedPrompt) -> torch.Tensor:
    """The choice among the options, and the right answer's tokens; mean over questions."""
    losses = [
        F.cross_entropy(scores[None], torch.tensor([right])) - TOKEN_WEIGHT * scores[right] / num
        for scores, right, num in option_scores(model, lesson)
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def accuracy(model: Any, lessons: Sequence[SharedPrompt]) -> dict[str, float]:
    """Percent right by length of the stream."""
    found: dict[str, list[bool]] = {}
    for lesson in lessons:
        for scores, right, _ in option_scores(model, lesson):
            found.setdefault(f"{GROUPS[lesson.group][0]:g} s", []).append(int(scores.argmax()) == right)
    return {name: 100 * float(np.mean(each)) for name, each in found.items()}


def fit_layers(
    model: Any, lessons: Sequence[SharedPrompt], tests: Sequence[SharedPrompt], *, steps: int, rate: float
) -> None:
    """Train the layers of the language model in place."""
    model.requires_grad_(False)
    trained = [*model.language_model.model.layers.parameters(), *model.language_model.model.norm.parameters()]
    for one in trained:
        one.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    of_step = lambda step: min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, of_step)
    rng, began, mean = random.Random(SEED), time.monotonic(), 0.0
    order: list[SharedPrompt] = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        for _ in range(TOGETHER):
            order = order or rng.sample(lessons, len(lessons))
            loss = choice_and_token_loss(model, order.pop()) / TOGETHER
            loss.backward()
            mean = 0.995 * mean + 0.005 * float(loss.detach()) * TOGETHER
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step in (1, steps):
            found = accuracy(model, tests) if step % 300 == 0 or step in (1, steps) else {}
            told = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
            scale = 1 - 0.995 ** (step * TOGETHER)
            print(f"step {step}: loss {mean / scale:.3f} ({time.monotonic() - began:.0f} s) {told}", flush=True)


def main() -> None:
    parser = CommandParser(description="Train a small model against distraction: old evidence in long streams.")
    parser.add_argument("output", type=Path, help="folder of the trained model")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is seen of the streams")
    parser.add_argument("--model", default="pocket", help="which is trained on")
    parser.add_argument("--streams", type=int, default=400, help="streams to learn from")
    parser.add_argument("--steps", type=int, default=700, help=f"of {TOGETHER} prompts each")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.set_defaults(run=undistract)
    sys.exit(parser.run())


def undistract(options: argparse.Namespace) -> int:
    """1. Watch the streams. 2. Train. 3. Write the model."""
    torch.set_num_threads(1)
    model, processor = load_model(options.model)
    teacher = Teacher(options.work, model, processor)
    lessons, tests = teacher.lessons("train", options.streams), teacher.lessons("dev", 2 * CHUNK)
    torch.manual_seed(SEED)
    fit_layers(model, lessons, tests, steps=options.steps, rate=options.learning_rate)
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    print(options.output, flush=True)
    return 0


if __name__ == "__main__":
    main()
