"""Frozen weights held small: nothing changes where the run computes in float32, little in bf16, 4 bits train pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_loop, packed, settings, tiny_config, tiny_model
from videochat_online.config import BYTES_OF
from videochat_online.data.settings import SettingError
from videochat_online.model.weights import load_pretrained
from videochat_online.training.configuration import TrainingConfig
from videochat_online.training.distributed import check_packages
from videochat_online.training.export import export
from videochat_online.training.log import read_log
from videochat_online.training.memory import Load, estimate
from videochat_online.training.parts import choose_parts, frozen_dtype, hold_frozen, model_rows, num_values, quantized

pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")

LORA = {"llm": "lora:4", "lora_dropout": 0.0, "drop_path": 0.0}


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


def need_bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'videochat-online[quantize]'")


def test_which_dtype_frozen_weights_have():
    assert frozen_dtype(settings("run", precision="bf16")) == torch.bfloat16
    for changes in ({"precision": "fp32"}, {"frozen_dtype": "float32"}, {"strategy": "zero2"}, {"strategy": "fsdp"}):
        assert frozen_dtype(settings("run", **{"precision": "bf16", **changes})) == torch.float32, changes


@pytest.mark.parametrize("changes", [LORA, {"vision": "last:1"}], ids=["lora", "last"])
def test_only_what_is_frozen_changes_its_dtype(tmp_path: Path, changes: dict[str, str]):
    model = make_loop(tmp_path, count=4, precision="bf16", **changes).state.model
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name
    assert {buffer.dtype for buffer in model.buffers()} <= {torch.float32, torch.int64}


def test_in_float32_nothing_is_touched(tmp_path: Path):
    model, before = tiny_model(), tiny_model().state_dict()
    choose_parts(model, settings("run"))
    hold_frozen(model, settings("run"))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_losses_in_bf16_are_near_those_of_float32(tmp_path: Path):
    """In 20 steps that learn four samples; bf16 has three digits, with both ways to hold weights."""
    from accelerate.state import AcceleratorState

    ways = {"exact": {}, "float32": {"precision": "bf16", "frozen_dtype": "float32"}, "bf16": {"precision": "bf16"}}
    told = {}
    for name, changes in ways.items():
        values = {**LORA, "count": 4, "max_steps": 20, "vision": "lora:4", "llm": "lora:16", **changes}
        make_loop(tmp_path / name, **values).train()
        told[name] = losses(tmp_path / name)
        AcceleratorState._reset_state(reset_partial_state=True)
    assert told["exact"][-1] < told["exact"][0] - 0.3 and len({*map(tuple, told.values())}) == 3
    for name in ("float32", "bf16"):
        assert told[name] == pytest.approx(told["exact"], abs=0.03)


WRONG = {
    "all of it trains": ({"quantize": "nf4"}, "--llm must be frozen or lora:RANK with --quantize nf4, got 'full'"),
    "sharded": (
        {"quantize": "nf4", "llm": "lora:4", "strategy": "zero2"},
        "--strategy must be ddp with --quantize nf4",
    ),
    "whole checkpoints": (
        {"quantize": "int8", "llm": "lora:4", "checkpoint_weights": "all"},
        "--checkpoint-weights must be trained with --quantize, got 'all'",
    ),
    "vision alone": ({"quantize_vision": True}, "--quantize-vision needs --quantize"),
    "int8 and dora": (
        {"quantize": "int8", "llm": "lora:4", "lora_variant": "dora"},
        "--lora-variant must be lora or rslora with --quantize int8, got 'dora'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_quantized(name: str):
    changes, message = WRONG[name]
    with pytest.raises(SettingError) as error:
        TrainingConfig(**changes)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_a_missing_package_and_a_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch):
    config = settings("run", quantize="int8", llm="lora:4")
    with monkeypatch.context() as patch:
        patch.setattr("videochat_online.extras.find_spec", lambda name: None if name == "bitsandbytes" else object())
        with pytest.raises(SettingError, match=r"bitsandbytes is missing: pip install 'videochat-online\[quantize\]'"):
            check_packages(config)
    monkeypatch.setattr("videochat_online.extras.find_spec", lambda name: object())
    monkeypatch.setattr("videochat_online.training.distributed.uses_cpu", lambda config: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    with pytest.raises(SettingError, match=r"--quantize int8 needs a GPU of compute capability 7\.5"):
        check_packages(config)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_layer_is_its_weight_rounded(kind: str):
    """Against a plain product with the weight that its bits stand for; the size is that of the estimate."""
    need_bitsandbytes()
    import bitsandbytes as bnb

    torch.manual_seed(0)
    plain, x = torch.nn.Linear(256, 512), torch.randn(8, 256, requires_grad=True)
    small = quantized(plain, settings("run", quantize=kind, llm="lora:4"))
    weight = small.weight
    if kind == "nf4":
        rounded = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        state = weight.quant_state
        extra = state.absmax.nbytes + state.state2.absmax.nbytes  # type: ignore[union-attr]
    else:
        rounded, extra = weight.CB * weight.SCB[:, None] / 127, 0
    assert (weight.data.nbytes + extra) / plain.weight.numel() == pytest.approx(BYTES_OF[kind], rel=0.01)
    assert num_values(weight) == plain.weight.numel() or kind == "int8"
    out = small(x)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, rounded.float(), plain.bias), atol=0.02, rtol=0.01)
    out.sum().backward()
    torch.testing.assert_close(x.grad, rounded.float().sum(0).expand(8, -1), atol=0.05, rtol=0.02)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_pairs_learn_above_a_quantized_model(tmp_path: Path, kind: str):
    """Every pair is reached, nothing else; resumed as uninterrupted; merged into the base as it was."""
    need_bitsandbytes()
    tiny_model().save_pretrained(tmp_path / "base")
    values = {"quantize": kind, "quantize_vision": True, "save_every": 2, "resume": "auto", **LORA}
    values |= {"model_": str(tmp_path / "base"), "schedule": "constant_with_warmup", "count": 16}
    base = values.pop("model_")
    for name, lives in (("once", [4]), ("twice", [2, 4])):
        for last in lives:
            loop = make_loop(tmp_path / name, max_steps=last, **values)
            before = {key: one.clone() for key, one in loop.state.model.named_parameters()}
            loop.train()
    for key, weight in loop.state.model.named_parameters():
        assert torch.equal(weight, before[key]) == (not weight.requires_grad or "lora_A" in key) or weight.requires_grad
    assert losses(tmp_path / "once") == losses(tmp_path / "twice")
    plain = make_loop(tmp_path / "plain", max_steps=4, **{**values, "quantize": "none", "quantize_vision": False})
    plain.train()
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "once"), abs=0.02)
    config = settings(tmp_path / "twice", **{key: one for key, one in values.items() if key != "count"}, model=base)
    merged = load_pretrained(export(loop.state, config)).state_dict()
    start = tiny_model().state_dict()
    key = "language_model.model.layers.0.self_attn.q_proj"
    found = loop.state.model.state_dict()
    up, down = found[f"{key}.lora_B.default.weight"], found[f"{key}.lora_A.default.weight"]
    torch.testing.assert_close(merged[f"{key}.weight"], start[f"{key}.weight"] + 2 * up @ down)
    assert torch.equal(
        merged["vision_model.encoder.layers.0.mlp.fc1.weight"], start["vision_model.encoder.layers.0.mlp.fc1.weight"]
    )


def test_logits_of_the_merged_model_in_four_bits(tmp_path: Path):
    """DoRA, whose lengths are those of the weights before they were rounded."""
    need_bitsandbytes()
    tiny_model().save_pretrained(tmp_path / "base")
    values = {"quantize": "nf4", "lora_variant": "dora", "model": str(tmp_path / "base"), **LORA}
    loop = make_loop(tmp_path / "run", count=8, max_steps=2, **{k: v for k, v in values.items() if k != "model"})
    loop.train()
    model = load_pretrained(export(loop.state, settings(tmp_path / "run", **values)))
    batch = packed([loop.dataset[i] for i in range(3)])
    whole, small = (one.eval()(**batch, use_cache=False).logits for one in (model, loop.state.model))
    assert (whole - small).std() < 0.1 * whole.std()


def test_the_estimate_counts_bits(tmp_path: Path):
    sizes, load = {}, Load(64, 1)
    for kind in ("none", "int8", "nf4"):
        config = settings("run", llm="lora:4", quantize=kind, precision="bf16")
        rows = model_rows(tiny_config(), config)
        sizes[kind] = estimate(rows, tiny_config(), config, 1, load)["weights"]
    num_linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert rows[2].num_quantized == num_linear and rows[0].num_quantized == 0
    assert sizes["none"] - sizes["int8"] == num_linear
    assert sizes["none"] - sizes["nf4"] == pytest.approx(num_linear * (2 - BYTES_OF["nf4"]))
