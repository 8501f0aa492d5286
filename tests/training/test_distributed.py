"""Runs shared by two processes end on the curve of one: ddp, FSDP and ZeRO-1 to 3 over gloo, also after a kill.

All add the same numbers in another order, in float32; 1e-5 is ten times what was seen after six steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.tiny import settings
from tests.training.together import share
from videochat_online.data.settings import SettingError
from videochat_online.training.distributed import (
    check_launcher,
    check_packages,
    data_workers,
    deepspeed_settings,
    filled_in,
    zero_stage,
)
from videochat_online.training.log import read_log
from videochat_online.training.plan import make_plan, steps_text

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5


def losses(folder: Path) -> list[float]:
    lines = [line for line in read_log(folder / "log.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    return [line["loss"] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def together(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.together", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    share(folder, "ddp")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_two_processes_end_where_one_does(alone: Path, tmp_path: Path, strategy: str):
    """Killed in step 5 and resumed; some batches are text alone, on one process or on both."""
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    assert together(str(tmp_path), strategy, "5").returncode != 0
    done = together(str(tmp_path), strategy)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-3" in done.stdout
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=TOLERANCE)
    theirs, ours = weights(tmp_path), weights(alone)
    assert theirs.keys() == ours.keys()
    for key, weight in ours.items():
        torch.testing.assert_close(theirs[key], weight, atol=TOLERANCE, rtol=0, msg=key)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_deepspeed_files(stage: int):
    config = settings("run", strategy=f"zero{stage}")
    assert zero_stage(config) == stage
    values = deepspeed_settings(config)
    assert {"optimizer", "scheduler", "fp16"}.isdisjoint(values)  # ours, as with ddp
    assert stage != 3 or values["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_an_own_deepspeed_file(tmp_path: Path):
    path = tmp_path / "mine.json"
    with pytest.raises(SettingError, match=r"mine.json cannot be read \(No such file"):
        zero_stage(settings("run", strategy=str(path)))
    path.write_text("{}")
    with pytest.raises(SettingError, match=r"sets no zero_optimization\.stage"):
        zero_stage(settings("run", strategy=str(path)))
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert zero_stage(settings("run", strategy=str(path))) == 2


def test_deepspeed_without_torchrun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SettingError, match="--strategy zero2 needs torchrun"):
        check_launcher(settings("run", strategy="zero2"))
    check_launcher(settings("run"))


def test_fsdp_on_the_cpu_is_refused():
    with pytest.raises(SettingError, match="fsdp needs CUDA devices"):
        check_packages(settings("run", strategy="fsdp"))


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("videochat_online.extras.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"peft is missing: pip install 'videochat-online\[train\]'"):
        check_packages(settings("run", llm="lora:4"))
    with pytest.raises(SettingError, match="wandb is missing: pip install wandb"):
        check_packages(settings("run", tracker="wandb"))


def test_a_deepspeed_file_that_contradicts_the_flags(tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}))
    with pytest.raises(SettingError, match=r"mine.json: gradient_clipping is 0.5 there, and 1.0 here"):
        filled_in(settings("run", strategy=str(path)), 2)
    assert filled_in(settings("run", strategy=str(path), max_grad_norm=0.5), 2)["train_batch_size"] == 4
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}}))
    with pytest.raises(SettingError, match="must set no optimizer: the flags do"):
        zero_stage(settings("run", strategy=str(path)))


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(1, 1, 1), (2, 1, 1), (16, 1, 15), (256, 1, 16), (96, 8, 11)]
)
def test_data_workers_are_chosen_from_the_cores_unless_a_number_is_given(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, expected: int
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert data_workers(settings("run", num_workers=None)) == expected
    assert data_workers(settings("run", num_workers=0)) == 0
    assert data_workers(settings("run", num_workers=40)) == 40
    plan = make_plan(settings("run", num_workers=None), [5] * 8, 1)
    assert f"reading          {expected} data worker" in steps_text(plan)
