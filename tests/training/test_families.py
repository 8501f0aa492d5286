"""Models of other families train: their own loss and gradients, prompts, parts; checkpoints that their class loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.model.backbones.watched import qwen_patches
from tests.training.tiny import settings
from tests.training.world import write_online_list
from videochat_online import load_model
from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.tiny_models import FAMILIES
from videochat_online.training.loop import TrainingLoop
from videochat_online.training.loss import token_weights
from videochat_online.training.run import make_data, start_model

ROOT = Path(__file__).parents[2]
CLIP = SHIPPED_MODELS["pocket"] / "sample.mp4"
EVERYTHING = {"vision": "full", "connector": "full", "llm": "full"}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
PROVEN = ("internvl", "qwen3_vl", "qwen2_5_vl", "smolvlm")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{% if m.role == 'assistant' %}Assistant:{% generation %} {{ m.content }}"
    "<end_of_utterance>{% endgeneration %}{% else %}{{ m.role | capitalize }}: {{ m.content }}<end_of_utterance>"
    "{% endif %}{{ '\n' }}{% endfor %}"
)


def loop_over(models: Path, family: str, data: Path, **changes: Any) -> tuple[TrainingLoop, Any]:
    """A loop that has begun, and its data set."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    usual = {"num_frames": 6, "max_length": 4096, "drop_path": 0.0, "loss_reduction": "token", **EVERYTHING}
    config = settings(data.parent, model=str(models / family), data=(str(data),), **{**usual, **changes})
    model, processor = start_model(config)
    dataset, collator, plan, _ = make_data(config, processor, model.config, 1)
    loop = TrainingLoop(model, dataset, collator, plan, processor=processor)
    loop.state.prepare()
    loop.state.wrapped.train()
    return loop, dataset


