"""From raw rows to ids, labels and batches: equal to what the published implementation made of them."""

from __future__ import annotations

import json
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from videochat_online.data.dataset import ConversationDataset, PaddingCollator, TrainingExample
from videochat_online.data.formats import read_row
from videochat_online.data.layout import image_messages
from videochat_online.data.registry import read_lists
from videochat_online.data.settings import DataSettings
from videochat_online.media.transforms import FrameTransform
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.processing import Processor

from .conftest import at, talk

CASES = [
    (template, case)
    for template in ("phi3-chat", "Hermes-2", "internvl2_5")
    for case in ("text1", "img1", "vid3", "two", "long")
]
ONLINE = [*at(3.0, "What now?", "He walks."), *at(9.0, "<video>\nAnd now?", "He runs away.\nAt 3.0s, [0.1, 0.2]")]
ROWS = {
    "image_video": [
        {"image": "wide.png", "conversations": talk("<image>\nDescribe the picture.", "A red cup on the table.")},
        {"video": "three", "conversations": at(2.0, "What?", "Nothing.")},
    ],
    "single_video": [{"video": "ten", "fps": 1, "conversations": ONLINE}],
}


@pytest.mark.parametrize(("template", "case"), CASES)
def test_ids_and_labels_equal_the_published(template: str, case: str, golden: Path, processors: dict[str, Processor]):
    recorded = json.loads((golden / "labels.json").read_text("utf-8"))
    (wanted,) = [one for one in recorded if (one["template"], one["case"]) == (template, case)]
    num_tokens = wanted["num_image_token_list"]
    row = {"image": [f"{n}.png" for n in range(len(num_tokens))], "conversations": wanted["conversations"]}
    rendered = processors[template].render(image_messages(read_row(row), num_tokens))
    example = TrainingExample(rendered.ids, rendered.labels, torch.zeros(0, 3, 1, 1), [], ("labels", 0))
    assert (example.input_ids, example.labels) == (wanted["input_ids"][0], wanted["labels"][0])


@pytest.fixture(scope="module")
def full_size() -> VideoChatOnlineConfig:
    """The recorded models' sizes: 64 px, 16x16 maps; the picture of two tiles has no thumbnail there."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 64, "patch_size": 2}
    return VideoChatOnlineConfig(
        vision_config=vision, llm_config={"model_type": "phi3"}, use_thumbnail=False, max_dynamic_patch=2
    )


def expand(runs: list[list[list[int]]]) -> torch.Tensor:
    return torch.tensor([list(chain.from_iterable(repeat(value, count) for value, count in row)) for row in runs])


@pytest.mark.parametrize("batch", ["image_video", "single_video"])
@pytest.mark.parametrize(("model", "template"), [("phi3", "phi3-chat"), ("qwen2", "Hermes-2")])
def test_batches_equal_the_published(
    batch: str,
    model: str,
    template: str,
    tmp_path: Path,
    processors: dict[str, Processor],
    full_size: VideoChatOnlineConfig,
):
    recorded: dict[str, Any] = json.loads((Path(__file__).parent / "recorded_batches.json").read_text())[model][batch]
    Image.new("RGB", (128, 64), "red").save(tmp_path / "wide.png")
    for folder, count in (("three", 3), ("ten", 10)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.new("RGB", (64, 64)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[batch]))
    (tmp_path / "list.json").write_text(json.dumps({"set": {"annotation": "rows.json", "data_root": "."}}))
    like = processors[template]
    processor = Processor(like.tokenizer, like.template, FrameTransform(64))

    dataset = ConversationDataset(read_lists([tmp_path / "list.json"]), processor, full_size, DataSettings())
    examples = [dataset[number] for number in range(len(dataset))]
    collated = PaddingCollator(pad_token_id=0)(examples)  # the published pads with id 0
    assert torch.equal(collated["input_ids"], expand(recorded["input_ids"]))
    assert torch.equal(collated["labels"], expand(recorded["labels"]))
    assert collated["attention_mask"].sum(dim=1).tolist() == recorded["num_tokens"]
    assert [len(example.image_grids) for example in examples] == recorded["num_pictures"]
    assert collated["pixel_values"].shape == (sum(recorded["num_pictures"]), 3, 64, 64)
