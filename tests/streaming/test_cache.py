"""KV reuse: an answer on top of a cache equals one from an empty cache, whatever came before."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from videochat_online import StreamingSession, VideoChatOnline, VideoChatOnlineConfig, load_model
from videochat_online.model_config import VisionConfig
from videochat_online.processing import Processor
from videochat_online.streaming.cache import position_keys
from videochat_online.streaming.watching import IdlePrefill

LINE = 300
"""Positions where the tiny LongRoPE model changes its factors: within reach of a short dialogue."""


def llm(kind, tokenizer, **more):
    return {
        "model_type": kind,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind == "phi3" else 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "bos_token_id": 1,
        "initializer_range": 0.3,
        **more,
    }


LONGROPE = {
    "original_max_position_embeddings": LINE,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [1.0, 1.3, 1.9, 3.0, 6.0, 9.0]},
}
MODELS = {
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {}),
    "longrope": ("phi3", LONGROPE),
    "dynamic": ("llama", {"max_position_embeddings": LINE, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def tiny(request):
    """A random model of each family with the pocket tokenizer; large initial weights, so that answers vary."""
    _, pocket = load_model("pocket", device="cpu")
    kind, more = MODELS[request.param]
    vision = VisionConfig(
        image_size=32, patch_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    config = VideoChatOnlineConfig(
        vision_config=vision.to_dict(), llm_config=llm(kind, pocket.tokenizer, **more), img_context_token_id=8
    )
    torch.manual_seed(0)
    model = VideoChatOnline(config).eval()
    return model, Processor(pocket.tokenizer, pocket.template, type(pocket.transform)(32))


def pictures(num_frames, seed):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 255, (num_frames, 32, 32, 3), dtype=np.uint8))


def test_cached_equals_cold_over_turns_frames_and_evictions(tiny):
    """A long dialogue: the cache is continued, cropped in the middle, and (LongRoPE) crosses the factors' line."""
    warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
    rng, shown, reused = np.random.default_rng(5), 0, []
    for step in range(12):
        more = int(rng.integers(0, 4)) if step else 2
        for session in (warm, cold):
            session.see_many(pictures(more, seed=step), [shown + k for k in range(more)])
        shown += more
        if step % 3 == 1:
            warm.prefill()
        question = f"What happened at {step}?"
        expected = cold.ask(question, max_new_tokens=10)
        assert warm.ask(question, max_new_tokens=10) == expected, step
        reused.append(warm.stats()["cached_tokens"])
        assert warm.stats()["prompt_tokens"] == cold.stats()["prompt_tokens"]
    assert warm.turns == cold.turns and shown > 12
    assert warm.stats()["prompt_tokens"] > LINE, "the dialogue must pass the line where factors change"
    assert sum(count > 100 for count in reused) >= 4, f"the cache was hardly used: {reused}"
    assert cold.stats()["cache_bytes"] == 0 < warm.stats()["cache_bytes"]


def test_logits_on_a_cache_are_the_cold_ones(tiny):
    for num_frames in (1, 9, 30):
        warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
        for session in (warm, cold):
            session.see_many(pictures(num_frames, 1), range(num_frames))
        warm.prefill()
        for session in (warm, cold):
            session.see_many(pictures(2, 2), [40.0, 41.0])
        logits = [_first_logits(session, "And now?") for session in (warm, cold)]
        torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def _first_logits(session, question):
    """Logits of the first answer token, on top of what the session has cached."""
    rendered, frames = session.prompt(question)
    embeds = session._language.embed(rendered, frames)
    if not session._language.reuse_cache:
        return session.model(inputs_embeds=embeds).logits[0, -1]
    cached = session._language.cache.keep_common(position_keys(rendered, frames))
    positions = torch.arange(cached, len(rendered.ids))[None]
    done = session.model(
        inputs_embeds=embeds[:, cached:], position_ids=positions, past_key_values=session._language.cache.kv
    )
    session._language.cache.reset()
    return done.logits[0, -1]


