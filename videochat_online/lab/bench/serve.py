"""`bench serve`: 1, 4 and 16 sessions that ask at the same moment. Their answers are made one after another, each in a
thread of its own, together (`SharedDecoder`, as a server does), and by vLLM where --engine-url names one
(docs/engine.md says how it is started).

Each session has seen other frames and is prefilled up to them, as idle time does; what is timed is from the questions
to the last token of all answers, to the first of each (the mean is told), and what the processor spent on a token,
which other programs disturb least. No answer ends early, so that all do the same work. The larger model is a random one
of two layers of width 1024, with the published memory's 832 visual tokens; vLLM does not have it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from ...model.engine import Engine
from ...processing import Processor, load_model
from ...streaming.language import Answer
from ...streaming.session import StreamingSession
from ...streaming.together import SharedDecoder
from .ask import measuring_model
from .measure import Tables

QUESTION = "What is happening now?"
SESSIONS = (1, 4, 16)
NEW_TOKENS = 32
FRAMES = 16


class Endless(Processor):
    """Knows an end mark that no answer of a trained model has."""

    @property
    def end_token_ids(self) -> list[int]:
        return [len(self.tokenizer) - 1]


@dataclass(frozen=True)
class AskingWay:
    """How answers are made."""

    model: Any
    decoder: SharedDecoder | None = None
    threads: int | None = None
    """None: one for each answer."""


def ways_of(model: Any, decoder: SharedDecoder) -> dict[str, AskingWay]:
    """Those of a model that runs here; the first is a server's with `--answers-at-once 1`."""
    return {
        "one by one": AskingWay(model, threads=1),
        "threads": AskingWay(model),
        "together": AskingWay(model, decoder),
    }


def measure(options: argparse.Namespace) -> Tables:
    model, given = load_model(options.model, device="cpu")
    processor = Endless(given.tokenizer, given.template, given.transform)
    large = measuring_model(processor, width=1024, num_layers=2)
    with ExitStack() as stack:
        ways, of_large = (ways_of(one, stack.enter_context(SharedDecoder(one))) for one in (model, large))
        if options.engine_url:
            ways["vLLM"] = AskingWay(load_model(options.model, device="cpu", engine=Engine(options.engine_url))[0])
        short = NEW_TOKENS // 4
        return {
            f"{options.model}: answers of {NEW_TOKENS} tokens": compare(ways, processor, repeats=options.repeats),
            f"two layers of width 1024, random: answers of {short} tokens": compare(
                of_large, processor, repeats=options.repeats, num_new=short, counts=SESSIONS[:2]
            ),
        }


def compare(
    ways: Mapping[str, AskingWay],
    processor: Processor,
    *,
    repeats: int,
    num_new: int = NEW_TOKENS,
    counts: Sequence[int] = SESSIONS,
) -> list[dict[str, Any]]:
    """Tokens a second of each way, taken in turn; the best of `repeats`. AssertionError where a token is missing."""
    rows = []
    for count in counts:
        seconds, first, spent = (dict.fromkeys(ways, float("inf")) for _ in range(3))
        answers: dict[str, list[list[int]]] = {}
        for _ in range(repeats):
            for name, way in ways.items():
                sessions = [prepared(way, processor, seed) for seed in range(count)]
                started, spent_before = time.perf_counter(), time.process_time()
                found = asked(sessions, num_new, way.threads or count)
                seconds[name] = min(seconds[name], time.perf_counter() - started)
                spent[name] = min(spent[name], time.process_time() - spent_before)
                first[name] = min(first[name], sum(answer.time_to_first_token or 0 for answer in found) / count)
                answers[name] = [answer.ids for answer in found]
        if lacking := [name for name, found in answers.items() if any(len(ids) != num_new for ids in found)]:
            raise AssertionError(f"{lacking}: an answer ended early, so the times would mean nothing")
        usual = next(iter(ways))
        row: dict[str, Any] = {"sessions": count, "prompt": len(sessions[0].prompt(QUESTION)[0].ids)}
        row |= {f"{name} tokens/s": count * num_new / taken for name, taken in seconds.items()}
        row |= {f"{name}/{usual}": seconds[usual] / seconds[name] for name in ways if name != usual}
        row |= {f"{name} first ms": 1000 * taken for name, taken in first.items()}
        here = [name for name, way in ways.items() if way.model.keeps_keys]
        row |= {f"{name} cpu ms/token": 1000 * spent[name] / count / num_new for name in here}
        row["equal answers"] = min(sum(map(list.__eq__, found, answers[usual])) for found in answers.values())
        rows.append(row)
    return rows


def prepared(way: AskingWay, processor: Processor, seed: int) -> StreamingSession:
    """A session that has seen random maps, and done in idle time what can be done."""
    session = StreamingSession(way.model, processor, decoder=way.decoder)
    channels, grid = way.model.config.feature_size, way.model.config.grid
    maps = torch.randn(FRAMES, grid, grid, channels, generator=torch.Generator().manual_seed(seed)).permute(0, 3, 1, 2)
    session.memory.write(maps, [float(number) for number in range(FRAMES)])
    if way.model.keeps_keys:
        session.prefill()
    else:  # where an engine keeps the keys, a question before this one has left them there
        session.ask("Hello?", max_new_tokens=1, keep=False)
    return session


def asked(sessions: Sequence[StreamingSession], num_new: int, threads: int) -> list[Answer]:
    """All sessions are asked at this moment; so many threads make the answers."""
    started = time.perf_counter()

    def ask(session: StreamingSession) -> Answer:
        question = session._prepare(QUESTION, False, num_new, started)
        return session.language.answer(question, max_new_tokens=num_new)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, sessions))