def loss_of(loop: TrainingLoop, examples: list[Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The mean loss of a batch, after its backward pass, and the batch."""
    batch = loop.collate(examples)
    counts = {name: batch.pop(name) for name in ("num_tokens", "num_images")}
    weights = token_weights(batch["labels"], "token", batch.get("position_ids"))
    loss = loop.loss_sum(batch, weights) / weights.sum()
    loss.backward()
    return loss.detach(), batch | counts


def gradients(model: torch.nn.Module) -> dict[str, Any]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def write_pictures(folder: Path, side: int) -> Path:
    """Two rows of two pictures of the encoder's own size; the answers differ in length."""
    rows = []
    for number, answer in enumerate(("a red circle", "nothing, and then two blue squares")):
        names = [f"{number}{one}.png" for one in "ab"]
        for one, name in enumerate(names):
            noise = np.random.default_rng(2 * number + one).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(noise).save(folder / name)
        turns = [{"from": "human", "value": "<image><image>What?"}, {"from": "gpt", "value": answer}]
        rows.append({"image": names, "conversations": turns})
    (folder / "rows.json").write_text(json.dumps(rows))
    listed = {"pictures": {"annotation": "rows.json", "data_root": str(folder)}}
    (folder / "list.json").write_text(json.dumps(listed))
    return folder / "list.json"


def own_inputs(family: str, loop: TrainingLoop, batch: dict[str, Any]) -> dict[str, Any]:
    """What transformers' class takes for a batch of whole pictures."""
    model, ids = loop.state.model.backbone, batch["input_ids"]
    frames = list(batch["pixel_values"].permute(0, 2, 3, 1).numpy())
    inputs = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    if family.startswith("qwen"):
        patches, grids = qwen_patches(model, frames)
        types = (ids == model.config.img_context_token_id).int()
        return {**inputs, "pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": types}
    pixels = loop.state.processor.frames(frames)
    return {**inputs, "pixel_values": pixels.unflatten(0, (len(ids), -1)) if family == "smolvlm" else pixels}


@pytest.mark.parametrize("family", [*PROVEN, "qwen3_vl_moe"])
def test_loss_and_gradients_are_those_of_the_class(models: Path, family: str, tmp_path: Path):
    """Whole pictures, two rows of different length. (LLaVA-OneVision shows pictures as its class shows a video.)"""
    side = load_model(models / family, device="cpu")[0].config.image_size
    loop, dataset = loop_over(models, family, write_pictures(tmp_path, side))
    loss, batch = loss_of(loop, [dataset[0], dataset[1]])
    theirs = AutoModelForImageTextToText.from_pretrained(models / family)
    for weight in theirs.parameters():
        weight.grad = None
    own = theirs.train()(**own_inputs(family, loop, batch), labels=batch["labels"]).loss
    own.backward()
    torch.testing.assert_close(loss, own.detach(), **CLOSE)
    ours, expected = gradients(loop.state.model), dict(theirs.named_parameters())
    assert len(ours) > 50
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, expected[name].grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_pooled_frames_positions_and_deepstack_by_hand(models: Path, tmp_path: Path):
    """Qwen3-VL, frames by level: maps and deepstack features of its own class, averaged here, its own positions."""
    loop, dataset = loop_over(models, "qwen3_vl", write_online_list(tmp_path, 2))
    example = dataset[0]
    assert sorted(set(example.image_grids)) == [4, 8, 16]
    loss, _ = loss_of(loop, [example])
    model, held = loop.state.model.backbone, AutoModelForImageTextToText.from_pretrained(models / "qwen3_vl")
    patches, whole = qwen_patches(model, list(example.pixel_values.permute(0, 2, 3, 1).numpy()))
    ids, width = torch.tensor([example.input_ids]), model.config.llm_config.hidden_size

    def averaged(rows: torch.Tensor) -> torch.Tensor:
        maps = rows.view(len(whole), 16, 16, width).permute(0, 3, 1, 2)
        pairs = zip(maps, example.image_grids, strict=True)
        return torch.cat([F.avg_pool2d(one, 16 // side).flatten(1).T for one, side in pairs])

    shown = ids == model.config.img_context_token_id
    with torch.no_grad():
        seen = held.model.visual(patches, grid_thw=whole)
        embeds = held.get_input_embeddings()(ids).masked_scatter(shown[..., None], averaged(seen.pooler_output))
        grids = torch.tensor([[1, 2 * side, 2 * side] for side in example.image_grids])
        positions, _ = held.model.get_rope_index(ids, image_grid_thw=grids, mm_token_type_ids=shown.int())
        hidden = held.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            visual_pos_masks=shown,
            deepstack_visual_embeds=[averaged(rows) for rows in seen.deepstack_features],
        ).last_hidden_state
        logits = held.lm_head(hidden)[0, :-1]
    expected = F.cross_entropy(logits, torch.tensor(example.labels[1:]))
    torch.testing.assert_close(loss, expected, **CLOSE)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_packed_and_recomputed_batches_give_the_same_gradients(models: Path, family: str, tmp_path: Path):
    """Every weight that may train gets a gradient, and the same where samples share a sequence (positions begin anew
    with each), one of them without a picture, and where layers are computed again."""
    data = write_online_list(tmp_path, 3)
    rows = json.loads((tmp_path / "rows.json").read_text())
    del rows[1]["video"], rows[1]["clip"]
    rows[1] = {"conversations": [{key: turn[key] for key in ("from", "value")} for turn in rows[1]["conversations"]]}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = []
    for changes in ({}, {"batching": "packed"}, {"gradient_checkpointing": "all"}):
        loop, dataset = loop_over(models, family, data, **changes)
        found.append((loss_of(loop, [dataset[0], dataset[1], dataset[2]])[0], gradients(loop.state.model)))
        assert all(gradient is not None for gradient in found[-1][1].values())
    for loss, others in found[1:]:
        torch.testing.assert_close(loss, found[0][0], **CLOSE)
        for name, gradient in others.items():
            torch.testing.assert_close(gradient, found[0][1][name], **CLOSE)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parts_train_by_role(models: Path, family: str, tmp_path: Path):
    data = write_online_list(tmp_path, 1)
    for vision, connector, llm in (
        ("last:1", "frozen", "frozen"), ("lora:2", "full", "lora:2"), ("frozen", "full", "frozen"),
        ("frozen", "frozen", "full"),
    ):  # fmt: skip
        loop, dataset = loop_over(
            models, family, data, vision=vision, connector=connector, llm=llm, gradient_checkpointing="all"
        )
        model, backbone = loop.state.model, loop.state.model.backbone
        encoded = []
        backbone.vision_model.register_forward_hook(lambda module, args, out, encoded=encoded: encoded.append(out[0]))
        loss_of(loop, [dataset[0]])
        trained = set(gradients(model))
        of_connector = {name for name in trained if name.startswith(tuple(model.roles.connector))}
        of_vision = {name for name in trained if name.startswith(model.roles.vision)} - of_connector
        rest = trained - of_connector - of_vision
        assert (bool(of_vision), bool(of_connector), bool(rest)) == (
            vision != "frozen", connector == "full", llm != "frozen",
        )  # fmt: skip
        assert all("lora_" in name for name in of_vision) or vision == "last:1"
        assert all("lora_" in name for name in rest) or llm == "full"
        if vision == "last:1":
            assert {name.removeprefix(f"{model.roles.vision_layers}.").split(".")[0] for name in of_vision} == {
                str(model.roles.num_running - 1)
            }
        if vision == "frozen" and model.roles.connector[0].startswith("model.m"):
            assert not encoded[0].requires_grad  # the backward pass stays out of a frozen encoder


@pytest.mark.parametrize("family", PROVEN)
def test_ids_and_loss_are_those_of_the_chat_template(models: Path, family: str, tmp_path: Path):
    """The assistant's words and end token bear loss: as transformers marks them by a template's generation blocks."""
    loop, dataset = loop_over(models, family, write_online_list(tmp_path, 1))
    example, tokenizer = dataset[0], loop.state.processor.tokenizer
    marks = {
        "internvl": ("Frame{1} at {0:.1f}s: <img>{2}</img>\n", "<IMG_CONTEXT>", ""),
        "qwen3_vl": ("<{0:.1f} seconds><|vision_start|>{2}<|vision_end|>", "<|image_pad|>", ""),
        "qwen2_5_vl": ("Frame{1} at {0:.1f}s: <|vision_start|>{2}<|vision_end|>\n", "<|image_pad|>", ""),
        "smolvlm": (
            "\nFrame from 00:0{3}:<fake_token_around_image><global-img>{2}<fake_token_around_image>", "<image>",
            "\n\n",
        ),
    }  # fmt: skip
    line, mark, after = marks[family]
    times = [time + 0.5 for time in range(len(example.image_grids))]
    frames = [
        line.format(time, number + 1, mark * side**2, int(time))
        for number, (time, side) in enumerate(zip(times, example.image_grids, strict=True))
    ]
    first = sum(time <= 2.0 for time in times)
    messages = [
        {"role": "user", "content": "".join(frames[:first]) + after + "What is number 0?"},
        {"role": "assistant", "content": "a red circle, 0"},
        {"role": "user", "content": "".join(frames[first:]) + after + "And now?"},
        {"role": "assistant", "content": "two blue squares, 0"},
    ]
    if family == "qwen2_5_vl":
        messages.insert(0, {"role": "system", "content": "You are a helpful assistant."})
    template = SMOLVLM if family == "smolvlm" else CHATML
    if family == "smolvlm":  # its own template leaves the space out before a picture; these begin with a newline
        assert "User: \nFrame" in tokenizer.decode(example.input_ids)
    made = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    start = len(example.input_ids) - len(made["input_ids"])  # what the tokenizer puts before every text
    assert start in (0, 1)
    assert example.input_ids[start:] == made["input_ids"]
    spoken = [label != -100 for label in example.labels][start:]
    assert spoken == [bool(one) for one in made["assistant_masks"]]
    kept = [label for label in example.labels if label != -100]
    assert kept.count(loop.state.processor.end_token_ids[0]) == 2
