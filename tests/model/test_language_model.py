"""InternLM2 as Llama, and rotary frequencies that depend on the length: LongRoPE and dynamic NTK."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from videochat_online.model.language_model import StatelessRope, build_language_model, fuse_wqkv, split_wqkv
from videochat_online.model.videochat import CACHE_NAMES, VideoChatOnline, forward_names, rename_cache
from videochat_online.model_config import InternLM2Config, factor_set


@torch.no_grad()
def test_recorded_internlm2_logits(golden: Path, tmp_path: Path):
    values = json.loads((golden / "internlm2/config.json").read_text("utf-8"))
    build_language_model(InternLM2Config(**values))  # makes the layout known
    (tmp_path / "config.json").symlink_to(golden / "internlm2/config.json")
    (tmp_path / "model.safetensors").symlink_to(golden / "internlm2/weights.safetensors")
    model, info = LlamaForCausalLM.from_pretrained(tmp_path, config=InternLM2Config(**values), output_loading_info=True)
    assert not any(info.values())
    recorded = load_file(golden / "internlm2/forward.safetensors")
    got = model.eval()(recorded["input_ids"]).logits
    torch.testing.assert_close(got, recorded["logits"], rtol=1e-4, atol=1e-4 * float(recorded["logits"].abs().max()))


def test_fused_weights_hold_each_kv_head_with_its_group():
    """Two KV heads, two query heads each, head size 1: rows q0 q1 k0 v0 q2 q3 k1 v1."""
    fused = torch.arange(8.0)[:, None]
    query, key, value = split_wqkv(fused, num_kv_heads=2, head_dim=1)
    assert [part.flatten().tolist() for part in (query, key, value)] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    assert torch.equal(fuse_wqkv([query, key, value], num_kv_heads=2, head_dim=1), fused)
    bias = torch.randn(3 * 6 * 4)
    assert torch.equal(fuse_wqkv(list(split_wqkv(bias, 3, 4)), 3, 4), bias)


@pytest.mark.parametrize("length", [5, 32, 33, 60])
def test_longrope_numbers_are_those_of_transformers(make_longrope_model: Any, length: int):
    config = make_longrope_model().config.llm_config
    x, positions = torch.zeros(1, 1, 8), torch.arange(length)[None]
    for got, want in zip(StatelessRope(config)(x, positions), Phi3RotaryEmbedding(config)(x, positions), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("length", [10, 512, 700])
def test_dynamic_ntk_numbers_are_those_of_transformers(make_config: Any, length: int):
    config = make_config("internlm2", llm={"rope_scaling": {"type": "dynamic", "factor": 2.0}}).llm_config
    x, positions = torch.zeros(1, 1, 8), torch.arange(length)[None]
    wants = LlamaRotaryEmbedding(config)(x, positions)
    for got, want in zip(StatelessRope(config)(x, positions), wants, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_factor_sets(make_config: Any, make_longrope_model: Any):
    longrope = make_longrope_model().config.llm_config
    assert [factor_set(longrope, length) for length in (1, 32, 33, 400)] == [0, 0, 1, 1]
    dynamic = make_config("internlm2", llm={"rope_scaling": {"type": "dynamic", "factor": 2.0}}).llm_config
    assert [factor_set(dynamic, length) for length in (1, 512, 513, 514)] == [512, 512, 513, 514]
    assert {factor_set(make_config("qwen2").llm_config, length) for length in (1, 10**6)} == {0}


def greedy_without_cache(model: VideoChatOnline, ids: torch.Tensor, num_new: int) -> list[int]:
    """Every token from a full forward over everything before it: one factor set at a time, by construction."""
    for _ in range(num_new):
        logits = model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[0, -num_new:].tolist()


@pytest.mark.parametrize("prompt_length", [20, 28, 31, 32, 33, 40])
@torch.no_grad()
def test_greedy_generation_across_the_longrope_line(make_longrope_model: Any, prompt_length: int):
    model = make_longrope_model()
    for seed in range(3):
        ids = torch.randint(3, 60, (1, prompt_length), generator=torch.Generator().manual_seed(seed))
        got = model.generate(ids, max_new_tokens=14, eos_token_id=None)[0].tolist()
        assert got == greedy_without_cache(model, ids, 14)


@torch.no_grad()
def test_the_line_matters_here(make_longrope_model: Any):
    """Without starting the cache again at the line, the same model says something else: the test above can fail."""
    model = make_longrope_model()
    ids = torch.randint(3, 60, (1, 28), generator=torch.Generator().manual_seed(0))
    want = greedy_without_cache(model, ids, 14)
    model._factors_change = lambda *_: False
    assert model.generate(ids, max_new_tokens=14, eos_token_id=None)[0].tolist() != want


@torch.no_grad()
def test_generation_across_the_line_in_a_padded_batch(make_longrope_model: Any):
    """The longest row is what counts, and padding is no position."""
    model = make_longrope_model()
    ids = torch.randint(3, 60, (1, 30), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([torch.zeros(1, 10, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(40)[None] >= 10).long()
    both = model.generate(padded.repeat(2, 1), attention_mask=mask.repeat(2, 1), max_new_tokens=8, eos_token_id=None)
    want = greedy_without_cache(model, ids, 8)
    assert both.tolist() == [want, want]


@torch.no_grad()
def test_a_callers_cache_is_refilled_in_place_at_the_line(make_longrope_model: Any):
    model = make_longrope_model()
    ids = torch.randint(3, 60, (1, 30), generator=torch.Generator().manual_seed(2))
    cache = DynamicCache(config=model.config.llm_config)
    model.generate(ids, max_new_tokens=8, eos_token_id=None, cache=cache)
    assert cache.get_seq_length() == 30 + 8 - 1
    fresh = DynamicCache(config=model.config.llm_config)
    new = model.generate(ids, max_new_tokens=8, eos_token_id=None)
    model(input_ids=torch.cat([ids, new], dim=1)[:, :-1], cache=fresh, use_cache=True)
    for ours, theirs in zip(cache.layers, fresh.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_dynamic_ntk_generation_past_the_trained_length(make_model: Any):
    llm = {
        "max_position_embeddings": 24,
        "initializer_range": 0.3,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    }
    model = make_model("internlm2", llm=llm)
    ids = torch.randint(3, 60, (1, 20), generator=torch.Generator().manual_seed(3))
    got = model.generate(ids, max_new_tokens=12, eos_token_id=None)[0].tolist()
    assert got == greedy_without_cache(model, ids, 12)


@torch.no_grad()
def test_two_threads_on_both_sides_of_the_line(make_longrope_model: Any):
    """Short and long sequences at once on one model: no call changes another's frequencies."""
    model = make_longrope_model()
    ids = torch.randint(3, 60, (1, 48), generator=torch.Generator().manual_seed(4))
    lengths = (24, 48)
    want = {length: model(input_ids=ids[:, :length]).logits for length in lengths}
    wrong: list[int] = []

    @torch.no_grad()
    def ask(length: int) -> None:
        for _ in range(40):
            if not torch.equal(model(input_ids=ids[:, :length]).logits, want[length]):
                wrong.append(length)

    threads = [threading.Thread(target=ask, args=(length,)) for length in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def forward_until_23(self: Any, input_ids: Any = None, past_key_values: Any = None, **kwargs: Any) -> None: ...


def forward_since_24(self: Any, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(("forward", "name"), [(forward_until_23, "past_key_values"), (forward_since_24, "cache")])
def test_the_caches_name_is_read_off_transformers(monkeypatch: pytest.MonkeyPatch, forward: Any, name: str):
    """Of 5.23 and of 5.24, whichever is installed."""
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    forward_names.cache_clear()
    try:
        for given in CACHE_NAMES:
            assert rename_cache({given: "c", "use_cache": True}) == {name: "c", "use_cache": True}
        assert rename_cache(dict.fromkeys(CACHE_NAMES)) == {}
    finally:
        forward_names.cache_clear()
