"""Checkpoints as people have them, through `chat` and `info`: each loads, or ends in one line that says what it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from videochat_online.cli import main
from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.tiny_models import write_tiny_model
from videochat_online.processing import load_model, load_tokenizer, save_tokenizer

POCKET = SHIPPED_MODELS["pocket"]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model of our own layout, one of another family."""
    held = tmp_path_factory.mktemp("models") / "qwen3_vl"
    write_tiny_model("qwen3_vl", held)
    return {"own": POCKET, "qwen3_vl": held}


@pytest.fixture(params=["own", "qwen3_vl"])
def folder(request: pytest.FixtureRequest, sources: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(sources[request.param], tmp_path / request.param, ignore=shutil.ignore_patterns("*.mp4"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return shutil.copytree(POCKET, tmp_path / "own", ignore=shutil.ignore_patterns("*.mp4"))


def chat(folder: Path | str, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The answer. Fails where there is none."""
    assert main(chat_command(folder, *flags)) == 0
    return json.loads(capsys.readouterr().out)["answers"][0]["answer"]


def chat_command(folder: Path | str, *flags: str) -> list[str]:
    video = ["chat", str(POCKET / "sample.mp4"), "--fps", "0.2", "-q", "Where is it?", "--max-new-tokens", "4"]
    return [*video, "--json", "--model", str(folder), *([] if "--device-map" in flags else ["--device", "cpu"]), *flags]


def refusal(command: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    assert main(command) == 2
    said = capfd.readouterr()
    lines = [line for line in said.err.splitlines() if "it/s]" not in line]  # the bar of transformers
    assert said.out == "" and len(lines) == 1, said
    return lines[0]


def edit(folder: Path, change: Callable[[Tensors], Tensors | None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors = change(tensors) or tensors
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def a_matrix(tensors: Tensors) -> str:
    return next(name for name in tensors if "layers.1.mlp.down_proj.weight" in name)


def configure(folder: Path, part: str, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if part == "text" and "llm_config" in config:
        part = "llm"
    (config[f"{part}_config"] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def shard(folder: Path, second: str = "b.safetensors") -> None:
    """The weights in two files and an index, whose second file has this name."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    half = len(names) // 2
    (folder / WEIGHTS).unlink()
    for file, part in (("a.safetensors", names[:half]), (second, names[half:])):
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    files = dict.fromkeys(names[:half], "a.safetensors") | dict.fromkeys(names[half:], second)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


# ---- what loads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "_orig_mod.", "module.base_model.model."])
def test_names_with_a_prefix_are_read(folder: Path, prefix: str, capsys):
    plain = chat(folder, capsys)
    edit(folder, lambda tensors: {prefix + name: value for name, value in tensors.items()})
    assert chat(folder, capsys) == plain


def test_internvls_unmerged_pairs_are_merged(own: Path, tmp_path: Path, capsys):
    """W + 2 B A: InternVL's training gives each part to peft, with an alpha of twice the rank."""
    want: Tensors = {}

    def wrap(tensors: Tensors) -> Tensors:
        found, generator = {}, torch.Generator().manual_seed(0)
        for name, weight in tensors.items():
            part, _, rest = name.partition(".")
            stem = f"{part}.base_model.model.{rest}" if part != "mlp1" else name
            want[name] = weight
            if name.endswith(("self_attn.o_proj.weight", "attn.proj.weight")):
                down, up = (torch.randn(size, generator=generator) for size in ((3, weight.shape[1]), (len(weight), 3)))
                inside = stem.removesuffix("weight")
                found |= {f"{inside}lora_A.default.weight": down, f"{inside}lora_B.default.weight": up}
                stem, want[name] = f"{inside}base_layer.weight", weight + 2 * up @ down
            found[stem] = weight
        return found

    edit(own, wrap)
    configure(own, "", use_llm_lora=3, use_backbone_lora=3)
    model, _ = load_model(own, device="cpu")
    torch.testing.assert_close(dict(model.state_dict()), want)
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["use_llm_lora"] == 0
    configure(own, "", use_llm_lora=4)
    with pytest.raises(ValueError, match="does not say their rank"):
        load_model(own, device="cpu")


def test_a_hubs_local_copy_is_links_to_one_place(folder: Path, tmp_path: Path, capsys):
    plain = chat(folder, capsys)
    shard(folder)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/1"
    blobs.mkdir(), snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert chat(snapshot, capsys) == plain


# ---- what is refused -------------------------------------------------------------------------------------------------


def spoil(value: float) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> None:
        tensors[a_matrix(tensors)].view(-1)[3] = value

    return lambda folder: edit(folder, change)


def cast(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda folder: edit(
        folder, lambda tensors: {**tensors, a_matrix(tensors): tensors[a_matrix(tensors)].to(dtype)}
    )


def shrink(folder: Path, *, told: bool) -> None:
    ends = ("embed_tokens.weight", "lm_head.weight")
    edit(folder, lambda tensors: {name: t[:300] if name.endswith(ends) else t for name, t in tensors.items()})
    if told:
        configure(folder, "text", vocab_size=300)


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def link(folder: Path) -> None:
    shard(folder)
    shutil.move(folder / "b.safetensors", folder.parent / "b.safetensors")
    (folder / "b.safetensors").symlink_to(folder.parent / "b.safetensors")


def lose(folder: Path) -> None:
    shard(folder)
    (folder / "b.safetensors").unlink()


def lose_one(folder: Path) -> None:
    """The index names a tensor that no file holds."""
    shard(folder)
    tensors = load_file(folder / "b.safetensors")
    del tensors[min(tensors)]
    save_file(tensors, folder / "b.safetensors", {"format": "pt"})


def double(folder: Path) -> None:
    shard(folder)
    first, second = load_file(folder / "a.safetensors"), load_file(folder / "b.safetensors")
    save_file({**first, min(second): second[min(second)]}, folder / "a.safetensors", {"format": "pt"})


def pair(folder: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        stem = a_matrix(tensors).removesuffix("weight")
        return {
            **tensors,
            f"{stem}lora_A.default.weight": torch.zeros(2, 2),
            f"{stem}lora_B.default.weight": torch.zeros(2, 2),
        }

    edit(folder, change)


def lose_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nan": (spoil(float("nan")), r"1 weights hold values that are no finite numbers \(.*layers.1.mlp.down_proj"),
    "inf": (spoil(float("inf")), "no finite numbers"),
    "integers": (cast(torch.int8), "1 tensors of type I8"),
    "small embedding": (lambda at: shrink(at, told=True), "embeddings for 300 tokens, and the tokenizer has .* beyond"),
    "another shape": (lambda at: shrink(at, told=False), r"2 of the wrong shape \(.*\(300, \d+\), expected"),
    "cut off": (cut, "cannot read .*model.safetensors: .*may be cut off"),
    "up": (lambda at: shard(at, "../b.safetensors"), "a weight file outside its folder: '../b.safetensors'"),
    "absolute": (lambda at: shard(at, str(at.parent / "b.safetensors")), "a weight file outside its folder: '/"),
    "link": (link, "a weight file outside its folder: 'b.safetensors'"),
    "no shard": (lose, "lacks 1 of 2 weight files: b.safetensors"),
    "not in the shard": (lose_one, r"does not hold this model's tensors: 1 missing \("),
    "twice": (double, "stands in .*a.safetensors and in .*b.safetensors"),
    "a number for a file": (
        lambda at: (shard(at), (at / INDEX).write_text('{"weight_map": {"a": 5}}')),
        "lacks 1 of 1",
    ),
    "a list for a map": (lambda at: (shard(at), (at / INDEX).write_text('{"weight_map": ["a"]}')), "has no weight_map"),
    "pairs": (pair, "LoRA pairs that are not merged .*merge them where they were trained"),
    "no tokenizer": (lose_tokenizer, "no tokenizer found in .*: expected tokenizer.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_used_is_one_line(folder: Path, name: str, capfd):
    damage, message = DAMAGE[name]
    damage(folder)
    line = refusal(chat_command(folder), capfd)
    assert line.startswith("videochat-online: error: ")
    assert re.search(message, line), line


@pytest.mark.parametrize("value", [10**9, -4, 0, 64.5, "64", True, [64, -1]])
@pytest.mark.parametrize(
    "part, key",
    [("text", "hidden_size"), ("text", "vocab_size"), ("text", "num_hidden_layers"), ("vision", "hidden_size")],
)
def test_absurd_sizes_are_refused_before_anything_is_built(folder: Path, part: str, key: str, value: Any, capfd):
    configure(folder, part, **{key: value})
    for command in (chat_command(folder), ["info", str(folder)]):
        assert f"_config.{key} is {value!r}, expected a whole number from 1 to" in refusal(command, capfd)


@pytest.mark.parametrize("part, key", [("text", "hidden_size"), ("text", "num_attention_heads")])
def test_nothing_for_a_size_is_one_line(folder: Path, part: str, key: str, capfd):
    configure(folder, part, **{key: None})
    assert f"'{key}' expected int, got NoneType" in refusal(chat_command(folder), capfd)


@pytest.mark.parametrize(
    "kind, part, values",
    [
        ("own", "", {"downsample_ratio": 0}),
        ("own", "", {"downsample_ratio": "half"}),
        ("own", "vision", {"num_attention_heads": 3}),
        ("qwen3_vl", "vision", {"spatial_merge_size": 0}),
        ("qwen3_vl", "vision", {"hidden_act": 3}),
        ("qwen3_vl", "text", {"num_key_value_heads": 3}),
        ("qwen3_vl", "text", {"rope_parameters": {"rope_type": "new"}}),
    ],
)
def test_values_that_do_not_go_together_are_one_line(
    kind: str, part: str, values: dict[str, Any], sources: dict[str, Path], tmp_path: Path, capfd
):
    folder = shutil.copytree(sources[kind], tmp_path / "copy", ignore=shutil.ignore_patterns("*.mp4"))
    configure(folder, part, **values)
    capfd.readouterr()
    for command in (chat_command(folder), ["info", str(folder)]):
        if main(command) == 0:  # some only show in the weights
            assert command[0] == "info"
            continue
        assert "error: " in (said := capfd.readouterr().err) and str(folder) in said


def test_a_table_of_positions_among_the_weights_is_no_quantized_checkpoint(own: Path, capfd):
    edit(own, lambda tensors: {**tensors, "vision_model.embeddings.position_ids": torch.arange(9)})
    assert "1 unexpected (vision_model.embeddings.position_ids)" in refusal(chat_command(own), capfd)


def test_a_million_layers_are_not_built(folder: Path, capfd):
    configure(folder, "text", num_hidden_layers=10**6)
    assert "num_hidden_layers is 1000000, expected a whole number from 1 to 1000" in refusal(
        ["info", str(folder)], capfd
    )


def test_a_config_of_another_size_takes_no_memory(folder: Path, capfd):
    configure(folder, "text", hidden_size=2**18, head_dim=16)
    line = refusal(chat_command(folder), capfd)
    assert "describes a model of" in line and "they are not of one model" in line


def test_a_config_of_another_family_is_one_line(sources: dict[str, Path], tmp_path: Path, capfd):
    folder = shutil.copytree(sources["qwen3_vl"], tmp_path / "mixed")
    write_tiny_model("smolvlm", tmp_path / "smolvlm")
    shutil.copyfile(tmp_path / "smolvlm/config.json", folder / "config.json")
    capfd.readouterr()
    assert "weights" in refusal(chat_command(folder), capfd)


@pytest.mark.parametrize("flag", ["--model", "--lora"])
def test_an_empty_name_is_not_the_working_folder(flag: str, own: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.chdir(own)
    command = chat_command(own, *([flag, ""] if flag == "--lora" else []))
    if flag == "--model":
        command[command.index(flag) + 1] = ""
    assert "the name is empty" in refusal(command, capfd)


# ---- what we write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pocket", "internlm2_dummy_prefix0", "internlm2_dummy_prefix1"])
def test_a_saved_tokenizer_has_what_transformers_4_37_knows(name: str, shared: Path, tmp_path: Path):
    """Tried by hand with transformers 4.37.2 and tokenizers 0.15.2: they read it, and give the same ids."""
    tokenizer = load_tokenizer(name if name == "pocket" else shared / "golden/tokenizers" / name)
    save_tokenizer(tokenizer, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "backend" not in settings
    merges = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    assert merges and all(isinstance(one, str) and one.count(" ") == 1 for one in merges)
    text = "<s>Hello, 世界  two  spaces <|im_end|>\nwhere?"
    assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_a_map_of_devices(folder: Path, capfd):
    assert chat(folder, capfd, "--device-map", "auto") == chat(folder, capfd)
    assert "a device or a device_map, not both" in refusal(
        chat_command(folder, "--device-map", "auto", "--device", "cpu"), capfd
    )
