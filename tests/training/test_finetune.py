"""`--preset finetune` on six clips, as a user runs it; and that a second run keeps out of the first one's folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.world import save_small_model, write_online_list
from videochat_online.files import LOCK_FILE
from videochat_online.training.commands import main
from videochat_online.training.log import read_log

ROOT = Path(__file__).parents[2]


def flags_of(folder: Path, *more: str) -> list[str]:
    model, data = save_small_model(folder / "start"), write_online_list(folder, 6)
    places = ["--model", str(model), "--data", str(data), "--output-dir", str(folder / "run")]
    quick = ["--num-workers", "0", "--num-frames", "4", "--frame-cache", str(folder / "frames")]
    return ["--preset", "finetune", *places, *quick, "--cpu", "--tracker", "none", *more]


def test_finetune_changes_the_model_and_lowers_the_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(flags_of(tmp_path, "--max-steps", "24", "--log-every", "4", "--gradient-checkpointing", "none")) == 0
    told = capfd.readouterr().out
    assert "WARNING: " not in told and f"the trained model is in {tmp_path / 'run' / 'model'}" in told
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert losses[-1] < losses[0] - 1, losses
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "start", tmp_path / "run/model"))
    changed = {key.split(".")[0] for key, weight in after.items() if not weight.equal(before[key])}
    assert changed == {"mlp1", "language_model"}


def test_a_second_run_keeps_out_and_a_killed_one_can_be_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    flags = flags_of(tmp_path, "--max-steps", "2", "--global-batch-size", "1")
    first = subprocess.Popen(
        [sys.executable, "-m", "videochat_online.training", *flags, "--max-steps", "100000"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert first.stdout is not None and any(line.startswith("steps ") for line in first.stdout)
        settings = (tmp_path / "run" / "settings.json").read_text()
        assert main(flags) == 2
        told = capfd.readouterr().err
        assert f"run is being written by another process (process {first.pid} on " in told
        assert (tmp_path / "run" / "settings.json").read_text() == settings
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    assert main([*flags, "--resume", "auto"]) == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["max_steps"] == 2
