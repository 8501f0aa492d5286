"""`bench serve`: 1, 4 and 16 sessions that ask at the same moment, their answers made in one thread for each, together
in one static batch, and by vLLM where --engine-url names one (docs/engine.md says how it is started).

Each session has seen other frames and is prefilled up to them, as idle time does; what is timed is from the questions
to the last token of all answers. No answer ends early, so that all do the same work. The static batch is the decoding
loop alone, with each session's keys and values put into one cache behind padding on the left: what a server without
vLLM could win at best. The larger model is a random one of two layers of width 1024, with the published memory's 832
visual tokens; vLLM does not have it.

B sessions, N positions of the longest prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F

from ...model.engine import Engine
from ...model.videochat import rename_cache
from ...processing import Processor, load_model
from ...streaming.cache import position_keys
from ...streaming.session import StreamingSession
from .ask import measuring_model
from .measure import Tables

QUESTION = "What is happening now?"
SESSIONS = (1, 4, 16)
NEW_TOKENS = 32
FRAMES = 16
Answers = list[list[int]]
"""Ids of each session's answer."""


class Endless(Processor):
    """Knows an end mark that no answer of a trained model has."""

    @property
    def end_token_ids(self) -> list[int]:
        return [len(self.tokenizer) - 1]


def measure(options: argparse.Namespace) -> Tables:
    model, given = load_model(options.model, device="cpu")
    processor = Endless(given.tokenizer, given.template, given.transform)
    ways: dict[str, tuple[Any, Callable[..., Answers]]] = {"threads": (model, threads), "static batch": (model, batch)}
    if options.engine_url:
        there, _ = load_model(options.model, device="cpu", engine=Engine(options.engine_url))
        ways["vLLM"] = (there, threads)
    large = measuring_model(processor, width=1024, num_layers=2)
    return {
        f"{options.model}: answers of {NEW_TOKENS} tokens": compare(ways, processor, repeats=options.repeats),
        f"two layers of width 1024, random: answers of {NEW_TOKENS // 4} tokens": compare(
            {"threads": (large, threads), "static batch": (large, batch)},
            processor,
            repeats=options.repeats,
            num_new=NEW_TOKENS // 4,
            counts=SESSIONS[:2],
        ),
    }


def compare(
    ways: dict[str, tuple[Any, Callable[..., Answers]]],
    processor: Processor,
    *,
    repeats: int,
    num_new: int = NEW_TOKENS,
    counts: Sequence[int] = SESSIONS,
) -> list[dict[str, Any]]:
    """Tokens a second of each way, taken in turn; the best of `repeats`. AssertionError where one lacks a token."""
    rows = []
    for count in counts:
        seconds = dict.fromkeys(ways, float("inf"))
        answers: dict[str, Answers] = {}
        for _ in range(repeats):
            for name, (model, run) in ways.items():
                sessions = [prepared(model, processor, seed) for seed in range(count)]
                started = time.perf_counter()
                answers[name] = run(sessions, num_new)
                seconds[name] = min(seconds[name], time.perf_counter() - started)
        expected = answers["threads"]
        if lacking := [name for name, found in answers.items() if any(len(ids) != num_new for ids in found)]:
            raise AssertionError(f"{lacking}: an answer ended early, so the times would mean nothing")
        row: dict[str, Any] = {"sessions": count, "prompt": len(sessions[0].prompt(QUESTION)[0].ids)}
        row |= {f"{name} tokens/s": count * num_new / taken for name, taken in seconds.items()}
        row |= {f"{name}/threads": seconds["threads"] / seconds[name] for name in ways if name != "threads"}
        row["equal answers"] = min(sum(map(list.__eq__, found, expected)) for found in answers.values())
        rows.append(row)
    return rows


def prepared(model: Any, processor: Processor, seed: int) -> StreamingSession:
    """A session that has seen random maps, and done in idle time what can be done."""
    session = StreamingSession(model, processor)
    channels, grid = model.config.feature_size, model.config.grid
    maps = torch.randn(FRAMES, grid, grid, channels, generator=torch.Generator().manual_seed(seed)).permute(0, 3, 1, 2)
    session.memory.write(maps, [float(number) for number in range(FRAMES)])
    if model.keeps_keys:
        session.prefill()
    else:  # where an engine keeps the keys, a question before this one has left them there
        session.ask("Hello?", max_new_tokens=1, keep=False)
    return session


def threads(sessions: Sequence[StreamingSession], num_new: int) -> Answers:
    """Every session asks in a thread of its own."""

    def ask(session: StreamingSession) -> list[int]:
        question = session._prepare(QUESTION, False, num_new, time.perf_counter())
        return session.language.answer(question, max_new_tokens=num_new).ids

    with ThreadPoolExecutor(len(sessions)) as pool:
        return list(pool.map(ask, sessions))


@torch.no_grad()
def batch(sessions: Sequence[StreamingSession], num_new: int) -> Answers:
    """One loop for all: each cache is filled up to its question, then they are one cache, padded on the left."""
    model = sessions[0].model
    # 1. each session's prompt but for its last position
    caches, last, lengths = [], [], []
    for session in sessions:
        rendered, frames = session.prompt(QUESTION)
        keys, embeds = position_keys(rendered, frames), session.language.embed(rendered, frames)
        session.language.cache.fill(keys[:-1], embeds[:, :-1])
        caches.append(session.language.cache.kv)
        last.append(embeds[:, -1:])
        lengths.append(len(keys) - 1)
    # 2. one cache (B, heads, N, d) a layer; each session has its own copy still
    longest, shared = max(lengths), model.new_cache()
    for number in range(len(caches[0].layers)):
        layers: list[Any] = [cache.layers[number] for cache in caches]
        parts = [(layer.keys, layer.values) for layer in layers]
        padded = [[F.pad(part, (0, 0, longest - part.shape[2], 0)) for part in pair] for pair in parts]
        shared.update(torch.cat([pair[0] for pair in padded]), torch.cat([pair[1] for pair in padded]), number)
    mask = torch.ones(len(sessions), longest + num_new, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[: longest - length] = 0
    # 3. a token for all at each step
    embeds, positions, found = torch.cat(last), torch.tensor(lengths)[:, None], []
    for step in range(num_new):
        named = rename_cache({"cache": shared})
        seen = mask[:, : longest + step + 1]
        logits = model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=seen, use_cache=True, **named
        ).logits
        found.append(logits[:, -1].argmax(-1))
        embeds, positions = model.embed(found[-1][:, None]), positions + 1
    return torch.stack(found, dim=1).tolist()