def test_option_scores_on_a_cache_are_the_cold_ones(tiny):
    options = ["yes", "no, the red circle", "(A) left", "B"]
    for num_frames in (2, 11, 13, 30):  # up to and past the line where LongRoPE changes its factors
        warm, cold = StreamingSession(*tiny), StreamingSession(*tiny, reuse_cache=False)
        for session in (warm, cold):
            session.see_many(pictures(num_frames, 1), range(num_frames))
        for question in ("Which way?", "Which way does it go, and what did it do before that?"):
            assert warm.score_options(question, options) == pytest.approx(
                cold.score_options(question, options), abs=2e-3
            )
        assert warm.ask("Now?", max_new_tokens=6) == cold.ask("Now?", max_new_tokens=6)


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")


def watching(pocket, num_frames=20, **options):
    session = StreamingSession(*pocket, **options)
    session.see_many(pictures(num_frames, 0), [k / 2 for k in range(num_frames)])
    return session


def test_a_question_costs_its_own_tokens_only(pocket):
    session = watching(pocket)
    session.ask("What now?", max_new_tokens=3)
    session.ask("And what then?", max_new_tokens=3)
    own = session.stats()["prompt_tokens"] - session.stats()["cached_tokens"]
    assert own <= len(pocket[1].tokenizer("And what then?")["input_ids"]) + 6  # and the marks around it


def test_prefill_does_a_questions_work_in_advance(pocket):
    session = watching(pocket)
    computed = session.prefill()
    assert computed > 200 and session.prefill() == 0
    session.ask("What now?", max_new_tokens=3)
    assert session.stats()["cached_tokens"] == computed
    session.see(pictures(1, 7)[0], 11.0)
    assert 0 < session.prefill() < computed


def test_prefill_gives_way_to_a_question(pocket):
    session = watching(pocket)
    session._waiting.set()
    assert session.prefill() is None
    session._waiting.clear()
    with session._asking:
        assert session.prefill() is None
    assert session.prefill() > 0


def test_prefill_of_nothing_is_nothing(pocket):
    assert StreamingSession(*pocket).prefill() == 0
    assert watching(pocket, reuse_cache=False).prefill() == 0


def test_idle_prefill_keeps_up_and_leaves_no_thread(pocket):
    session, before = watching(pocket, 4), threading.active_count()
    with IdlePrefill(session) as idle:
        for k in range(6):
            session.see(pictures(1, k)[0], 5.0 + k)
            assert idle.wait_until_ready(timeout=10)
        expected = watching(pocket, 4, reuse_cache=False)
        for k in range(6):
            expected.see(pictures(1, k)[0], 5.0 + k)
        assert session.ask("What?", max_new_tokens=8) == expected.ask("What?", max_new_tokens=8)
        assert session.stats()["prompt_tokens"] - session.stats()["cached_tokens"] < 12
    assert threading.active_count() == before


def test_a_failed_answer_empties_the_cache(pocket, monkeypatch):
    session = watching(pocket)
    session.ask("What now?", max_new_tokens=3)
    with pytest.raises(ValueError):
        session.ask("What now?", max_new_tokens=3, no_such_option=1)
    assert session.stats()["cache_bytes"] == 0
    again = watching(pocket)
    again.ask("What now?", max_new_tokens=3)
    assert session.ask("And then?", max_new_tokens=6) == again.ask("And then?", max_new_tokens=6)


def test_an_option_that_goes_around_the_cache_spoils_no_later_answer(pocket):
    session, cold = watching(pocket), watching(pocket, reuse_cache=False)
    session.ask("What now?", max_new_tokens=6, keep=False, use_cache=False)
    assert session.ask("And then?", max_new_tokens=8) == cold.ask("And then?", max_new_tokens=8)


def test_beam_search_does_without_the_cache(pocket):
    session = watching(pocket)
    assert isinstance(session.ask("What now?", max_new_tokens=4, num_beams=2), str)
    assert session.stats()["cached_tokens"] == 0


def test_the_cache_is_bounded_by_the_prompt(pocket):
    session = watching(pocket)
    sizes = []
    for k in range(30):
        session.see_many(pictures(4, k), [20 + 4 * k + j for j in range(4)])
        session.ask("What now?", max_new_tokens=3, keep=False)
        sizes.append(session.stats()["cache_bytes"] / (session.stats()["prompt_tokens"] + 3))
    assert max(sizes) <= 2 * 5 * 192 * 4  # keys and values of 5 layers of width 192, float32
