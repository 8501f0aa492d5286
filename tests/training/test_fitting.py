"""--memory-limit: a run fits or is told what would, the least loss first; the program refuses one that does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.training.test_scripts import FULL_SIZE
from tests.training.tiny import settings
from tests.training.world import save_small_model, write_online_list
from videochat_online.data.settings import SettingError
from videochat_online.model_config import VideoChatOnlineConfig
from videochat_online.training.commands import main
from videochat_online.training.configuration import PRESETS, TrainingConfig, size_of
from videochat_online.training.memory import memory_problem

pytest.importorskip("peft", reason="needs peft: pip install 'videochat-online[train]'")

FULL = VideoChatOnlineConfig(**{name: value for name, value in FULL_SIZE.items() if name != "model_type"})


def finetune(**changes: object) -> TrainingConfig:
    return TrainingConfig(**{**PRESETS["finetune"], "precision": "bf16", **changes})  # type: ignore[arg-type]


def rows_of(told: str) -> list[tuple[float, str]]:
    return [(float(size), flags) for size, flags in re.findall(r"^ +([\d.]+)  (--.*)$", told, re.MULTILINE)]


def test_the_4b_model_is_finetuned_on_24_gib():
    """The longest sample has 8,192 tokens; with frozen weights in float32 it did not fit."""
    told, problem = memory_problem(FULL, finetune(memory_limit="24GiB"), 1, [8192])
    assert problem is None and re.search(r"24\.0 GiB, and 1[45]\.\d GiB are estimated: the run fits", told)
    told, problem = memory_problem(FULL, finetune(memory_limit="24GiB", frozen_dtype="float32"), 1, [8192])
    assert problem and problem.startswith("--memory-limit 24GiB: the run is estimated to want 3")
    assert rows_of(told)[0][1] == "--frozen-dtype auto"


def test_what_loses_least_comes_first():
    told, problem = memory_problem(FULL, finetune(memory_limit="10GiB"), 1, [8192])
    assert problem and [flags for _, flags in rows_of(told)] == ["--quantize nf4"]
    told, _ = memory_problem(FULL, finetune(memory_limit="16GB", llm="full", gradient_checkpointing="none"), 1, [8192])
    found = rows_of(told)
    assert 2 <= len(found) <= 5 and all("--llm lora:" in flags for _, flags in found)
    assert all(size <= 16e9 / 2**30 for size, _ in found)
    assert found[0][1] == "--gradient-checkpointing all --quantize int8 --llm lora:64", "no tokens are lost"
    told, problem = memory_problem(FULL, finetune(memory_limit="2GiB"), 1, [8192])
    assert problem and "nothing of this: a smaller model, or more GPUs" in told


def test_several_gpus_share_before_less_is_trained():
    pytest.importorskip("deepspeed", reason="needs deepspeed: pip install 'videochat-online[train]'")
    told, problem = memory_problem(FULL, finetune(memory_limit="80GiB", llm="full", global_batch_size=8), 8, [8192])
    assert problem and [flags for _, flags in rows_of(told)] == ["--strategy zero1", "--llm lora:64"]
    told, _ = memory_problem(FULL, finetune(memory_limit="24GiB", llm="full", global_batch_size=8), 8, [8192])
    assert rows_of(told)[0][1] == "--strategy zero2"
    told, _ = memory_problem(FULL, finetune(memory_limit="80GiB", llm="full"), 1, [8192])
    assert "--strategy" not in told, "a process alone has nobody to share with"


SIZES = {"24GiB": 24 * 2**30, "24": 24 * 2**30, "24 GB": 24e9, "1.5tib": 1.5 * 2**40, "512M": 512e6, "80G": 80e9}


@pytest.mark.parametrize("text", SIZES)
def test_sizes(text: str):
    assert size_of(text) == SIZES[text]


@pytest.mark.parametrize("text", ["much", "-1GiB", "0", "24 apples", "GiB"])
def test_what_is_no_size(text: str):
    with pytest.raises(SettingError, match="--memory-limit must be a size such as 24GiB"):
        settings("run", memory_limit=text)


def test_the_program_refuses_what_does_not_fit(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """`--check` as a problem of the report, a run before it trains."""
    flags = ["--model", str(save_small_model(tmp_path / "start")), "--data", str(write_online_list(tmp_path, 4))]
    flags += ["--output-dir", str(tmp_path / "run"), "--cpu", "--num-workers", "0", "--tracker", "none"]
    flags += ["--max-steps", "2", "--global-batch-size", "2", "--batch-size", "2"]
    assert main([*flags, "--check", "--memory-limit", "1GiB"]) == 0
    assert "the run fits" in capfd.readouterr().out
    assert main([*flags, "--check", "--memory-limit", "6M"]) == 1
    told = capfd.readouterr().out
    assert "1 problem:\n  --memory-limit 6M: the run is estimated to want 0.0 GiB on each GPU" in told
    assert main([*flags, "--memory-limit", "6M"]) == 2
    assert "the table above has settings that fit" in capfd.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoint-*"))
