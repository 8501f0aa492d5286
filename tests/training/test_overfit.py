"""The whole pipeline learns: 16 online dialogues about one clip, each with its own answers, are known by heart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.tiny import settings
from tests.training.world import save_small_model, write_online_list
from videochat_online.processing import load_model
from videochat_online.training.log import read_log
from videochat_online.training.loop import TrainingLoop
from videochat_online.training.run import make_data


class Remembered(torch.utils.data.Dataset):
    """Examples made once: the test is about learning, not about decoding the clip 16 times an epoch."""

    def __init__(self, dataset) -> None:
        self.examples = [dataset[index] for index in range(len(dataset))]
        self.lengths = [len(example.input_ids) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int):
        return self.examples[index]

    def set_epoch(self, epoch: int) -> None:
        """The same in every epoch."""


@pytest.mark.slow
def test_16_online_samples_are_overfitted(tmp_path: Path):
    model, processor = load_model(save_small_model(tmp_path / "start"), device="cpu")
    config = settings(
        tmp_path, model=str(tmp_path / "start"), data=(str(write_online_list(tmp_path, 16)),), max_length=2048,
        global_batch_size=4, batch_size=4, epochs=250, learning_rate=3e-3, drop_path=0.0, log_every=20,
        save_every=1000, num_frames=6,
    )  # fmt: skip
    dataset, collator, plan, _ = make_data(config, processor, model.config, 1)
    loop = TrainingLoop(model, Remembered(dataset), collator, plan)
    assert loop.train()
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert losses[0] > 1 and losses[-1] < 0.05, losses
