"""Checkpoints in and out: published names and shapes both ways, and one clear error for each that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel

from videochat_online.model.backbones.families import PICTURE_SETTINGS
from videochat_online.model.videochat import CheckpointError, VideoChatOnline
from videochat_online.model.weights import choose_device, choose_dtype, find_checkpoint, load_facts, load_pretrained
from videochat_online.model_config import VideoChatOnlineConfig

KINDS = ("phi3", "qwen2", "qwen3", "llama", "internlm2")


@pytest.fixture
def checkpoint(make_model: Any, tmp_path: Path) -> Path:
    """A saved Qwen2 model."""
    make_model("qwen2").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(got: PreTrainedModel, want: PreTrainedModel) -> None:
    torch.testing.assert_close(state(got), state(want), rtol=0, atol=0)


def test_full_size_names_and_shapes(golden: Path):
    """All 541 of VideoChat-Online 4B, on the meta device: ours are theirs, none more and none less."""
    published = json.loads((golden / "fullsize_keys.json").read_text("utf-8"))
    parts = published["config"]
    config = VideoChatOnlineConfig(vision_config=parts["vision"], llm_config=parts["llm"])
    with torch.device("meta"):
        model = VideoChatOnline(config)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == published["keys"]
    assert len(published["keys"]) == published["n_keys"] == 541
    assert sum(parameter.numel() for parameter in model.parameters()) == published["total_params"]
    assert config.grid**2 == published["num_image_token"]


@pytest.mark.parametrize("name", ["phi3", "qwen2"])
def test_what_we_save_has_the_recorded_names(golden: Path, recorded_model: Any, tmp_path: Path, name: str):
    recorded_model(name).save_pretrained(tmp_path)
    recorded = load_file(golden / f"model_{name}/weights.safetensors")
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), recorded, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_again(make_model: Any, tmp_path: Path, kind: str):
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path, device="cpu")
    assert not again.training
    assert_same(again, model)
    assert again.config.llm_config.model_type == kind
    assert type(AutoModel.from_pretrained(tmp_path)) is VideoChatOnline


def test_sharded_checkpoints(make_model: Any, tmp_path: Path):
    model = make_model("phi3")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*-of-*.safetensors"))
    assert len(shards) > 3
    assert_same(load_pretrained(tmp_path, device="cpu"), model)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"lacks 1 of {len(shards)} weight files: {shards[1].name}"):
        load_pretrained(tmp_path, device="cpu")


def test_internlm2_is_saved_as_it_was_published(golden: Path, make_model: Any, tmp_path: Path):
    """The recorded language model inside a whole checkpoint, read and written under InternLM2's own names."""
    config = json.loads((golden / "internlm2/config.json").read_text("utf-8"))
    recorded = load_file(golden / "internlm2/weights.safetensors")
    model = make_model("internlm2", llm=config)
    model.save_pretrained(tmp_path / "a")
    edit(tmp_path / "a", lambda tensors: tensors.update({f"language_model.{k}": v for k, v in recorded.items()}))

    loaded = load_pretrained(tmp_path / "a", device="cpu")
    got = loaded.language_model(load_file(golden / "internlm2/forward.safetensors")["input_ids"]).logits
    want = load_file(golden / "internlm2/forward.safetensors")["logits"]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))

    loaded.save_pretrained(tmp_path / "b")
    torch.testing.assert_close(*(load_file(tmp_path / f"{name}/model.safetensors") for name in "ab"), rtol=0, atol=0)
    saved = json.loads((tmp_path / "b/config.json").read_text("utf-8"))["llm_config"]
    assert {key: saved[key] for key in config} == config


def test_internlm2_with_a_wrong_fused_tensor(make_model: Any, tmp_path: Path):
    make_model("internlm2").save_pretrained(tmp_path)
    name = "language_model.model.layers.0.attention.wqkv.weight"
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(63, 32)}))
    with pytest.raises(CheckpointError, match=r"layers.0.self_attn.q_proj.weight \(63, 32\), expected \(32, 32\)"):
        load_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("both_saved", [False, True])
