"""`bench endurance`: one session for 10,000 frames and 500 questions. Is its memory flat, do cached answers drift?

Every tenth question is also put to a session without a cache that was restored from the saved one: the answers must be
equal, and how far the logits of their first token are apart is reported.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ...model.videochat import VideoChatOnline
from ...processing import Processor, load_model
from ...streaming.cache import position_keys
from ...streaming.session import StreamingSession
from .measure import Tables

PICTURES = 32
"""Different frames; the stream repeats them."""
NUM_ROWS = 5
CHECK_EVERY = 10
NEW_TOKENS = 8


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    length = {"num_frames": options.long_frames, "num_questions": options.long_frames // 20}
    return {  # this order: the process's peak memory only grows
        "one session, no question stays": bench_endurance(model, processor, keep=False, **length),
        "one session, every other question stays": bench_endurance(model, processor, keep=True, **length),
    }


def bench_endurance(
    model: VideoChatOnline,
    processor: Processor,
    *,
    keep: bool,
    num_frames: int = 10_000,
    num_questions: int = 500,
) -> list[dict[str, Any]]:
    """A row for each fifth of the stream; every third question has idle time before it.

    With `keep` every other question stays in the dialogue, which grows until the model's positions are used up.
    """
    session = StreamingSession(model, processor)
    pictures = list(np.random.default_rng(0).integers(0, 255, (PICTURES, 64, 64, 3), dtype=np.uint8))
    each = num_frames // num_questions
    rows: list[dict[str, Any]] = []
    encoding, answering, apart = [], [], []
    for number in range(num_questions):
        first = number * each
        started = time.perf_counter()
        shown = [pictures[k * k % PICTURES] for k in range(first, first + each)]
        session.see_many(shown, [k / 2 for k in range(first, first + each)])
        encoding.append((time.perf_counter() - started) / each)
        if number % 3 == 0:
            session.prefill()
        question = f"What is the red circle doing now, at {number}?"
        if number % CHECK_EVERY == 0:
            apart.append(_check_against_cold(session, question))
        session.ask(question, max_new_tokens=NEW_TOKENS, keep=keep and number % 2 == 0)
        answering.append(session.stats()["latency"] or 0.0)
        if (number + 1) * NUM_ROWS % num_questions < NUM_ROWS:
            rows.append(_row(session, (number + 1), encoding, answering, apart))
            encoding, answering, apart = [], [], []
    for row in rows:
        row["peak/first row"] = row["peak MiB"] / rows[0]["peak MiB"]
    return rows


@torch.no_grad()
def _check_against_cold(session: StreamingSession, question: str) -> float:
    """Largest difference of the first token's logits; raises where the answers differ."""
    with tempfile.TemporaryDirectory() as folder:
        session.save(Path(folder) / "session")
        cold = StreamingSession.restore(session.model, session.processor, Path(folder) / "session")
    cold.language.reuse_cache = False
    logits = [_first_logits(each, question) for each in (session, cold)]
    answers = [each.ask(question, max_new_tokens=NEW_TOKENS, keep=False) for each in (session, cold)]
    if answers[0] != answers[1]:
        raise AssertionError(f"{question}: the cached answer is {answers[0]!r}, the cold one {answers[1]!r}")
    return float((logits[0] - logits[1]).abs().max())


def _first_logits(session: StreamingSession, question: str) -> torch.Tensor:
    """(vocabulary,), on top of what the session has cached."""
    rendered, frames = session.prompt(question)
    language = session.language
    embeds = language.embed(rendered, frames)
    if not language.reuse_cache:
        return session.model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1]
    language.cache.prepare(position_keys(rendered, frames), embeds)
    return language.cache.peek(embeds[:, len(language.cache) :])[-1]


def _row(
    session: StreamingSession, num_questions: int, encoding: list[float], answering: list[float], apart: list[float]
) -> dict[str, Any]:
    stats = session.stats()
    return {
        "frames": stats["frames_seen"],
        "questions": num_questions,
        "ms a frame": median(encoding) * 1e3,
        "ms a question": median(answering) * 1e3,
        "turns held": len(session.turns),
        "cache MiB": stats["cache_bytes"] / 2**20,
        "cache MiB at most": stats["cache_bytes_at_most"] / 2**20,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "checked against cold": len(apart),
        "logits apart": max(apart, default=None),
    }
