"""Where most is frozen: checkpoints of trained weights, tied to the model they belong to; adapters that peft reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import make_loop, packed, settings, tiny_model
from videochat_online.model.weights import load_pretrained
from videochat_online.training.commands import main
from videochat_online.training.configuration import TrainingConfig
from videochat_online.training.export import export
from videochat_online.training.log import read_log

pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")

LORA = {"vision": "lora:4", "llm": "lora:8:8"}


def train(folder: Path, **changes: Any) -> Any:
    loop = make_loop(folder, **{"count": 16, "max_steps": 4, "schedule": "constant_with_warmup", **changes})
    loop.train()
    return loop


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_checkpoint_holds_what_trains_and_whose_it_is(tmp_path: Path):
    from safetensors.torch import load_file

    loop = train(tmp_path / "run", **LORA)
    folder = tmp_path / "run" / "checkpoint-4"
    names = {"base.json", "trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "complete.json"}
    assert {path.name for path in folder.iterdir()} == names
    trained = {name: one for name, one in loop.state.model.named_parameters() if one.requires_grad}
    written = load_file(folder / "trained.safetensors")
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], one) for name, one in trained.items())
    assert json.loads((folder / "base.json").read_text())["model"] == TrainingConfig().model
    train(tmp_path / "whole", checkpoint_weights="all", **LORA)
    assert size(tmp_path / "whole" / "checkpoint-4") > 1.5 * size(folder)


def test_half_or_more_of_the_model_is_a_whole_checkpoint(tmp_path: Path):
    train(tmp_path / "auto")  # the whole language model trains
    assert (tmp_path / "auto" / "checkpoint-4" / "model.safetensors").is_file()
    train(tmp_path / "asked", checkpoint_weights="trained")
    assert (tmp_path / "asked" / "checkpoint-4" / "trained.safetensors").is_file()


KINDS = {
    "pairs": LORA,
    "bf16": {"precision": "bf16", **LORA},
    "connector": {"llm": "frozen"},
    "last layer": {"llm": "frozen", "vision": "last:1"},
    "dora": {"lora_variant": "dora", **LORA},
}


@pytest.mark.parametrize("name", KINDS)
def test_resumed_it_goes_on_as_uninterrupted(tmp_path: Path, name: str):
    changes = {"checkpoint_weights": "trained", "save_every": 2, "resume": "auto", **KINDS[name]}
    train(tmp_path / "once", **changes)
    for last in (2, 4):
        loop = train(tmp_path / "twice", max_steps=last, **changes)
    assert losses(tmp_path / "twice") == losses(tmp_path / "once")
    again = train(tmp_path / "twice", **changes)  # had ended: only loaded
    for key, weight in again.state.model.state_dict().items():
        assert torch.equal(weight, loop.state.model.state_dict()[key]), key


def test_one_life_may_write_all_and_the_next_trained_weights(tmp_path: Path):
    train(tmp_path / "once", resume="auto", **LORA)
    for last, kind in ((2, "all"), (3, "trained"), (4, "all")):
        train(tmp_path / "run", max_steps=last, checkpoint_weights=kind, resume="auto", **LORA)
    assert losses(tmp_path / "run") == losses(tmp_path / "once")


def test_another_model_is_refused(tmp_path: Path):
    train(tmp_path, max_steps=2, save_every=2, **LORA)
    with pytest.raises(ValueError, match=r"checkpoint-2 holds trained weights alone, which belong to --model OpenGV"):
        train(tmp_path, model=tiny_model(seed=1), resume="auto", **LORA)
    with pytest.raises(ValueError, match=r"mlp1\.0\.weight is unknown.*--connector"):
        make_loop(tmp_path, count=16, connector="frozen", **LORA).state.load_weights(tmp_path / "checkpoint-2")


ADAPTERS = {
    "llm": {"llm": "lora:4"},
    "both": {"vision": "lora:4", "llm": "lora:8:8"},
    "no connector": {"llm": "lora:4:3", "connector": "frozen"},
    "rslora": {"llm": "lora:4", "lora_variant": "rslora"},
    "dora": {"vision": "lora:4", "llm": "lora:8:8", "lora_variant": "dora"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_reads_an_exported_adapter(tmp_path: Path, name: str):
    """Laid over the base model by peft, then merged by it: the trained model's logits both times."""
    from peft import PeftModel

    loop = train(tmp_path, max_steps=2, **ADAPTERS[name])
    folder = export(loop.state, settings(tmp_path, export="adapter", model="some/base", **ADAPTERS[name]))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    batch = packed([loop.dataset[i] for i in range(3)])
    expected = loop.state.model.eval()(**batch, use_cache=False).logits
    start = tiny_model().eval()
    assert not torch.allclose(start(**batch, use_cache=False).logits, expected, atol=1e-3)
    laid_over = PeftModel.from_pretrained(start, str(folder)).eval()
    torch.testing.assert_close(laid_over(**batch, use_cache=False).logits, expected, atol=1e-5, rtol=1e-5)
    merged = laid_over.merge_and_unload()
    torch.testing.assert_close(merged(**batch, use_cache=False).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_program_exports_an_adapter(tmp_path: Path):
    """From files to files; the merged model of the same run answers alike."""
    from peft import PeftModel

    from tests.training.world import save_small_model, write_online_list

    base = save_small_model(tmp_path / "start")
    flags = ["--model", str(base), "--data", str(write_online_list(tmp_path, 4)), "--llm", "lora:4", "--cpu"]
    flags += ["--max-steps", "2", "--global-batch-size", "2", "--num-workers", "0", "--learning-rate", "1e-2"]
    flags += ["--tracker", "none", "--output-dir", str(tmp_path / "run"), "--max-length", "2048", "--resume", "auto"]
    assert main([*flags, "--export", "adapter"]) == 0
    model = PeftModel.from_pretrained(load_pretrained(base), str(tmp_path / "run" / "model")).merge_and_unload()
    named = load_pretrained(tmp_path / "run" / "model").state_dict()  # the adapter, which names its base
    assert main(flags) == 0  # resumed after its end, with the other export
    whole = load_pretrained(tmp_path / "run" / "model").state_dict()
    for key, weight in model.state_dict().items():
        torch.testing.assert_close(weight, whole[key], msg=key)
        torch.testing.assert_close(named[key], whole[key], msg=key)
