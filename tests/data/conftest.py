"""Tiny media whose frames say which they are, lists over them, and a processor with a recorded tokenizer.

The grey of frame n is n * 8, so that an example can be asked which frames it shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from videochat_online.data.dataset import ConversationDataset, TrainingExample
from videochat_online.data.registry import read_lists
from videochat_online.data.settings import DataSettings
from videochat_online.media.transforms import FrameTransform
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.processing import Processor
from videochat_online.prompt.messages import get_template

GREY_STEP = 8


def talk(*texts: str, **first_turn: Any) -> list[dict[str, Any]]:
    """human and gpt in turn; further fields go into the first turn."""
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    turns[0].update(first_turn)
    return turns


def at(seconds: float, question: str, answer: str) -> list[dict[str, Any]]:
    """A turn of an online dialogue."""
    return talk(question, answer, timestamps=seconds)


def greys(example: TrainingExample) -> list[int]:
    """Which frame each picture of an example is, read off its grey."""
    return [round(float(value) / GREY_STEP) for value in example.pixel_values[:, 0].float().mean(dim=(1, 2))]


@pytest.fixture(scope="session")
def config() -> VideoChatOnlineConfig:
    """16 px pictures, 4x4 maps; levels of 4x4, 2x2 and 1x1."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return VideoChatOnlineConfig(
        vision_config={**vision, "image_size": 16, "patch_size": 2}, llm_config={"model_type": "phi3"}
    )


@pytest.fixture(scope="session")
def processors(golden: Path) -> dict[str, Processor]:
    """By template; 16 px pictures."""
    tokenizers = {name: AutoTokenizer.from_pretrained(golden / "tokenizers" / name) for name in ("phi3_fast", "chatml")}
    used = {"phi3-chat": "phi3_fast", "Hermes-2": "chatml", "internvl2_5": "chatml"}
    return {name: Processor(tokenizers[kind], get_template(name), FrameTransform(16)) for name, kind in used.items()}


@pytest.fixture(scope="session")
def processor(processors: dict[str, Processor]) -> Processor:
    return processors["Hermes-2"]  # its tokens decode to exactly the text they came from


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: video.mp4 (2 fps, 10 s), frames/ and named/ (12 and 30 images), wide.png and small.png."""
    root = tmp_path_factory.mktemp("media")
    write_video(root / "video.mp4", num_frames=20, fps=2)
    for folder, count, name in (("frames", 12, "{}.png"), ("named", 30, "img{:05}.png")):
        (root / folder).mkdir()
        for number in range(count):
            grey(number).save(root / folder / name.format(number))
    grey(5, (64, 32)).save(root / "wide.png")
    grey(9, (16, 16)).save(root / "small.png")
    (root / "empty.mp4").touch()
    return root


def grey(number: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, (number * GREY_STEP,) * 3)


def write_video(path: Path, *, num_frames: int, fps: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.width = stream.height = 32  # decord garbles narrower ones
        stream.pix_fmt = "yuv420p"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(grey(number, (32, 32))), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def write_list(tmp_path: Path, media: Path) -> Callable[..., Path]:
    """write_list({"set": [rows]}, repeat_time=...) -> the list's path; further values go into every entry."""

    def write(sets: dict[str, list[dict[str, Any]]], **values: Any) -> Path:
        entries = {}
        for name, rows in sets.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(rows), "utf-8")
            entries[name] = {"annotation": f"{name}.json", "data_root": str(media), **values}
        path = tmp_path / "list.json"
        path.write_text(json.dumps(entries), "utf-8")
        return path

    return write


@pytest.fixture
def make_dataset(
    write_list: Any, processor: Processor, config: VideoChatOnlineConfig
) -> Callable[..., ConversationDataset]:
    """make_dataset([rows], entry={...}, processor=..., config=..., **settings)"""

    def make(rows: list[dict[str, Any]], *, entry: Any = None, **changes: Any) -> ConversationDataset:
        used = (changes.pop("processor", processor), changes.pop("config", config))
        return ConversationDataset(
            read_lists([write_list({"set": rows}, **(entry or {}))]), *used, DataSettings(**changes)
        )

    return make
