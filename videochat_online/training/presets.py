"""The two stages of the paper as named sets of settings: what differs from TrainingConfig's defaults.

The defaults are what both stages share: learning rate 1e-4 with a cosine after 3 % warm-up, weight decay 0.05, one
epoch, 1,024 samples a step, 64 frames at 1 fps, 32,768 tokens, encoder frozen, connector and language model trained.
"""

from __future__ import annotations

from typing import Any

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

PRESETS = {"stage1": STAGE_1, "stage2": STAGE_2}
