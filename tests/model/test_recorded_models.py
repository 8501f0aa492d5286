"""Whole models against values recorded from the published implementation: losses, logits, greedy answers.

A video's frames go in at the grid their number has in the pyramid, tiles of still images at the full grid.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from videochat_online.config import MemoryConfig, scheduled_grids
from videochat_online.model.memory_bank import PyramidMemoryBank
from videochat_online.model.videochat import VideoChatOnline

MODELS = ("phi3", "qwen2")
CHATS = ("it_timestamps", "stream_plain", "stream_timestamps", "stream_hist_turn1")


def recorded_batch(golden: Path, name: str, batch: str) -> dict[str, torch.Tensor]:
    tensors = load_file(golden / f"model_{name}/forward.safetensors")
    prefix = f"forward/{batch}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def grids_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One grid a picture: the schedule for a video, 16 for a tile."""
    grids: list[int] = []
    for num_pictures, is_video in zip(batch["in/num_patches"].tolist(), batch["in/is_video"].tolist(), strict=True):
        grids += scheduled_grids(num_pictures, (8, 4, 1), (16, 8, 4)) if is_video else [16] * num_pictures
    return torch.tensor(grids)


@pytest.mark.parametrize("batch", ["image_video", "single_video"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_recorded_losses_and_logits(golden: Path, recorded_model: Any, name: str, batch: str):
    values = recorded_batch(golden, name, batch)
    assert values["in/image_flags"].all()
    output = recorded_model(name)(
        **{key: values[f"in/{key}"] for key in ("input_ids", "attention_mask", "labels", "pixel_values")},
        image_grids=grids_of(values),
    )
    assert float(output.loss) == pytest.approx(float(values["out/loss"]), abs=1e-4)
    rows = values["out/supervised_rows"]
    want = values["out/supervised_logits"]
    got = output.logits[rows[:, 0], rows[:, 1]]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    seen = values["in/attention_mask"]
    assert torch.equal(output.logits.argmax(-1)[seen], values["out/logits_row_argmax"][seen])
    for row in ("mean", "max"):
        got = (output.logits.mean(-1) if row == "mean" else output.logits.amax(-1))[seen]
        torch.testing.assert_close(got, values[f"out/logits_row_{row}"][seen], rtol=1e-4, atol=1e-3)


def chat_frames(golden: Path, chat: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values of a chat's frames and the grid of each, both read from its prompt."""
    counts = [int(count) for count in re.findall(r"<img>\{(\d+)\}</img>", chat["query_collapsed"])]
    numbers = chat.get("frame_indices", list(range(len(counts))))
    frames = load_file(golden / "frames40.safetensors")["pixel_values"]
    return frames[numbers], torch.tensor([round(count**0.5) for count in counts])


def first_close_call(steps: list[list[list[float]]]) -> int:
    """The first step whose two best logits are closer than 1e-3: from there on float noise decides."""
    return next((number for number, best in enumerate(steps) if best[0][1] - best[1][1] < 1e-3), len(steps))


@pytest.mark.parametrize("chat_name", CHATS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_recorded_answers(golden: Path, recorded_model: Any, name: str, chat_name: str):
    chat = json.loads((golden / f"model_{name}/chat.json").read_text("utf-8"))[chat_name]
    model: VideoChatOnline = recorded_model(name)
    image_tokens = model.encode_images(*chat_frames(golden, chat))
    assert len(image_tokens) == chat["n_img_context"]
    input_ids = torch.tensor(chat["input_ids"]).reshape(1, -1)

    logits = model(inputs_embeds=model.embed(input_ids, image_tokens), logits_to_keep=1).logits[0, -1]
    want = load_file(golden / f"model_{name}/chat.safetensors")[f"{chat_name}/first_step_logits"]
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))

    end = chat["generation_config_after"]["eos_token_id"]
    ids = model.generate(input_ids, image_tokens=image_tokens, max_new_tokens=12, eos_token_id=end)[0].tolist()
    sure = first_close_call(chat["steps_top5"])
    assert sure >= 8
    assert ids[:sure] == chat["generated_ids"][1 : 1 + sure]  # the first recorded id is a start mark


@pytest.mark.parametrize("capacities", [(2, 2, 12), (4, 4, 4)])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_recorded_bank_and_connector(shared: Path, recorded_model: Any, name: str, capacities: tuple[int, ...]):
    """40 frames through encoder, bank and connector (values too large to be kept here)."""
    model: VideoChatOnline = recorded_model(name)
    frames = load_file(shared / "golden/frames40.safetensors")["pixel_values"]
    bank = PyramidMemoryBank(MemoryConfig.pyramid(capacities=capacities))
    bank.write(model.encode_frames(frames), range(len(frames)))
    got = model.project([frame.features for frame in bank.read()])
    key = f"Stream.extract_feature/{'-'.join(map(str, capacities))}"
    want = load_file(shared / f"golden/model_{name}/forward.safetensors")[key]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@torch.no_grad()
def test_a_batch_is_its_rows_one_by_one(golden: Path, recorded_model: Any):
    """Padding changes nothing: the second row of a padded batch, alone and unpadded, has the same logits."""
    values, model = recorded_batch(golden, "qwen2", "image_video"), recorded_model("qwen2")
    grids, num_tiles = grids_of(values), int(values["in/num_patches"][0])
    length = int(values["in/attention_mask"][1].sum())
    alone = model(
        input_ids=values["in/input_ids"][1:, :length],
        pixel_values=values["in/pixel_values"][num_tiles:],
        image_grids=grids[num_tiles:],
    ).logits[0]
    rows = values["out/supervised_rows"]
    ours = rows[:, 0] == 1
    want = values["out/supervised_logits"][ours]
    torch.testing.assert_close(alone[rows[ours, 1]], want, rtol=1e-4, atol=1e-3)
