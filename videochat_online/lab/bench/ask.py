"""`bench ask`: the time to the first token of a question, with and without what earlier questions computed; and how
much of a prompt must be computed again after each new frame, by the order of what stands in it.

The model is --model or, without it, a random one with the published memory (832 visual tokens) and a language model
large enough that prefilling, not Python, is what costs; the frames' maps are random, the encoder is not part of this
measurement.

Orders are counted, not timed: prompts are compared position by position as the cache compares them. The trained format
shows the frames in the order of time and the question last; the other orders say what that costs or saves. The frames'
maps are a random walk there, so that neighbours resemble each other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from ...config import MemoryConfig
from ...model.backbone import Backbone
from ...model.memory_bank import MemoryFrame, PyramidMemoryBank
from ...model.videochat import VideoChatOnline
from ...model_config import VideoChatOnlineConfig
from ...processing import Processor, load_model
from ...streaming.cache import num_common, position_keys
from ...streaming.session import StreamingSession
from ...streaming.watching import IdlePrefill
from .measure import Tables, seconds_per_call

QUESTION = "What is the person doing now?"
OTHER_QUESTION = "And what happened before that?"
LINE_TOKENS = 14
"""Words and marks around one frame."""
QUESTION_TOKENS = 30
CAPACITIES = ((2, 2, 12), (24, 24, 144))
Order = Callable[[Sequence[MemoryFrame]], list[MemoryFrame]]


def averaging(model: Any) -> Any:
    """The model, whose sessions take random maps for frames: they average them, whatever the family's own way."""
    if model.config.any_shape:
        model.config = replace(model.config, small_frames="pooled")
    return model


def measure(options: argparse.Namespace) -> Tables:
    model, processor = load_model(options.model)
    model = averaging(model)
    if options.model == "pocket":  # for its tokenizer and prompt format: it is too small itself
        model = measuring_model(processor)
    return {
        "a question": bench_ask(model, processor, repeats=options.repeats),
        "share of the prompt to compute after each new frame, by the order in it": bench_order(
            num_frames=options.frames
        ),
    }


def measuring_model(processor: Processor, *, width: int = 512, num_layers: int = 8) -> VideoChatOnline:
    """A random model whose encoder would give 16x16 maps, for the tokenizer of `processor`."""
    vision = {
        "image_size": 64,
        "patch_size": 2,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    language = {
        "model_type": "phi3",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": len(processor.tokenizer),
        "original_max_position_embeddings": 16384,
        "max_position_embeddings": 16384,
        "pad_token_id": 0,
        "eos_token_id": 0,
    }
    torch.manual_seed(0)
    config = VideoChatOnlineConfig(
        vision_config=vision, llm_config=language, img_context_token_id=processor.image_token_id
    )
    return VideoChatOnline(config).eval()


@dataclass
class Situation:
    """What has happened before the question that is timed: `num_frames` seen, and then `prepare`."""

    name: str
    prepare: Callable[[StreamingSession], None]
    policy: str = "pyramid"
    num_frames: int = 16
    new_frames: int = 0
    """Seen in `prepare`."""
    idle: bool = False
    """Prefill runs in the background and is interrupted by the question."""


def bench_ask(model: Backbone, processor: Processor, *, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds to the first token in each situation; a cold prefill, and the question's tokens alone, beside it."""
    grid = model.config.grid
    maps = torch.randn(64, grid, grid, model.config.feature_size, dtype=model.dtype, device=model.device)
    maps = maps.permute(0, 3, 1, 2)

    def see(session: StreamingSession, count: int = 1) -> None:
        first = session.memory.num_written
        session.memory.write(maps[first : first + count], [float(k) for k in range(first, first + count)])

    def ask_first(session: StreamingSession) -> None:
        session.ask(OTHER_QUESTION, max_new_tokens=1, keep=False)

    def ask_and_see(session: StreamingSession) -> None:
        ask_first(session)
        see(session)

    def ask_see_and_prefill(session: StreamingSession) -> None:
        ask_and_see(session)
        session.prefill()

    situations = [
        Situation("second question, nothing new", ask_first),
        Situation("one new frame, no eviction", ask_and_see, num_frames=15, new_frames=1),
        Situation("one new frame, prefilled while idle", ask_see_and_prefill, num_frames=15, new_frames=1),
        Situation("all frames new, asked 0.1 s into prefill", lambda session: None, idle=True),
        Situation("oldest frame evicted (worst case)", ask_and_see, policy="fifo", new_frames=1),
    ]
    return [_measure(model, processor, situation, see, repeats=repeats) for situation in situations]


def _measure(
    model: Backbone, processor: Processor, situation: Situation, see: Callable[..., None], *, repeats: int
) -> dict[str, Any]:
    memory = MemoryConfig.pyramid(policy=situation.policy)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {"warm": [], "cold": [], "alone": []}
    floor = StreamingSession(model, processor, memory=memory)
    see(floor, situation.num_frames + situation.new_frames)
    floor.prefill()
    for turn in range(repeats + 1):  # the first is a warm-up
        warm, cold = (StreamingSession(model, processor, memory=memory, reuse_cache=reuse) for reuse in (True, False))
        see(warm, situation.num_frames)
        see(cold, situation.num_frames + situation.new_frames)
        situation.prepare(warm)
        with IdlePrefill(lambda: [warm], interval=0.001) if situation.idle else nullcontext():  # noqa: B023
            time.sleep(0.1 if situation.idle else 0.0)
            answer = warm.ask(QUESTION, max_new_tokens=2, keep=False)
        alone = _question_alone(floor)
        if answer != cold.ask(QUESTION, max_new_tokens=2, keep=False):
            raise AssertionError("the cached and the cold answer differ: the comparison would mean nothing")
        if turn:
            for name, taken in (("warm", _first(warm)), ("cold", _first(cold)), ("alone", alone)):
                times[name].append(taken)
    stats, seconds = warm.stats(), {name: median(values) for name, values in times.items()}
    computed = (stats["prompt_tokens"] or 0) - (stats["cached_tokens"] or 0)
    return {
        "situation": situation.name,
        "visual tokens": stats["tokens"],
        "prompt tokens": stats["prompt_tokens"],
        "computed": computed,
        "first token ms": seconds["warm"] * 1e3,
        "cold ms": seconds["cold"] * 1e3,
        "question alone ms": seconds["alone"] * 1e3,
        "cold/warm": seconds["cold"] / seconds["warm"],
        "warm/alone": seconds["warm"] / seconds["alone"],
    }


def _first(session: StreamingSession) -> float:
    seconds = session.stats()["time_to_first_token"]
    assert seconds is not None, "a question was asked"
    return seconds


def _question_alone(session: StreamingSession) -> float:
    """Seconds of the floor: the model's forward over the question's own tokens on top of what is prefilled."""
    rendered, frames = session.prompt(QUESTION)
    language = session.language
    embeds = language.embed(rendered, frames)
    num_cached = language.cache.keep_common(position_keys(rendered, frames))
    positions = language.positions(rendered, frames)
    return seconds_per_call(lambda: language.cache.peek(embeds[:, num_cached:], positions=positions), repeats=3)


def by_time(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: frame.index)


def finest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: (frame.level, frame.index))


def coarsest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: (-frame.level, frame.index))


