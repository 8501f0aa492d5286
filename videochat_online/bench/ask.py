"""`bench ask`: the time to the first token of a question, with and without what earlier questions computed.

The model is a random one with the published memory (832 visual tokens) and a language model large enough that
prefilling, not Python, is what costs; the frames' maps are random, the encoder is not part of this measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..config import MemoryConfig
from ..model.videochat import VideoChatOnline
from ..model_config import VideoChatOnlineConfig
from ..processing import Processor
from ..streaming.session import StreamingSession

QUESTION = "What is the person doing now?"
OTHER_QUESTION = "And what happened before that?"


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
    """What has happened before the question that is timed."""

    name: str
    prepare: Callable[[StreamingSession], None]
    policy: str = "pyramid"
    num_frames: int = 16


def bench_ask(processor: Processor, *, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds to the first token in each situation, and the ratio of a cold prefill to it."""
    model = measuring_model(processor)
    maps = torch.randn(64, 16, 16, model.config.feature_size).permute(0, 3, 1, 2)

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
        Situation("one new frame, no eviction", ask_and_see, num_frames=15),
        Situation("one new frame, prefilled while idle", ask_see_and_prefill, num_frames=15),
        Situation("oldest frame evicted (worst case)", ask_and_see, policy="fifo"),
    ]
    return [_measure(model, processor, situation, see, repeats=repeats) for situation in situations]


def _measure(
    model: VideoChatOnline, processor: Processor, situation: Situation, see: Callable[..., None], *, repeats: int
) -> dict[str, Any]:
    warm_times, cold_times = [], []
    for _ in range(repeats + 1):  # the first is a warm-up
        warm, cold = (
            StreamingSession(
                model, processor, memory=MemoryConfig.pyramid(policy=situation.policy), reuse_cache=reuse  # type: ignore[arg-type]
            )
            for reuse in (True, False)
        )  # fmt: skip
        for session in (warm, cold):
            see(session, situation.num_frames)
            situation.prepare(session)
        if warm.ask(QUESTION, max_new_tokens=2) != cold.ask(QUESTION, max_new_tokens=2):
            raise AssertionError("the cached and the cold answer differ: the comparison would mean nothing")
        warm_times.append(warm.stats()["time_to_first_token"])
        cold_times.append(cold.stats()["time_to_first_token"])
    stats = warm.stats()
    prompt, cached = stats["prompt_tokens"], stats["cached_tokens"]
    assert prompt is not None and cached is not None, "a question was asked"
    warm_time, cold_time = (median(t for t in times[1:] if t) for times in (warm_times, cold_times))
    return {
        "situation": situation.name,
        "visual tokens": stats["tokens"],
        "prompt tokens": prompt,
        "computed": prompt - cached,
        "first token ms": warm_time * 1e3,
        "cold ms": cold_time * 1e3,
        "cold/warm": cold_time / warm_time,
    }
