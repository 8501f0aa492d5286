"""A data-set list of online dialogues about the clip that ships with the package, and a small model for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CLIP = Path(__file__).parents[2] / "videochat_online" / "pocket"
ANSWERS = ("a red circle", "two blue squares", "nothing", "the green star", "left to right", "it stopped")


def write_online_list(folder: Path, count: int) -> Path:
    """`count` dialogues of two turns; each asks at other moments of another clip."""
    rows = []
    for number in range(count):
        start = number % 8
        first, second = ANSWERS[number % 6], ANSWERS[(number * 5 + 1) % 6]
        rows.append(
            {
                "video": "sample.mp4",
                "clip": [start, start + 6],
                "need_reset_timestamp": bool(number % 2),
                "conversations": [
                    {
                        "from": "human",
                        "value": f"What is number {number}?",
                        "timestamps": 2.0 + start * (1 - number % 2),
                    },
                    {"from": "gpt", "value": f"{first}, {number}"},
                    {"from": "human", "value": "And now?", "timestamps": 5.0 + start * (1 - number % 2)},
                    {"from": "gpt", "value": f"{second}, {number * 7 % 16}"},
                ],
            }
        )
    (folder / "rows.json").write_text(json.dumps(rows))
    entry = {"annotation": "rows.json", "data_root": str(CLIP), "data_augment": False, "repeat_time": 1}
    (folder / "list.json").write_text(json.dumps({"online": entry}))
    return folder / "list.json"


def save_small_model(folder: Path) -> Path:
    """Two layers each, 32 px frames, the pocket model's tokenizer and template; random weights."""
    from videochat_online.model.videochat import VideoChatOnline
    from videochat_online.model.weights import load_facts
    from videochat_online.processing import load_tokenizer

    config: Any = load_facts(CLIP)
    small = {"num_hidden_layers": 2, "num_attention_heads": 2}
    config.llm_config.update({"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2, **small})
    vision = {"hidden_size": 32, "intermediate_size": 64, "image_size": 32, "patch_size": 4, **small}
    config.vision_config.update(vision)
    torch.manual_seed(0)
    VideoChatOnline(config).save_pretrained(folder)
    load_tokenizer(CLIP).save_pretrained(folder)
    return folder
