"""Named sets of settings, what differs from TrainingConfig's defaults: the paper's stages, and finetune.

The defaults are what both stages share: learning rate 1e-4 with a cosine after 3 % warm-up, weight decay 0.05, one
epoch, 1,024 samples a step, 64 frames at 1 fps, 32,768 tokens, encoder frozen, connector and language model trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..processing import model_place

STAGE_1: dict[str, Any] = {
    "model": "OpenGVLab/InternVL2-4B",
    "data": ("anno_data/stage1_offline.json",),
}
"""Offline fine-tuning on images and whole videos."""

STAGE_2: dict[str, Any] = {
    "model": "runs/online_4b_stage1/model",
    "data": ("anno_data/stage2_online.json",),
}
"""Joint fine-tuning on online dialogues and the offline sets, from stage 1's model."""

FINETUNE: dict[str, Any] = {
    "model": "MCG-NJU/VideoChatOnline-4B",
    "llm": "lora:32",
    "learning_rate": 2e-4,
    "drop_path": 0.0,
    "frame_times": "always",
    "global_batch_size": 4,
    "epochs": 3.0,
    "min_steps": 200,
    "save_every": 100,
}
"""A trained model on tens to thousands of samples of one's own: connector and LoRA, in many small steps, frames with
their second as sessions show them."""
FINETUNE_SMALL: dict[str, Any] = {
    "llm": "full",
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "num_workers": 1,
}
"""What a small language model changes of it: memory is no matter, and an epoch is over before four workers are up.
Six clips with pocket: 200 steps of LoRA at 1e-3 end at loss 2.9, of this at 0.01. LoRA leaves the word vectors alone,
and a small vocabulary has to learn the words of one's own data."""
SMALL_WIDTH = 1024

PRESETS = {"stage1": STAGE_1, "stage2": STAGE_2, "finetune": FINETUNE}


def is_small(model: str) -> bool:
    """Whether a model's folder says that its language model is narrower than SMALL_WIDTH; what is on a hub is not."""
    try:
        path = Path(model_place(model)) / "config.json"
        width = json.loads(path.read_text("utf-8"))["llm_config"]["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # whoever loads the model says what is wrong with it
    return bool(width < SMALL_WIDTH)
