"""`export-llm`: what vLLM loads is the language model itself, under a name that no other one has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.stand_in_engine import StandIn, running
from videochat_online.cli import main
from videochat_online.files import SHIPPED_MODELS
from videochat_online.model.engine import Engine, EngineError, VideoChatAtEngine, served_name
from videochat_online.model.videochat import VideoChatOnline
from videochat_online.model_config import VideoChatOnlineConfig

POCKET = SHIPPED_MODELS["pocket"]
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4,
    "image_size": 16,
}  # fmt: skip
LLM = {
    "vocab_size": 2816, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 3.0, 6.0, 9.0]}
KINDS = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "llama": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "internlm2": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3": {"num_key_value_heads": 4, "original_max_position_embeddings": 32, "rope_scaling": LONGROPE},
}


@pytest.fixture
def checkpoint(tmp_path: Path):
    """checkpoint("qwen2") -> its folder, with pocket's tokenizer."""

    def make(kind: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / kind
        config = VideoChatOnlineConfig(
            vision_config=VISION, llm_config={"model_type": kind, **LLM, **KINDS[kind]}, dtype="bfloat16"
        )
        VideoChatOnline(config).to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
        for file in POCKET.glob("tokenizer*"):
            shutil.copy(file, folder)
        return folder

    return make


def test_pocket_as_vllm_loads_it(tmp_path: Path, capsys):
    folder = tmp_path / "deep" / "pocket-llm"
    assert main(["export-llm", "pocket", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"--model {folder}" in said and f"--served-model-name {served_name(POCKET)}" in said
    assert "--enable-prompt-embeds" in said and "--max-model-len 4096" in said
    ours = load_file(POCKET / "model.safetensors")
    theirs = load_file(folder / "model.safetensors")
    assert theirs.keys() == {key.removeprefix("language_model.") for key in ours if key.startswith("language_model.")}
    assert all(torch.equal(ours[f"language_model.{key}"], value) for key, value in theirs.items())
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Phi3ForCausalLM"]
    ids = [AutoTokenizer.from_pretrained(one)("a red circle")["input_ids"] for one in (folder, POCKET)]
    assert ids[0] == ids[1]
    assert [path.name for path in folder.parent.iterdir()] == ["pocket-llm"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_language_model_computes_the_same(kind, checkpoint, tmp_path: Path, capsys):
    """In its own dtype, through transformers' own class, up to the length that is printed."""
    folder = checkpoint(kind)
    assert main(["export-llm", str(folder), str(tmp_path / "llm")]) == 0
    most = {"phi3": 32, "llama": 128}.get(kind, 64)
    assert f"--max-model-len {most} " in capsys.readouterr().out
    config = json.loads((tmp_path / "llm/config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["model_type"] == kind.replace("internlm2", "llama")
    ours = VideoChatOnline.from_pretrained(folder, dtype=torch.float32).eval().language_model
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", dtype=torch.float32).eval()
    ids = torch.randint(0, 2816, (1, most), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    # and the session's side has the same word embeddings
    here = VideoChatAtEngine.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(here.get_input_embeddings().weight, ours.get_input_embeddings().weight)
    assert len(here.language_model.model.layers) == 0


def test_the_name_changes_with_any_weight_and_with_the_config(checkpoint, tmp_path: Path):
    folder = checkpoint("qwen2")
    names = {served_name(folder)}
    tensors = load_file(folder / "model.safetensors")
    for key in ("language_model.model.layers.1.mlp.up_proj.weight", "language_model.model.norm.weight"):
        changed = {name: value + 0.5 if name == key else value for name, value in tensors.items()}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        names.add(served_name(folder))
    vision = {name: value * 2 if name.startswith("vision") else value for name, value in tensors.items()}
    save_file(vision, folder / "model.safetensors", metadata={"format": "pt"})
    names.add(served_name(folder))  # another encoder alone is no other language model
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"]["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))
    assert len(names | {served_name(folder)}) == 4


def test_factors_that_vllm_would_take_for_all_lengths_are_refused():
    config = VideoChatOnlineConfig(vision_config=VISION, llm_config={"model_type": "phi3", **LLM, **KINDS["phi3"]})
    plain = VideoChatOnlineConfig(vision_config=VISION, llm_config={"model_type": "qwen2", **LLM})
    with running(StandIn(None, name="it", positions=64)) as server:
        with pytest.raises(EngineError, match="--max-model-len 32"):
            Engine(server.address).connect("it", config.llm_config)
        assert Engine(server.address).connect("it", plain.llm_config) == 64


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_another_family_is_refused(family, tmp_path: Path, capsys):
    assert main(["tiny-model", family, str(tmp_path / "tiny")]) == 0
    capsys.readouterr()
    assert main(["export-llm", str(tmp_path / "tiny"), str(tmp_path / "llm")]) == 2
    assert "an engine runs models of type 'internvl_chat'" in capsys.readouterr().err
    clip = str(POCKET / "sample.mp4")
    assert main(["chat", clip, "-q", "What?", "--model", str(tmp_path / "tiny"), "--engine", "vllm"]) == 2
    assert "an engine runs models of type 'internvl_chat'" in capsys.readouterr().err
    assert not (tmp_path / "llm").exists()


def test_a_folder_that_is_there_stays(tmp_path: Path, capsys):
    (tmp_path / "llm").mkdir()
    assert main(["export-llm", "pocket", str(tmp_path / "llm")]) == 2
    assert "is there already" in capsys.readouterr().err and not list((tmp_path / "llm").iterdir())
    (tmp_path / "file").write_text("")
    assert main(["export-llm", "pocket", str(tmp_path / "file" / "llm")]) == 2
    assert main(["export-llm", "poket", str(tmp_path / "other")]) == 2
    assert "did you mean 'pocket'" in capsys.readouterr().err