def newest_first(frames: Sequence[MemoryFrame]) -> list[MemoryFrame]:
    return sorted(frames, key=lambda frame: -frame.index)


ORDERS: dict[str, tuple[Order, bool]] = {
    "by time, question last (trained)": (by_time, True),
    "by time, question first": (by_time, False),
    "newest frame first": (newest_first, True),
    "finest level first": (finest_first, True),
    "coarsest level first": (coarsest_first, True),
}
"""Name -> order of the frames, and whether the question stands behind them."""


def bench_order(*, num_frames: int = 2000, channels: int = 16) -> list[dict[str, Any]]:
    """Share of the prompt to compute at a question after each new frame (mean), per order and published bank."""
    if num_frames <= (fewest := max(map(sum, CAPACITIES))):
        raise ValueError(f"--frames must be above {fewest}, which the larger bank holds, got {num_frames}")
    return [row for capacities in CAPACITIES for row in _of_bank(capacities, num_frames, channels)]


def _of_bank(capacities: tuple[int, ...], num_frames: int, channels: int) -> list[dict[str, Any]]:
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=capacities))
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(channels, 16, 16, generator=generator)
    before: dict[str, list[Hashable]] = {name: [] for name in ORDERS}
    computed: dict[str, list[float]] = {name: [] for name in ORDERS}
    for number in range(num_frames):
        scene = 0.95 * scene + 0.3 * torch.randn(scene.shape, generator=generator)
        bank.write(scene[None], [float(number)])
        frames = bank.read()
        for name, (order, question_last) in ORDERS.items():
            prompt = _prompt(order(frames), f"question {number}", question_last=question_last)
            if len(frames) == bank.config.capacity:
                computed[name].append(1 - num_common(before[name], prompt) / len(prompt))
            before[name] = prompt
    rows = [
        {
            "bank": "/".join(map(str, capacities)),
            "order": name,
            "mean share computed": sum(shares) / len(shares),
            "share of questions that cost under a tenth": sum(share < 0.1 for share in shares) / len(shares),
        }
        for name, shares in computed.items()
    ]
    return [{**row, "ratio to a cold prompt": 1 / float(row["mean share computed"])} for row in rows]  # type: ignore[arg-type]


def _prompt(frames: Sequence[MemoryFrame], question: str, *, question_last: bool) -> list[Hashable]:
    """One key a position, as `position_keys` gives them."""
    shown: list[Hashable] = []
    for frame in frames:
        shown += [("line", frame.index)] * LINE_TOKENS + [frame.identity] * frame.num_tokens
    asked: list[Hashable] = [question] * QUESTION_TOKENS
    return shown + asked if question_last else asked + shown
