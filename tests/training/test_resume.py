"""A run that is killed, terminated or out of room is resumed and ends with the numbers of one that never was.

The lives are processes of their own (lives.py), ended by real signals; sums are taken in the same order, so that the
losses are equal to the bit; 1e-6 is what is promised.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import make_loop
from videochat_online.training.log import read_log

ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder of the runs, how their lives ended)."""
    folder = tmp_path_factory.mktemp("lives")
    command = [sys.executable, "-m", "tests.training.lives", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def told(folder: Path) -> str:
    return (folder / "told.txt").read_text("utf-8")


def assert_same_curve(run: Path, once: Path) -> None:
    """Every step's loss stands once in the log, and is the one of the run that lived once."""
    losses = [[line for line in read_log(folder / "log.jsonl") if "loss" in line] for folder in (run, once)]
    assert [line["step"] for line in losses[0]] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in losses[0]] == pytest.approx([line["loss"] for line in losses[1]], abs=1e-6)
    final = [read_log(folder / "log.jsonl")[-1]["train_loss"] for folder in (run, once)]
    assert final[0] == pytest.approx(final[1], abs=1e-6)


WAYS = pytest.mark.parametrize("way", ["", " while training"], ids=["at once", "while training"])
"""How checkpoints are written."""


@WAYS
def test_killed_three_times_it_ends_as_if_never(lives: tuple[Path, dict[str, Any]], way: str):
    folder, outcome = lives
    assert outcome["once"]["ends"] == [0]
    assert outcome[f"killed{way}"]["ends"] == [-9, -9, -9, 0], outcome[f"killed{way}"]
    assert_same_curve(folder / f"killed{way}", folder / "once")


def test_killed_with_checkpoints_of_trained_weights_alone(lives: tuple[Path, dict[str, Any]]):
    folder, outcome = lives
    assert outcome["pairs"]["ends"] == [-9, -9, -9, 0], outcome["pairs"]
    assert_same_curve(folder / "pairs", folder / "pairs_once")
    assert (folder / "pairs" / "checkpoint-12" / "base.json").is_file()


@WAYS
def test_sigterm_saves_first(lives: tuple[Path, dict[str, Any]], way: str):
    folder, outcome = lives
    assert outcome[f"terminated{way}"] == {"ends": [143, 0], "left": ["checkpoint-4", "checkpoint-5"]}
    assert "checkpoint-5" in told(folder / f"terminated{way}")
    assert_same_curve(folder / f"terminated{way}", folder / "once")


@WAYS
def test_a_full_disk_is_named_and_the_older_checkpoint_stays(lives: tuple[Path, dict[str, Any]], way: str):
    folder, outcome = lives
    assert outcome[f"full{way}"] == {"ends": [2, 2, 0], "left": ["checkpoint-2"]}
    run = folder / f"full{way}"
    errors = [line for line in told(run).splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    for error in errors:
        assert "checkpoint-4 could not be written" in error and "GiB are free" in error
        assert f"{run / 'checkpoint-2'} is whole: resume it with --resume auto" in error
    assert_same_curve(run, folder / "once")


def test_a_run_that_had_ended_only_loads_its_weights(tmp_path: Path):
    for life in ("first", "second"):
        loop = make_loop(tmp_path, count=24, resume="auto", max_steps=2)
        assert loop.train()
        state = {key: weight.clone() for key, weight in loop.state.model.state_dict().items()}
        if life == "first":
            log, ended = (tmp_path / "log.jsonl").read_bytes(), state
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert all(torch.equal(weight, ended[key]) for key, weight in state.items())
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