def test_tied_embeddings(make_model: Any, tmp_path: Path, both_saved: bool):
    """Checkpoints of tied models come with the output layer and without it."""
    model = make_model("qwen2", llm={"tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    head, words = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    assert head not in load_file(tmp_path / "model.safetensors")
    if both_saved:
        edit(tmp_path, lambda tensors: tensors.update({head: tensors[words].clone()}))
    again = load_pretrained(tmp_path, device="cpu")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert_same(again, model)


def test_everything_that_does_not_fit_is_in_one_error(checkpoint: Path):
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["mlp1.1.bias"], tensors["vision_model.encoder.layers.0.ls1"]
        tensors["mlp1.3.weight"] = torch.zeros(32, 31)
        tensors["language_model.model.norm.weight"] = torch.zeros(33)
        tensors["vision_model.head.weight"] = torch.zeros(1)

    edit(checkpoint, damage)
    for load in (load_pretrained, VideoChatOnline.from_pretrained):
        with pytest.raises(CheckpointError) as caught:
            load(checkpoint)
        message = str(caught.value)
        assert str(checkpoint) in message
        assert "2 missing (mlp1.1.bias, vision_model.encoder.layers.0.ls1)" in message
        assert "1 unexpected (vision_model.head.weight)" in message
        assert "2 of the wrong shape (language_model.model.norm.weight (33,), expected (32,), mlp1.3.weight" in message
        assert "mlp1.3.weight (32, 31), expected (32, 32)" in message


def test_pickled_weights_only_when_asked_for(checkpoint: Path, tmp_path: Path):
    want = VideoChatOnline.from_pretrained(checkpoint)
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model.bin\), which can run code"):
        load_pretrained(checkpoint)
    assert_same(load_pretrained(checkpoint, device="cpu", allow_pickle=True), want)


class Payload:
    """What a malicious pickle does: call something while it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_code_in_pickled_weights_does_not_run(checkpoint: Path, tmp_path: Path):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"mlp1.1.bias": Payload(tmp_path / "ran")}, checkpoint / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_pretrained(checkpoint, device="cpu", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_safetensors_win_over_pickles(checkpoint: Path, tmp_path: Path):
    torch.save({"mlp1.1.bias": Payload(tmp_path / "ran")}, checkpoint / "pytorch_model.bin")
    load_pretrained(checkpoint, device="cpu", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_name_that_leads_nowhere(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no model '.*nowhere': /.* is not a folder, and a hub id has the form"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no model 'no-one/nothing': .* is not a folder, and the hub \(or its"):
        load_pretrained("no-one/nothing")  # tests run offline


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "config.json").unlink(), "holds no config.json"),
        (lambda at: (at / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda at: (at / "config.json").write_text("[]"), "config.json holds a list, expected a JSON object"),
        (lambda at: (at / "config.json").write_text('{"model_type": "llava"}'), "'llava', expected one of 'internvl"),
        (lambda at: (at / "model.safetensors").unlink(), "holds no weights"),
        (lambda at: (at / "model.safetensors").write_bytes(b"12345678"), "cannot read .*may be cut off"),
    ],
)  # fmt: skip
def test_damaged_folders(checkpoint: Path, damage: Callable[[Path], object], message: str):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(checkpoint)


@pytest.mark.parametrize(("index", "message"), [("{", "is not valid JSON"), ("{}", "it has no weight_map")])
def test_damaged_indices(checkpoint: Path, index: str, message: str):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(checkpoint)


def test_a_misspelt_option_is_no_silence(checkpoint: Path):
    with pytest.raises(TypeError, match="unknown options dtpye; for the hub there are revision"):
        load_pretrained(checkpoint, dtpye="float16")


def test_a_hub_repository_is_fetched_once_and_read_like_a_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Any, ...]] = []

    def fetch(name: str, *, allow_patterns: list[str], **hub: Any) -> str:
        asked.append((name, allow_patterns, hub))
        return str(checkpoint)

    monkeypatch.setattr("videochat_online.model.weights.snapshot_download", fetch)
    assert load_facts("owner/name").grid == 2
    assert asked.pop() == ("owner/name", ["config.json", "adapter_config.json", *PICTURE_SETTINGS], {})
    assert load_pretrained("owner/name", device="cpu", revision="main").config.name_or_path == str(checkpoint)
    (name, patterns, hub), pickle = asked.pop(), "pytorch_model*.bin"
    assert (name, hub) == ("owner/name", {"revision": "main"}) and pickle not in patterns
    assert find_checkpoint("owner/name", allow_pickle=True) == checkpoint
    assert pickle in asked.pop()[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16, "float32"])
def test_dtypes(checkpoint: Path, dtype: Any):
    model = load_pretrained(checkpoint, device="cpu", dtype=dtype)
    want = choose_dtype(dtype, on_cpu=True)
    assert {parameter.dtype for parameter in model.parameters()} == {want}
    assert model.dtype == want and model.language_model.dtype == want
    ids = torch.tensor([[7, 60, 60, 60, 60]])
    assert model(input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16)).logits.dtype == want


def test_dtype_auto(checkpoint: Path):
    """The checkpoint's own, except on the CPU, where half precision is many times slower."""
    settings = json.loads((checkpoint / "config.json").read_text("utf-8"))
    assert settings["torch_dtype"] == "float32"
    (checkpoint / "config.json").write_text(json.dumps({**settings, "torch_dtype": "bfloat16"}), "utf-8")
    assert load_pretrained(checkpoint, device="cpu").dtype == torch.float32
    assert VideoChatOnline.from_pretrained(checkpoint, dtype="auto").dtype == torch.bfloat16
    assert choose_dtype("auto", on_cpu=False) == "auto"
    with pytest.raises(ValueError, match="unknown dtype 'int3', expected auto or one of float32"):
        load_pretrained(checkpoint, dtype="int3")


def test_devices(checkpoint: Path):
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="unknown device 'toaster', expected auto, cpu, cuda"):
        choose_device("toaster")
    with pytest.raises(ValueError, match=r"device 'cuda:99' cannot be used here \(.+\), expected auto or cpu"):
        choose_device("cuda:99")
    with pytest.raises(ValueError, match="a device or a device_map, not both"):
        load_pretrained(checkpoint, device="cpu", device_map="auto")
    assert load_pretrained(checkpoint, device_map={"": "cpu"}).device.type == "cpu"


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_flag(checkpoint: Path, name: str):
    model = load_pretrained(checkpoint, device="cpu", attn_implementation=name)
    parts = (model, model.vision_model, model.language_model)
    assert [part.config._attn_implementation for part in parts] == [name] * 3
    assert load_pretrained(checkpoint, device="cpu").config._attn_implementation == "sdpa"


def test_missing_flash_attention_names_the_install_command(checkpoint: Path):
    with pytest.raises(ImportError, match=r"pip install 'videochat-online\[flash\]'"):
        load_pretrained(checkpoint, device="cpu", attn_implementation="flash_attention_2")


def test_quantization_is_handed_to_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    given: dict[str, Any] = {}
    model: Any = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace()

    def from_pretrained(cls: type, name: Any, *args: Any, **options: Any) -> tuple[Any, dict[str, set[str]]]:
        given.update(options)
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    settings = object()
    assert load_pretrained(checkpoint, quantization_config=settings, device_map="auto") is model
    assert given["quantization_config"] is settings and given["device_map"] == "auto"
    given.clear()
    load_pretrained(checkpoint, device="cpu")
    assert "quantization_config" not in given


def test_saving_twice_changes_no_byte(checkpoint: Path, tmp_path: Path):
    load_pretrained(checkpoint, device="cpu").save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (checkpoint / name).read_bytes()
