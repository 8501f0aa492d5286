"""InternViT against recorded values, and what must hold whatever the weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from videochat_online.model.vision_encoder import InternVisionModel, drop_path, pixel_shuffle, resize_position_embedding
from videochat_online.model_config import VisionConfig

VARIANTS = ("layer_norm_qk0_bias1", "rms_norm_qk1_bias0")


def assert_near(got: torch.Tensor, want: torch.Tensor) -> None:
    """The recorded values' tolerance: 1e-4, absolutely of the largest value."""
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, tuple[InternVisionModel, dict[str, torch.Tensor]]]:
    """variant -> model, recorded outputs."""
    models = {}
    for entry in json.loads((golden / "vit/meta.json").read_text("utf-8")):
        model = InternVisionModel(VisionConfig(**entry["config"])).eval()
        model.load_state_dict(load_file(golden / f"vit/{entry['name']}.weights.safetensors"))
        models[entry["name"]] = (model, load_file(golden / f"vit/{entry['name']}.outputs.safetensors"))
    return models


@pytest.mark.parametrize("size", ["native", "big84", "rect56x84", "small28"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_recorded_pictures_of_all_sizes(golden: Path, recorded: Any, variant: str, size: str):
    model, outputs = recorded[variant]
    pixel_values = load_file(golden / "vit/inputs.safetensors")[size]
    got = model(pixel_values)
    assert_near(got, outputs[f"{size}/last_hidden_state"])
    assert_near(got[:, 0], outputs[f"{size}/pooler_output"])
    for number in range(4):
        assert_near(model(pixel_values, select_layer=number), outputs[f"{size}/hidden_states.{number}"])


@pytest.mark.parametrize("side", [84, 28, 112])
@torch.no_grad()
def test_recorded_position_embeddings_of_other_sizes(recorded: Any, side: int):
    model, outputs = recorded["layer_norm_qk0_bias1"]
    prefix = f"resize_pos_embeddings/56to{side}"
    table = resize_position_embedding(model.embeddings.position_embedding, side // 14, side // 14)
    assert_near(table, outputs[f"{prefix}/position_embedding"])
    assert_near(model(outputs[f"{prefix}/pixel_values"]), outputs[f"{prefix}/last_hidden_state"])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_fused_and_written_out_attention_agree(golden: Path, recorded: Any, variant: str):
    model, outputs = recorded[variant]
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    try:
        got = model(load_file(golden / "vit/inputs.safetensors")["native"])
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(got, outputs["native/last_hidden_state"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_select_layer_counts_the_embeddings_and_skips_what_is_above(golden: Path, recorded: Any):
    model, outputs = recorded["layer_norm_qk0_bias1"]
    pixel_values = load_file(golden / "vit/inputs.safetensors")["native"]
    calls: list[int] = []
    hook = model.encoder.layers[2].register_forward_hook(lambda *_: calls.append(1))
    try:
        for select_layer, number in ((-1, 3), (-2, 2), (1, 1), (0, 0)):
            got = model(pixel_values, select_layer=select_layer)
            assert_near(got, outputs[f"native/hidden_states.{number}"])
        assert len(calls) == 1
    finally:
        hook.remove()


@pytest.mark.parametrize("shape", [(1, 3, 17, 16), (1, 3, 16, 18), (3, 16, 16)])
def test_pictures_that_do_not_divide_into_patches_are_refused(make_model: Any, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"multiples of 4, got \("):
        make_model().vision_model(torch.zeros(shape))


def test_first_weights_follow_the_config(make_model: Any):
    model = make_model(vision={"initializer_range": 0.01, "hidden_size": 64}).vision_model
    assert bool((model.encoder.layers[1].ls2 == 0.5).all())
    for parameter in (model.embeddings.position_embedding, model.encoder.layers[0].mlp.fc1.weight):
        assert float(parameter.detach().std()) == pytest.approx(0.01, rel=0.15)
    assert bool((model.encoder.layers[0].norm1.weight == 1).all())


def test_drop_path_drops_whole_pictures_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    assert drop_path(x, 0.25, training=False) is x
    dropped = drop_path(x, 0.25, training=True)
    assert sorted(set(dropped.flatten().tolist())) == [0.0, pytest.approx(1 / 0.75)]
    assert bool((dropped == dropped[:, :1, :1]).all())
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)


def test_drop_path_rate_grows_with_depth_and_acts_only_in_training(make_config: Any):
    model = InternVisionModel(make_config(vision={"drop_path_rate": 0.2, "num_hidden_layers": 3}).vision_config)
    assert [layer.drop_path_rate for layer in model.encoder.layers] == pytest.approx([0.0, 0.1, 0.2])
    pixel_values = torch.randn(8, 3, 16, 16)
    assert torch.equal(model.eval()(pixel_values)[0], model(pixel_values)[0])
    assert not torch.equal(model.train()(pixel_values)[0], model(pixel_values)[0])


def test_gradient_checkpointing_gives_the_same_gradients(make_model: Any, checkpoint_gradients: Any):
    model = make_model().vision_model.train()
    pixel_values = torch.randn(2, 3, 16, 16)
    gradients = []
    for enable in (False, True):
        if enable:
            checkpoint_gradients(model)
        assert all(layer.gradient_checkpointing is enable for layer in model.encoder.layers)
        model.zero_grad()
        model(pixel_values).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.gpu
def test_flash_attention_agrees_with_sdpa(make_config: Any):
    pytest.importorskip("flash_attn", reason="needs flash-attn (pip install 'videochat-online[flash]')")
    config = make_config(vision={"hidden_size": 64}).vision_config
    model = InternVisionModel(config).eval().to("cuda", torch.bfloat16)
    pixel_values = torch.randn(2, 3, 16, 16, device="cuda", dtype=torch.bfloat16)
    want = model(pixel_values)
    model.set_attn_implementation("flash_attention_2")
    torch.testing.assert_close(model(pixel_values), want, rtol=2e-2, atol=2e-2)


def test_half_precision_keeps_its_dtype(make_model: Any):
    model = make_model(vision={"norm_type": "rms_norm", "qk_normalization": True}).vision_model
    for dtype in (torch.bfloat16, torch.float16):
        state = model.to(dtype)(torch.randn(1, 3, 20, 16).to(dtype))
        assert state.dtype == dtype and state.shape == (1, 21, 16)


def test_parameter_names_without_bias_and_with_normalised_queries(make_config: Any):
    config = make_config(vision={"qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"}).vision_config
    names = {name for name, _ in InternVisionModel(config).encoder.layers[0].named_parameters()}
    assert "attn.qkv.bias" not in names
    assert {"attn.q_norm.weight", "attn.k_norm.weight", "norm1.weight"} <= names
    assert not any(isinstance(module, nn.LayerNorm) for module in InternVisionModel(config).modules())


SHUFFLES = ("sq4", "sq8b2", "rect_w4_h6", "quarter", "full32", "one")


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("case", SHUFFLES)
def test_recorded_shuffles(golden: Path, case: str, version: str):
    with np.load(golden / "pixel_shuffle.npz") as arrays:
        assert {name.split("/")[0] for name in arrays.files} == set(SHUFFLES)
        given, scale, want = (torch.from_numpy(arrays[f"{case}/{part}"]) for part in ("in", "scale", version))
    assert torch.equal(pixel_shuffle(given, float(scale), version), want)


def test_wrong_maps_and_versions_are_refused():
    with pytest.raises(ValueError, match="5x4 map does not divide into blocks of 2x2"):
        pixel_shuffle(torch.zeros(1, 5, 4, 2))
    with pytest.raises(ValueError, match="unknown pixel shuffle 'v3', expected v1 or v2"):
        pixel_shuffle(torch.zeros(1, 4, 4, 2), version="v3")
