"""A folder of another family becomes a model, or one line that says what is wrong with it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from videochat_online import load_model
from videochat_online.lab.bench.lists import load_config
from videochat_online.model.videochat import CheckpointError
from videochat_online.model.weights import load_facts


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders / "qwen3_vl", tmp_path / "copy")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_every_tensor_of_the_folder_is_in_the_model(folders, family, loaded):
    model, _ = loaded[family]
    stored = load_file(folders / family / "model.safetensors")
    ours = model.held.state_dict()
    distinct = {tensor.data_ptr(): float(tensor.double().abs().sum()) for tensor in ours.values()}  # tied ones once
    found = sorted(float(tensor.double().abs().sum()) for tensor in stored.values())
    assert found == pytest.approx(sorted(distinct.values()))


def test_a_missing_tensor_and_a_wrong_shape_are_named(copy, capfd):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    lost = next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))
    odd = next(key for key in tensors if key.endswith("layers.0.mlp.up_proj.weight"))
    del tensors[lost]
    tensors[odd] = tensors[odd][:5].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"1 missing \(.*layers\.1\.mlp\.up_proj.*1 of the wrong shape \(.*\(5, 64\)"
    ):
        load_model(copy, device="cpu")
    assert "LOAD REPORT" not in capfd.readouterr().err  # transformers' own table of the same


def test_a_tensor_without_a_place_is_named_in_a_warning(copy, caplog):
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, "extra.weight": torch.zeros(2)}, copy / "model.safetensors", metadata={"format": "pt"})
    load_model(copy, device="cpu")
    assert "1 tensors that its model does not use: extra.weight" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda folder: edit(folder / "config.json", model_type="molmo2"),
            "'molmo2', expected one of 'internvl_chat', ",
        ),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "does not say how pictures are prepared"),
        (lambda folder: edit(folder / "preprocessor_config.json", image_mean=None), "lack image_mean"),
        (lambda folder: edit(folder / "preprocessor_config.json", resample=5), "resample 5"),
        (lambda folder: edit(folder / "config.json", vision_config={"patch_size": [4, 2]}), "only square pictures"),
        (
            lambda folder: edit(folder / "config.json", text_config={"hidden_act": 3}),
            "does not describe a qwen3_vl",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(copy, change, message):
    change(copy)
    with pytest.raises(CheckpointError, match=message):
        load_facts(copy)


def test_settings_may_stand_in_either_file(copy):
    before = load_facts(copy).picture
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    (copy / "preprocessor_config.json").unlink()
    assert load_facts(copy).picture == before == {"size": 128, "mean": [0.5] * 3, "std": [0.5] * 3, "filter": "bicubic"}


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("before, warned", [("", False), ("<|im_start|>system\nBe good.<|im_end|>\n", True)])
def test_another_chat_template_is_shown_in_a_warning(copy, caplog, before, warned):
    (copy / "chat_template.jinja").write_text(before + CHATML)
    load_model(copy, device="cpu")
    assert (
        "writes '<|im_start|>system" in caplog.text and "qwen3-vl writes '<|im_start|>user" in caplog.text
    ) is warned


def test_what_needs_our_own_layout_says_so(copy):
    with pytest.raises(CheckpointError, match="is a model of type 'qwen3_vl', expected 'internvl_chat' here"):
        load_config(copy)
