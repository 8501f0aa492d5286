"""Tiny models of every language model family, built from their config; and the recorded ones, read like checkpoints."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from videochat_online.model.videochat import VideoChatOnline
from videochat_online.model.weights import load_pretrained
from videochat_online.model_config import VideoChatOnlineConfig

VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4,
    "image_size": 16, "initializer_factor": 0.5,
}  # fmt: skip
LLM = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 3.0, 6.0, 9.0]}
IMAGE_ID = 60


@pytest.fixture(scope="session")
def make_config() -> Callable[..., VideoChatOnlineConfig]:
    """make_config("qwen2", vision={...}, llm={...}, template=...): 16 px pictures, 2x2 maps of 64 channels."""

    def make(kind: str = "qwen2", *, vision: Any = None, llm: Any = None, **changes: Any) -> VideoChatOnlineConfig:
        return VideoChatOnlineConfig(
            vision_config={**VISION, **(vision or {})},
            llm_config={"model_type": kind, **LLM, **(llm or {})},
            **{"img_context_token_id": IMAGE_ID, **changes},
        )

    return make


@pytest.fixture(scope="session")
def make_model(make_config: Any) -> Callable[..., VideoChatOnline]:
    """A model with reproducible random weights, in evaluation mode; arguments are make_config's."""

    def make(kind: str = "qwen2", **changes: Any) -> VideoChatOnline:
        torch.manual_seed(0)
        return VideoChatOnline(make_config(kind, **changes)).eval()

    return make


@pytest.fixture(scope="session")
def make_longrope_model(make_model: Any) -> Callable[[], VideoChatOnline]:
    """A Phi-3 whose factors change past 32 positions, with frequencies far enough apart to matter."""

    def make() -> VideoChatOnline:
        llm = {
            "num_key_value_heads": 4,
            "initializer_range": 0.3,  # attention that looks about: at 0.02 it hardly differs from a plain mean
            "original_max_position_embeddings": 32,
            "rope_scaling": LONGROPE,
        }
        return make_model("phi3", llm=llm)

    return make


@pytest.fixture(scope="session")
def recorded_model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VideoChatOnline]:
    """recorded_model("phi3"): tests/golden/model_phi3 through `load_pretrained`, once a session."""
    loaded: dict[str, VideoChatOnline] = {}

    def load(name: str) -> VideoChatOnline:
        if name not in loaded:
            source, folder = golden / f"model_{name}", tmp_path_factory.mktemp(name)
            (folder / "config.json").symlink_to(source / "config.json")
            (folder / "model.safetensors").symlink_to(source / "weights.safetensors")
            loaded[name] = load_pretrained(folder, device="cpu")
            meta = json.loads((source / "meta.json").read_text("utf-8"))
            loaded[name].config.img_context_token_id = meta["img_context_token_id"]
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def checkpoint_gradients() -> Callable[[PreTrainedModel], None]:
    """Switch gradient checkpointing on by the name every transformers 5 knows (the newest calls it an old one)."""

    def enable(model: PreTrainedModel) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable()

    return enable
