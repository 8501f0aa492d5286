"""Adapters and quantized weights through `chat` and `train`: applied, or refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.test_odd_checkpoints import (  # noqa: F401 (a fixture)
    POCKET,
    WEIGHTS,
    Tensors,
    chat,
    chat_command,
    configure,
    edit,
    refusal,
    sources,
)
from videochat_online.cli import main
from videochat_online.processing import load_model


@pytest.fixture(params=["own", "qwen3_vl"])
def adapter(request: pytest.FixtureRequest, sources: dict[str, Path], tmp_path: Path) -> tuple[Path, Path, Tensors]:  # noqa: F811
    """A model, an adapter of it in a folder of its own, and the weights that peft makes of both."""
    peft = pytest.importorskip("peft", reason="needs pip install 'videochat-online[train]'")
    base = sources[request.param]
    model, _ = load_model(base, device="cpu")
    torch.manual_seed(0)
    layers = r".*language_model.*(o_proj|down_proj)"
    settings = peft.LoraConfig(r=4, lora_alpha=16, target_modules=layers, use_dora=request.param == "own")
    network = peft.get_peft_model(getattr(model, "held", model), settings)
    for name, weight in network.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 5)
    settings.base_model_name_or_path = "pocket" if request.param == "own" else str(base)
    network.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    return base, tmp_path / "adapter", dict(network.merge_and_unload().state_dict())


def weights_of(model: Any) -> Tensors:
    return dict(getattr(model, "held", model).state_dict())


def test_an_adapter_asked_for_is_merged(adapter: tuple[Path, Path, Tensors], tmp_path: Path, capfd):
    base, folder, want = adapter
    for name, chosen in ((base, folder), (folder, None)):
        model, processor = load_model(name, device="cpu", adapter=chosen)
        torch.testing.assert_close(weights_of(model), want, rtol=0, atol=1e-5)
        assert len(processor.tokenizer) > 1000
    capfd.readouterr()
    plain, merged, named = (
        chat(*each) for each in ((base, capfd), (base, capfd, "--lora", str(folder)), (folder, capfd))
    )
    assert merged == named != plain
    assert main(["info", str(folder), "--json"]) == 0
    of_adapter = json.loads(capfd.readouterr().out)
    assert main(["info", str(base), "--json"]) == 0
    assert of_adapter["parameters"] == json.loads(capfd.readouterr().out)["parameters"]


def test_an_adapter_that_lies_in_a_models_folder_is_not_applied(
    adapter: tuple[Path, Path, Tensors], tmp_path: Path, capsys, caplog
):
    base, folder, want = adapter
    both = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(folder, both, dirs_exist_ok=True)
    assert chat(both, capsys) == chat(base, capsys)
    assert "also holds an adapter, which is not applied: --lora" in caplog.text
    model, _ = load_model(both, device="cpu", adapter=both)
    torch.testing.assert_close(weights_of(model), want, rtol=0, atol=1e-5)


def test_an_adapter_that_is_not_whole_is_one_line(adapter: tuple[Path, Path, Tensors], tmp_path: Path, capfd):
    base, folder, _ = adapter
    settings = json.loads((folder / "adapter_config.json").read_text())
    file = folder / "adapter_model.safetensors"
    capfd.readouterr()

    def told(**values: Any) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **values}))

    def said(*command: str) -> str:
        return refusal(chat_command(*command), capfd)

    told(target_modules=["no_such_layer"])
    assert "does not fit this model: Target modules" in said(base, "--lora", str(folder))
    told(r=3)
    assert "does not fit this model: " in said(base, "--lora", str(folder))
    told(peft_type="NEW")
    assert "does not fit this model: " in said(base, "--lora", str(folder))
    told(base_model_name_or_path=None)
    assert "does not name its model: give that with --model" in said(folder)
    told(base_model_name_or_path=str(tmp_path / "gone"))
    assert "is an adapter of the model" in (line := said(folder)) and "which is not there" in line
    told(base_model_name_or_path=str(folder))
    assert "which is an adapter itself" in said(folder)
    told()
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    assert "1 of its tensors are missing" in said(folder)
    save_file({name: torch.full_like(one, float("nan")) for name, one in tensors.items()}, file)
    assert "no finite numbers" in said(folder)
    file.write_bytes(file.read_bytes()[:500])
    assert "does not fit this model: " in said(folder)
    file.unlink()
    assert "holds no adapter_model.safetensors" in said(folder)
    assert "there is no adapter_config.json in" in said(base, "--lora", str(base))


# ---- fewer bits, several devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, layer", [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_the_language_model_alone_is_quantized(kind: str, layer: str, adapter: tuple[Path, Path, Tensors], capfd):
    pytest.importorskip("bitsandbytes", reason="needs pip install 'videochat-online[quantize]'")
    base, _, _ = adapter
    if kind == "nf4" and base != POCKET:  # its width of 96 is no multiple of 64
        assert "nf4 on the CPU needs widths that 64 divides" in refusal(chat_command(base, "--quantize", kind), capfd)
        return
    model, _ = load_model(base, device="cpu", quantize=kind)
    linear = {
        name: type(one).__name__
        for name, one in getattr(model, "held", model).named_modules()
        if "Linear" in type(one).__name__
    }
    small = {name for name, found in linear.items() if found == layer}
    assert small == {name for name in linear if "language_model" in name and "layers" in name}
    assert len(small) < len(linear)
    capfd.readouterr()
    assert isinstance(chat(base, capfd, "--quantize", kind), str)


@pytest.mark.parametrize("flags", [["--lora", "x"], ["--quantize", "int8"], ["--device-map", "auto"]])
def test_another_programs_model_takes_no_such_flags(flags: list[str], tmp_path: Path, capfd):
    command = ["eval", "ovbench", "--annotations", str(tmp_path), "--videos", str(tmp_path), "--output", str(tmp_path)]
    line = refusal([*command, "--adapter", "transformers", "--model", "a/b", *flags], capfd)
    assert "do not go with --adapter transformers" in line


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantized_on_a_gpu(kind: str, capsys):
    """Written without one: not measured yet."""
    model, _ = load_model("pocket", device="cuda", quantize=kind)
    assert model.device.type == "cuda"
    assert chat("pocket", capsys, "--device", "cuda", "--quantize", kind)


def test_an_adapter_stands_beside_quantized_weights(adapter: tuple[Path, Path, Tensors], capfd):
    pytest.importorskip("bitsandbytes", reason="needs pip install 'videochat-online[quantize]'")
    base, folder, _ = adapter
    if base == POCKET:  # with DoRA
        assert "DoRA beside weights of 8 bits" in refusal(chat_command(folder, "--quantize", "int8"), capfd)
        return
    model, _ = load_model(folder, device="cpu", quantize="int8")
    assert any("lora_A" in name for name, _ in model.held.named_parameters())
    assert chat(folder, capfd, "--quantize", "int8")


def test_one_adapter_is_applied_and_never_silently_another(
    adapter: tuple[Path, Path, Tensors], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    base, folder, _ = adapter
    other = shutil.copytree(folder, tmp_path / "other")
    capfd.readouterr()
    assert "an adapter, and --lora" in refusal(chat_command(folder, "--lora", str(other)), capfd)
    assert chat(folder, capfd, "--lora", str(folder)) == chat(folder, capfd)
    with pytest.raises(SystemExit):
        main(chat_command(base, "--lora", str(folder), "--lora", str(other)))
    assert "--lora may be given only once" in capfd.readouterr().err


def test_an_adapter_is_no_model_for_an_engine(adapter: tuple[Path, Path, Tensors], tmp_path: Path, capfd):
    """Its export would be taken for that of the model alone: the engine's name for it is that of the base's weights."""
    _, folder, _ = adapter
    capfd.readouterr()
    assert "is an adapter: an engine runs a model's own weights" in refusal(
        ["export-llm", str(folder), str(tmp_path / "llm")], capfd
    )
    assert not (tmp_path / "llm").exists()


def test_training_on_an_adapter_gives_a_whole_model(adapter: tuple[Path, Path, Tensors], tmp_path: Path, capsys):
    """An adapter of it would name it as its model, which no command loads, or be applied without the first."""
    _, folder, _ = adapter
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "It."}]
    (tmp_path / "rows.json").write_text(json.dumps([{"video": "sample.mp4", "conversations": turns}]))
    (tmp_path / "list.json").write_text(
        json.dumps({"x": {"annotation": str(tmp_path / "rows.json"), "data_root": str(POCKET)}})
    )
    flags = ["--preset", "finetune", "--data", str(tmp_path / "list.json"), "--model", str(folder), "--cpu"]
    command = ["train", *flags, "--output-dir", str(tmp_path / "run"), "--num-frames", "2", "--max-steps", "2"]
    assert main([*command, "--check", "--export", "adapter"]) == 1
    assert "is an adapter itself" in capsys.readouterr().out
    assert main([*command, "--check"]) == 0
