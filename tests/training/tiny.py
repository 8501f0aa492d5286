"""A model of two layers, samples for it, and the settings to train it with; no tokenizer and no files."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

IMAGE_ID = 7
VOCABULARY = 64
IMAGE_SIZE = 32


def tiny_config(**changes: Any) -> Any:
    """An encoder of two layers (4x4 maps after the pixel shuffle) and a Qwen2 of two."""
    from videochat_online.model_config import VideoChatOnlineConfig

    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = {
        "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    values = {
        "vision_config": vision | {"image_size": IMAGE_SIZE, "patch_size": 4, "initializer_factor": 0.1},
        "llm_config": llm,
        "img_context_token_id": IMAGE_ID,
    }
    return VideoChatOnlineConfig(**{**values, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    from videochat_online.model.videochat import VideoChatOnline

    torch.manual_seed(seed)
    return VideoChatOnline(tiny_config(**changes)).float()


@dataclass
class Example:
    """The fields of data.dataset.TrainingExample that training reads."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: torch.Tensor
    image_grids: list[int]


class Examples(torch.utils.data.Dataset):
    """Samples of different lengths with up to three pictures; sample i is always the same."""

    def __init__(self, count: int, *, seed: int = 0, text_only: tuple[int, ...] = (), longest: int = 40) -> None:
        self.examples = [self._make(random.Random(seed * 1000 + i), i in text_only, longest) for i in range(count)]
        self.lengths = [len(example.input_ids) for example in self.examples]

    def _make(self, rng: random.Random, text_only: bool, longest: int) -> Example:
        grids = [] if text_only else [rng.choice([1, 2]) for _ in range(rng.randint(1, 3))]
        ids = [rng.randrange(10, VOCABULARY)]
        for grid in grids:
            ids += [IMAGE_ID] * grid * grid + [rng.randrange(10, VOCABULARY)]
        prompt = len(ids)
        ids += [rng.randrange(10, VOCABULARY) for _ in range(rng.randint(2, longest - prompt))]
        generator = torch.Generator().manual_seed(rng.randrange(2**31))
        pictures = torch.randn(len(grids), 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
        return Example(ids, [-100] * prompt + ids[prompt:], pictures, grids)

    def __len__(self) -> int:
        return len(self.examples)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def padded(examples: list[Example]) -> dict[str, Any]:
    """Rows filled up to the longest."""
    width = max(len(example.input_ids) for example in examples)

    def rows(name: str, fill: int) -> torch.Tensor:
        lists = [getattr(example, name) for example in examples]
        return torch.tensor([one + [fill] * (width - len(one)) for one in lists])

    mask = torch.tensor([[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in examples])
    words = {"input_ids": rows("input_ids", 0), "labels": rows("labels", -100), "attention_mask": mask}
    return words | _pictures(examples)


def packed(examples: list[Example]) -> dict[str, Any]:
    """All samples in one row, each with positions of its own."""
    ids = [id_ for example in examples for id_ in example.input_ids]
    labels = [label for example in examples for label in example.labels]
    positions = [position for example in examples for position in range(len(example.input_ids))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
    } | _pictures(examples)


def _pictures(examples: list[Example]) -> dict[str, Any]:
    grids = [grid for example in examples for grid in example.image_grids]
    if not grids:
        return {}
    return {"pixel_values": torch.cat([e.pixel_values for e in examples]), "image_grids": torch.tensor(grids)}


def settings(folder: Path | str, **changes: Any) -> Any:
    """Settings of a short run on the CPU."""
    from videochat_online.training.configuration import TrainingConfig

    values = {
        "output_dir": str(folder), "data": ("none.json",), "cpu": True, "precision": "fp32", "tracker": "none",
        "num_workers": 0, "global_batch_size": 4, "batch_size": 2, "learning_rate": 1e-2, "log_every": 1,
        "save_every": 100, "gradient_checkpointing": "none", "drop_path": 0.1, "max_length": 64,
    }  # fmt: skip
    return TrainingConfig(**{**values, **changes})


def make_loop(
    folder: Path | str, *, count: int = 24, model: Any = None, dataset: Any = None, collator: Any = None, **changes: Any
) -> Any:
    """A training loop over `Examples`, as run.py makes one over files; batches are padded without a `collator`."""
    from videochat_online.training.distributed import world_size
    from videochat_online.training.loop import TrainingLoop
    from videochat_online.training.plan import make_plan

    dataset = Examples(count) if dataset is None else dataset
    plan = make_plan(settings(folder, **changes), dataset.lengths, world_size())
    return TrainingLoop(tiny_model() if model is None else model, dataset, collator or padded, plan)
