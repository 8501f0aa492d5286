"""Runs shared by two processes end on the curve of one: ddp, FSDP and ZeRO-1 to 3 over gloo, also after a kill.

All add the same numbers in another order, in float32; 1e-5 is ten times what was seen after six steps.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.start import save_model
from tests.training.tiny import settings
from tests.training.together import share
from videochat_online.data.settings import SettingError
from videochat_online.training.distributed import (
    SequenceParts,
    check_launcher,
    check_packages,
    data_workers,
    deepspeed_settings,
    filled_in,
    standstill,
    zero_stage,
)
from videochat_online.training.log import read_log
from videochat_online.training.plan import RunShape, make_plan, steps_text

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5


def losses(folder: Path) -> list[float]:
    lines = [line for line in read_log(folder / "log.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    lines += [line | {"loss": line["eval_loss"]} for line in read_log(folder / "log.jsonl") if "eval_loss" in line]
    assert [line["step"] for line in lines[6:]] == [0, 3, 6]
    return [line["loss"] for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def torchrun(module: str, *arguments: str, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", module, *arguments]
    values = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=False, timeout=600)


def together(*arguments: str) -> subprocess.CompletedProcess[str]:
    return torchrun("tests.training.together", *arguments)


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
    assert together(str(tmp_path), strategy, "--stop", "5").returncode != 0
    done = together(str(tmp_path), strategy)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-3" in done.stdout
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=TOLERANCE)
    theirs, ours = weights(tmp_path), weights(alone)
    assert theirs.keys() == ours.keys()
    for key, weight in ours.items():
        torch.testing.assert_close(theirs[key], weight, atol=TOLERANCE, rtol=0, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("data", r"rank 1 \(process \d+ on \S+\) is still in step 3, reading data"),
        ("stopped", r"rank 1 \(process \d+ on \S+\) does not answer since step 3, reading data"),
    ],
)
def test_a_process_that_hangs_ends_the_run_and_is_named(tmp_path: Path, how: str, said: str):
    """--timeout is 9 seconds; a stopped process is killed, which torchrun itself would do ten minutes later."""
    done = torchrun("tests.training.hang", str(tmp_path), how, TORCH_ELASTIC_SHUTDOWN_TIMEOUT="600")
    assert done.returncode != 0
    told = [line.split("error: ", 1)[1] for line in done.stderr.splitlines() if "error: the run stands still" in line]
    assert len(told) == 1, done.stderr
    expected = rf"the run stands still for 0.15 minutes \(--timeout\): {said}; the others wait in step 3, computing\."
    assert re.match(expected, told[0])


def test_what_is_said_of_a_standstill():
    at = [[5, "computing", 7, "a", 11], [4, "saving", 7, "a", 12], [5, "computing", 7, "b", 13]]
    moved = [[*place[:2], 8, *place[3:]] for place in at]
    assert "rank 1 (process 12 on a) is still in step 4, saving; the others wait in step 5" in standstill(at, moved, 1)
    assert "rank 2 (process 13 on b) does not answer" in standstill(at, [*moved[:2], at[2]], 30)
    same = [moved[0], moved[0], moved[2]]
    assert standstill([at[0], at[0], at[2]], same, 1).count("is still in step 5, computing") == 3  # a network, perhaps
    assert "others" not in standstill([at[0], at[0], at[2]], same, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "share"), [("fsdp", 0.98), ("zero3", 0.75)])
def test_one_process_alone_holds_the_whole_model_at_the_start(tmp_path: Path, strategy: str, share: float):
    """The other one holds its half, and for a moment the largest weight; before, more than the whole (1.6 times)."""
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    done = torchrun("tests.training.start", str(save_model(tmp_path / "model")), str(tmp_path / "run"), strategy)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"rank 1: weights (\d+) MiB, peak (\d+) MiB", done.stdout)
    size, peak = map(int, found[0])
    assert size > 350 and 0.4 * size < peak < share * size


@pytest.mark.slow
def test_fsdp_resumes_on_another_number_of_processes(alone: Path, tmp_path: Path):
    assert together(str(tmp_path), "fsdp", "--stop", "5").returncode != 0
    done = torchrun("tests.training.together", str(tmp_path), "fsdp", processes=1)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-3" in done.stdout
    assert losses(tmp_path) == pytest.approx(losses(alone), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch_size": 2}, "--batch-size must be 1 with --sequence-parallel"),
        ({"batch_size": 1, "strategy": "fsdp"}, "--strategy must be ddp or zero1 or zero2 or zero3 with --sequence"),
        ({"batch_size": 1, "attention": "eager"}, "needs --attention sdpa, or flash_attention_2"),
        ({"batch_size": 1, "batching": "packed"}, "alone sees where packed samples begin"),
    ],
)
def test_what_shared_sequences_need(changes: dict[str, Any], problem: str):
    with pytest.raises(SettingError, match=problem):
        settings("run", sequence_parallel=2, **changes)


def test_sequences_are_shared_by_a_part_of_the_processes():
    config = settings("run", sequence_parallel=2, batch_size=1, global_batch_size=8)
    assert make_plan(config, [9] * 8, 4).shape == RunShape(2, "ddp", 1, 4)
    with pytest.raises(SettingError, match="--sequence-parallel 2 must divide the number of processes, 3"):
        make_plan(config, [9] * 8, 3)


def test_the_parts_of_a_sequence(monkeypatch: pytest.MonkeyPatch):
    parts = []
    for number in ("0", "1", "2"):
        monkeypatch.setenv("RANK", number)
        parts.append(SequenceParts(3).part(torch.tensor([[1, 2, 3, 4]]), fill=-100, more=1).tolist())
    assert parts == [[[1, 2, 3]], [[3, 4, -100]], [[-100, -100, -100]]]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "longrope"), [("ddp", False), ("ddp", True), ("zero2", False), ("zero3", False)])
def test_two_processes_share_each_sequence(tmp_path: Path, strategy: str, longrope: bool):
    """Losses, gradients' norms and weights are those of whole sequences; one head of keys and values serves both."""
    pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    flags = ["--batch-size", "1", *(["--longrope"] if longrope else [])]
    once = torchrun("tests.training.together", str(tmp_path / "alone"), "ddp", *flags, processes=1)
    assert once.returncode == 0, once.stderr
    done = together(str(tmp_path / "shared"), strategy, "--sequence-parallel", "2", *flags)
    assert done.returncode == 0, done.stderr
    shared, alone = (
        [line for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line] for name in ("shared", "alone")
    )
    for name in ("grad_norm", "padding_share"):
        assert [line[name] for line in shared] == pytest.approx([line[name] for line in alone], abs=TOLERANCE), name
    assert losses(tmp_path / "shared") == pytest.approx(losses(tmp_path / "alone"), abs=TOLERANCE)
    theirs, ours = weights(tmp_path / "shared"), weights(tmp_path / "alone")
    for key, weight in ours.items():
        torch.testing.assert_close(theirs[key], weight, atol=TOLERANCE, rtol=0, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_a_gradient_of_many_micro_batches(tmp_path: Path, strategy: str):
    """512 equal ones in bfloat16: with the shipped file exact, without its fp32 sums off by 30 %."""
    pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    values = deepspeed_settings(settings("run", strategy=strategy))
    without = {name: value for name, value in values.items() if name != "data_types"}
    (tmp_path / "bf16.json").write_text(json.dumps(without))
    errors = {}
    for name in (strategy, str(tmp_path / "bf16.json")):
        done = torchrun("tests.training.accumulate", name, processes=1)
        assert done.returncode == 0, done.stderr
        errors[name] = float(re.findall(r"^error (\S+)", done.stdout, re.MULTILINE)[0])
    assert errors.pop(strategy) < 1e-3 < 0.1 < errors.popitem()[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero3"])
def test_pairs_alone_are_shared_and_resumed(tmp_path: Path, strategy: str):
    """Killed in step 5; the checkpoint that is resumed holds the trained weights only."""
    pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    share(tmp_path / "alone", "ddp+pairs")
    assert together(str(tmp_path / "run"), f"{strategy}+pairs", "--stop", "5").returncode != 0
    assert (tmp_path / "run" / "checkpoint-3" / "trained.safetensors").is_file()
    done = together(str(tmp_path / "run"), f"{strategy}+pairs")
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), abs=TOLERANCE)
    for key, weight in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "run")[key], weight, atol=TOLERANCE, rtol=0, msg=key)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_deepspeed_files(stage: int):
    config = settings("run", strategy=f"zero{stage}")
    assert zero_stage(config) == stage
    values = deepspeed_settings(config)
    assert {"optimizer", "scheduler", "fp16"}.isdisjoint(values)  # ours, as with ddp
    assert values["data_types"] == {"grad_accum_dtype": "fp32"}  # see test_a_gradient_of_many_micro_batches
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
    with pytest.raises(SettingError, match="--sequence-parallel needs torchrun"):
        check_launcher(settings("run", sequence_parallel=2, batch_size=1))
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
