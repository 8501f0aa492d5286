"""Packed sequences, each sample attended by itself: losses and gradients of the mask route and of unpacked rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import modeling_flash_attention_utils
from transformers.utils import TransformersKwargs

from videochat_online.model.language_model import border_arguments, build_language_model, sample_borders, use_varlen

LLMS: dict[str, dict[str, Any]] = {
    "qwen2": {}, "qwen3": {"head_dim": 8}, "llama": {},
    "internlm2": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3": {"num_key_value_heads": 4, "original_max_position_embeddings": 32, "sliding_window": 4096, "rope_scaling": {
        "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 3.0, 6.0, 9.0]}},
}  # fmt: skip
ROWS = ((5, 9, 1), (3, 10))
"""Lengths of the samples in each sequence; the second is filled up with two positions of padding."""


def samples() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 60, (length,), generator=generator) for row in ROWS for length in row]


def packed_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and positions (2, 15); the first token of a sample is no label, nor is padding."""
    width, each = max(map(sum, ROWS)), iter(samples())
    ids, labels, positions = torch.zeros(2, width, dtype=torch.long), torch.full((2, width), -100), []
    for row, lengths in enumerate(ROWS):
        place = 0
        for length in lengths:
            ids[row, place : place + length] = sample = next(each)
            labels[row, place + 1 : place + length] = sample[1:]
            place += length
        positions.append(torch.cat([torch.arange(n) for n in (*lengths, width - place)]))
    return ids, labels, torch.stack(positions)


def loss_and_gradients(model: Any, runs: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Of the sum of all labels' losses."""
    model.zero_grad()
    total = 0.0
    for inputs in runs:
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        if labels.shape[1] > 1:
            loss.backward()
            total += loss.item()
    return total, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(first: tuple, second: tuple) -> None:
    """Up to the order of sums in float32: a gradient near 0 may be a sum of large ones."""
    assert first[0] == pytest.approx(second[0], rel=1e-5) and first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        atol = 2e-5 * max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradient, second[1][name], atol=atol, rtol=1e-4, msg=name)


@pytest.fixture(params=LLMS)
def language_model(request: pytest.FixtureRequest, make_config: Any) -> Any:
    torch.manual_seed(0)
    llm = {"initializer_range": 0.3, **LLMS[request.param]}  # attention that looks about
    config = make_config(request.param, llm=llm).llm_config
    config._attn_implementation = "sdpa"
    return build_language_model(config).train()


def alone(one: torch.Tensor) -> dict[str, Any]:
    return {"input_ids": one[None], "labels": one[None]}


def together(**changes: Any) -> dict[str, Any]:
    ids, labels, positions = packed_rows()
    return {"input_ids": ids, "labels": labels, "position_ids": positions, **changes}


def borders(*, flash: bool = False) -> dict[str, Any]:
    return border_arguments(packed_rows()[2], flash=flash, device=torch.device("cpu"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_the_mask_route_and_samples_alone(language_model: Any, checkpointing: bool):
    apart = loss_and_gradients(language_model, [alone(one) for one in samples()])
    masked = loss_and_gradients(language_model, [together()])
    use_varlen(language_model)
    if checkpointing:
        language_model.gradient_checkpointing_enable({"use_reentrant": False})
    ours = loss_and_gradients(language_model, [together(**borders())])
    assert_same(ours, masked)
    assert_same(ours, apart)
    assert_same(loss_and_gradients(language_model, [together()]), masked)  # borders read off the positions


@torch.no_grad()
def test_everything_else_is_as_with_sdpa(language_model: Any):
    """Padding, a cache behind a prompt, positions that do not begin at 0, a generated answer."""
    language_model.eval()
    other = copy.deepcopy(language_model)
    use_varlen(other)
    ids, _, _ = packed_rows()
    mask = torch.ones_like(ids)
    mask[0, :4], mask[1, -2:] = 0, 0
    runs: list[dict[str, Any]] = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}]
    runs += [{"input_ids": ids, "position_ids": torch.arange(7, 22)[None].expand(2, -1)}]
    for inputs in runs:
        torch.testing.assert_close(other(**inputs).logits, language_model(**inputs).logits, atol=1e-5, rtol=1e-5)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(other.generate(ids, **options), language_model.generate(ids, **options))


def test_a_window_shorter_than_the_sequence_keeps_its_mask(make_config: Any):
    llm = {"num_key_value_heads": 4, "sliding_window": 4, "initializer_range": 0.3}
    config = make_config("phi3", llm=llm).llm_config
    config._attn_implementation = "sdpa"
    model = build_language_model(config).train()
    masked = loss_and_gradients(model, [together()])
    use_varlen(model)
    assert_same(loss_and_gradients(model, [together(**borders())]), masked)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return result


def test_nothing_of_the_size_of_a_mask_is_made(language_model: Any):
    """Forward and backward of one sequence of 2,048: below L x L, which the mask route exceeds."""
    length, sizes = 2048, (700, 500, 848)
    positions = torch.cat([torch.arange(size) for size in sizes])[None]
    inputs = {"input_ids": torch.full((1, length), 5), "position_ids": positions, "logits_to_keep": 1}

    def largest(**arguments: Any) -> int:
        with Largest() as found:
            language_model(**inputs, **arguments, use_cache=False).logits.sum().backward()
        return found.numel

    assert largest() >= length**2
    use_varlen(language_model)
    arguments = border_arguments(positions, flash=False, device=torch.device("cpu"))
    assert arguments["cu_seq_lens_q"] == [0, 700, 1200, 2048] and arguments["max_length_q"] == 848
    assert largest(**arguments) < length**2 / 8


def test_flash_attention_reads_the_borders_of_several_sequences(language_model: Any, monkeypatch: pytest.MonkeyPatch):
    """transformers' own path, with a kernel of the package's signature. Without borders it takes one sequence only."""
    seen = []

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None,
        causal: bool = False, window_size: tuple[int, int] = (-1, -1), deterministic: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        assert causal and torch.equal(cu_seqlens_q, cu_seqlens_k) and cu_seqlens_q.dtype == torch.int32
        assert type(max_seqlen_q) is int and max_seqlen_q == max_seqlen_k  # a tensor would wait for the device
        seen.append((cu_seqlens_q.tolist(), max_seqlen_q))
        parts = []
        for start, end in pairwise(cu_seqlens_q.tolist()):
            part = (one[start:end].transpose(0, 1)[None] for one in (q, k, v))  # (1, heads, n, d)
            one = scaled_dot_product_attention(*part, is_causal=True, scale=softmax_scale, enable_gqa=True)
            parts.append(one[0].transpose(0, 1))
        return torch.cat(parts)

    utils = modeling_flash_attention_utils
    process: Callable[..., Any] = utils._lazy_define_process_function(kernel)
    loaded = (None, kernel, None, None, None), (process, dict)
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *args, **kwargs: loaded)
    masked = loss_and_gradients(language_model, [together()])
    for module in language_model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "flash_attention_2"
    assert_same(loss_and_gradients(language_model, [together(**borders(flash=True))]), masked)
    assert seen == [([0, 5, 14, 15, 18, 28, 30], 10)] * language_model.config.num_hidden_layers


def test_borders():
    assert sample_borders(packed_rows()[2]) == [0, 5, 14, 15, 18, 28, 30]
    assert sample_borders(torch.tensor([[3, 4, 5], [0, 0, 1]])) == [0, 3, 4, 6]
    assert border_arguments(None, flash=True, device=torch.device("cpu")) == {}
    assert set(borders()) <= set(TransformersKwargs.__optional_keys__)
