"""LoRA pairs merge into the public layout exactly; the exported folder loads and answers as the trained model does."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_loop, packed, settings, tiny_model
from tests.training.world import CLIP, save_small_model, write_online_list
from videochat_online.processing import load_model
from videochat_online.training.commands import main
from videochat_online.training.export import export
from videochat_online.training.parts import merge_lora, part_rows

pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")

LORA = {"vision": "lora:4", "llm": "lora:8:8"}


def trained(folder: Path, **changes):
    loop = make_loop(folder, count=8, max_steps=2, **changes)
    loop.train()
    return loop


def test_only_pairs_and_connector_train(tmp_path: Path):
    loop = make_loop(tmp_path, **LORA)
    names = {name for name, weight in loop.state.model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or name.startswith("mlp1.") for name in names)
    layers = {name.split(".lora_")[0] for name in names if ".lora_" in name}
    vision = {
        f"vision_model.encoder.layers.{n}.{part}"
        for n in (0, 1)
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    assert {name for name in layers if name.startswith("vision_model")} == vision
    assert len([name for name in layers if name.startswith("language_model.model.layers")]) == 2 * 7
    rows = part_rows(loop.state.model, settings(tmp_path, **LORA))
    rank_8 = 2 * 8 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    assert [(row.name, row.num_trained) for row in rows][2] == ("language_model", rank_8)


def test_alpha_is_twice_the_rank_or_what_was_asked_for():
    assert settings("run", llm="lora:16").part("llm") == ("lora", [16, 32])
    assert settings("run", vision="lora:16:24").part("vision") == ("lora", [16, 24])


VARIANTS = [{"lora_variant": one, **LORA} for one in ("rslora", "dora")]


@pytest.mark.parametrize("changes", [LORA, {"llm": "lora:4"}, {"vision": "lora:2:3", "llm": "full"}, {}, *VARIANTS])
def test_merged_weights_give_the_same_logits(tmp_path: Path, changes: dict[str, str]):
    loop = trained(tmp_path, **changes)
    plain = tiny_model(seed=5)
    plain.load_state_dict(merge_lora(loop.state.model.state_dict(), settings(tmp_path, **changes)), strict=True)
    batch = packed([loop.dataset[i] for i in range(3)])
    logits, expected = (model.eval()(**batch, use_cache=False).logits for model in (plain, loop.state.model))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    start = tiny_model().eval()(**batch, use_cache=False).logits
    assert not torch.allclose(start, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_writes_the_public_layout(tmp_path: Path, dtype: str):
    from safetensors.torch import load_file

    loop = trained(tmp_path, **LORA)
    folder = export(loop.state, settings(tmp_path, export_dtype=dtype, **LORA))
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == tiny_model().state_dict().keys()
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, dtype)}
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == dtype
    assert not list(tmp_path.glob(".saving*"))


def test_resumed_lora_goes_on_with_its_pairs(tmp_path: Path):
    changes = {**LORA, "resume": "auto", "save_every": 2, "schedule": "constant_with_warmup"}
    for folder, lives in ((tmp_path / "once", [4]), (tmp_path / "twice", [2, 4])):
        for last_step in lives:
            loop = make_loop(folder, count=16, max_steps=last_step, **changes)
            loop.train()
    states = [torch.load(tmp_path / name / "checkpoint-4" / "optimizer.pt") for name in ("once", "twice")]
    for key, state in states[0]["state"].items():
        torch.testing.assert_close(state["exp_avg"], states[1]["state"][key]["exp_avg"], atol=0, rtol=0)


def test_the_program_trains_on_files_and_its_model_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Lists, videos, LoRA, packing, tensorboard and export together, as a user runs them."""
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'videochat-online[train]'")
    from videochat_online.media.readers import open_video
    from videochat_online.streaming.session import StreamingSession

    flags = ["--model", str(save_small_model(tmp_path / "start")), "--data", str(write_online_list(tmp_path, 4))]
    flags += ["--output-dir", str(tmp_path / "run"), "--llm", "lora:4", "--vision", "last:1", "--batching", "packed"]
    flags += ["--max-length", "2048", "--global-batch-size", "2", "--max-steps", "2", "--log-every", "1"]
    assert main([*flags, "--cpu", "--num-workers", "1", "--learning-rate", "1e-2"]) == 0
    told = capfd.readouterr().out
    assert "language_model   lora:4" in told and f"the trained model is in {tmp_path / 'run' / 'model'}" in told
    assert list((tmp_path / "run" / "logs").glob("events.*"))
    model, processor = load_model(tmp_path / "run" / "model", device="cpu")
    assert model.config.note is None
    session = StreamingSession(model, processor)
    with open_video(CLIP / "sample.mp4") as video:
        for frame in video.read([0, 8, 16]):
            session.see(frame.image, frame.timestamp)
    assert isinstance(session.ask("What is number 1?", max_new_tokens=4), str)
    assert session.stats()["frames_seen"] == 3


INTERNLM2 = {
    "model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bias": False,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"llm": "lora:4"}])
def test_internlm2_resumes_and_is_exported_in_its_own_layout(tmp_path: Path, changes: dict[str, str]):
    """Its file has other names and one fused tensor for queries, keys and values."""
    from safetensors.torch import load_file

    from videochat_online.model.weights import load_pretrained

    for max_steps in (1, 2):
        common = {"resume": "auto", "schedule": "constant_with_warmup", **changes}
        model = tiny_model(llm_config=INTERNLM2)
        loop = make_loop(tmp_path, model=model, count=8, max_steps=max_steps, **common)
        assert loop.train()
    assert loop.state.step == 2
    folder = export(loop.state, loop.config)
    assert "language_model.model.layers.0.attention.wqkv.weight" in load_file(folder / "model.safetensors")
    batch = packed([loop.dataset[i] for i in range(3)])
    again, expected = (
        one.eval()(**batch, use_cache=False).logits for one in (load_pretrained(folder), loop.state.model)
    )
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("umask", [0o022, 0o007], ids=oct)
def test_all_files_of_a_run_get_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        flags = ["--model", str(save_small_model(tmp_path / "start")), "--data", str(write_online_list(tmp_path, 4))]
        flags += ["--output-dir", str(tmp_path / "run"), "--max-steps", "2", "--global-batch-size", "2", "--cpu"]
        assert main([*flags, "--num-workers", "0", "--learning-rate", "1e-2"]) == 0
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"settings.json", "optimizer.pt", "model.safetensors", "complete.json"} <= {path.name for path in files}
    wrong = {str(path) for path in files if stat.S_IMODE(path.stat().st_mode) != 0o666 & ~umask}
    assert not wrong
