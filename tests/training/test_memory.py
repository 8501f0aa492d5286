"""The memory estimate: its activation formula against what torch really keeps, its shares by ZeRO stage, its table."""

from __future__ import annotations

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.training.tiny import settings, tiny_config
from videochat_online.training.check import model_rows
from videochat_online.training.memory import Load, activations, estimate, largest_load, layer_bytes, memory_text
from videochat_online.training.parts import PartRow

ROWS = [PartRow("vision_model", "frozen", 300, 0), PartRow("rest", "full", 1000, 1000)]
SIZES = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4, "vocab_size": 100}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def bytes_kept(model: torch.nn.Module, num_tokens: int) -> int:
    """Bytes that the backward pass of a language model reads, without its weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(torch.randint(0, 100, (1, num_tokens)), use_cache=False).logits  # noqa: F841 (keeps the graph)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_class", "config_class", "kv_heads"), [(Phi3ForCausalLM, Phi3Config, 4), (Qwen2ForCausalLM, Qwen2Config, 2)]
)
def test_a_layer_keeps_what_the_formula_says(model_class, config_class, kv_heads: int, dtype: torch.dtype):
    """Within a fifth: kernels keep a few numbers a token more or less."""
    kept = []
    for num_layers in (1, 3):
        config = config_class(**SIZES, **MARKS, num_key_value_heads=kv_heads, num_hidden_layers=num_layers)
        kept.append(bytes_kept(model_class(config).to(dtype), 64))
    assert layer_bytes(config, dtype.itemsize) == pytest.approx((kept[1] - kept[0]) / 2 / 64, rel=0.2)


STAGES = {
    # strategy, processes, precision -> weights, gradients, optimizer; 1,300 weights, 1,000 of them trained
    "one": ("ddp", 1, "fp32", (4 * 1300, 4 * 1000, 8 * 1000)),
    "ddp": ("ddp", 4, "bf16", (4 * 1000 + 2 * 300, 8 * 1000, 8 * 1000)),
    "zero1": ("zero1", 4, "bf16", (2 * 1300, 6 * 1000, 3 * 1000)),
    "zero2": ("zero2", 4, "bf16", (2 * 1300, 1000, 3 * 1000)),
    "zero3": ("zero3", 4, "bf16", (650 + 2 * 1300, 1000, 3 * 1000)),  # all weights gathered: fewer than 1e9
    "fsdp": ("fsdp", 4, "bf16", (1300 + 2 * 1300, 1000, 2 * 1000)),
}


@pytest.mark.parametrize("name", STAGES)
def test_shares_by_stage(name: str):
    strategy, num_processes, precision, expected = STAGES[name]
    config = settings("run", strategy=strategy, precision=precision)
    memory = estimate(ROWS, tiny_config(), config, num_processes, Load(64, 1))
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == expected
    assert memory["casts"] == (2000 if name == "ddp" else 0)  # of what trains


def test_gradient_checkpointing_keeps_inputs_and_one_layer():
    few, many = (
        activations(tiny_config(), settings("run", precision="bf16", gradient_checkpointing=one), Load(1000, 0))
        for one in ("all", "none")
    )
    one, norm, inputs = layer_bytes(tiny_config().llm_config, 2) * 1000, 16 * 32 * 1000, 2 * 32 * 1000
    assert many == (2 * one + norm, 2 * one + norm)
    assert few == (2 * inputs + norm, 2 * inputs + norm + one)


def test_a_trained_encoder_keeps_its_layers_and_a_frozen_one_nothing():
    load = Load(0, 10)
    layer, in_use = (10 * 65 * 4 * (numbers * 16 + 2 * 32) for numbers in (12, 2))
    kept = {"frozen": (0, in_use), "last:1": (layer, layer), "full": (2 * layer, 2 * layer)}
    for vision, expected in kept.items():
        assert activations(tiny_config(), settings("run", vision=vision), load) == expected, vision
    frozen = activations(tiny_config(), settings("run"), Load(1000, 10))
    assert frozen[0] == frozen[1] > in_use  # the frozen encoder is done before the language model begins


def test_lora_keeps_a_copy_for_each_linear_layer():
    """Dropout gives each its own, with a mask of a byte; frozen layers keep nothing of it."""
    llm = tiny_config().llm_config
    frozen, full, lora = (layer_bytes(llm, 2, setting, 0.1) for setting in ("frozen", "full", "lora:8"))
    assert full - frozen == 2 * (2 * 32 + 48)
    assert lora - frozen == 3 * (6 * 32 + 48)  # q, k, v, o, gate, up; down
    assert layer_bytes(llm, 2, "lora:8", 0.0) == full


def test_the_largest_batch():
    config = settings("run", num_frames=8, batch_size=2, max_length=500)
    assert largest_load(tiny_config(), config, [30, 70, 20]) == Load(140, 16)
    assert largest_load(tiny_config(), config) == Load(1000, 16)
    config = settings("run", num_frames=8, batch_size=2, max_length=500, batching="packed")
    film = 16 + 4 + 6  # 8 frames at levels 0, 2, 2, 2, 1, 2, 2, 2 of 4x4 maps
    assert largest_load(tiny_config(), config, [30]) == Load(1000, 8 * 1000 // film)


def test_rows_of_a_model_that_is_never_made():
    pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")
    rows = model_rows(tiny_config(), settings("run", llm="lora:8"))
    assert [(row.name, row.num_trained > 0) for row in rows] == [
        ("vision_model", False),
        ("mlp1", True),
        ("language_model", True),
    ]
    assert rows[2].num_trained < rows[2].num_parameters / 2


def test_the_table_adds_up():
    config = settings("run", strategy="ddp")
    lines = memory_text(ROWS, tiny_config(), config, 1, Load(64, 1)).splitlines()
    assert "ddp, 1 process, fp32; a batch of 64 tokens and 1 picture)" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        "weights", "gradients", "optimizer", "casts", "activations", "logits", "reserve", "total",
    ]  # fmt: skip
    sizes = list(estimate(ROWS, tiny_config(), config, 1, Load(64, 1)).values())
    assert lines[-1].split()[1] == f"{sum(sizes) / 2**30:.2f}"
