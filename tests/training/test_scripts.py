"""The scripts of both stages: the 4B model's plan for eight GPUs with its memory, and the small model's real runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.world import write_online_list

SHELL = Path(__file__).parents[2] / "shell"
FULL_SIZE_SCRIPT = "online_4b/videochat_online_4b_stage{}_ft.sh"


def run_script(script: str, folder: Path, *flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """In the environment of these tests, from another folder."""
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix} | settings
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(SHELL / script), *flags]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def need_training_packages() -> None:
    """The scripts would make an environment of their own where the active one lacks what training needs."""
    for package in ("peft", "deepspeed", "tensorboard"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'videochat-online[train]'")


FULL_SIZE = {
    "model_type": "internvl_chat", "template": "phi3-chat", "downsample_ratio": 0.5, "ps_version": "v2",
    "force_image_size": 448, "vision_config": {"model_type": "intern_vit_6b"},
    "llm_config": {
        "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "vocab_size": 32020, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000, "rope_theta": 10000.0,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": [1.1] * 48},
    },
}  # fmt: skip
"""config.json of InternVL2-4B, without its weights."""


@pytest.mark.parametrize("stage", [1, 2])
def test_the_4b_scripts(stage: int, tmp_path: Path, golden: Path):
    """`--check` on a machine without GPU plans for 8 of them, from config.json and tokenizer alone."""
    need_training_packages()
    shutil.copytree(golden / "tokenizers" / "phi3_fast", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(FULL_SIZE))
    told = check_4b(stage, tmp_path, "--check", *([] if stage == 2 else ["--batching", "grouped"]))
    assert ("packing          " in told and " x 1 sequence\n" in told) == (stage == 2)  # unless told otherwise
    assert re.search(r"vision_model +frozen +304,", told)
    assert re.search(r"total +4,1\d\d,\d{3},\d{3} ", told)
    sizes = {name: float(size) for name, size in re.findall(r"^  (\w+) +([\d.]+)", told, re.MULTILINE)}
    assert sizes["weights"] == pytest.approx(2 * 4.14e9 / 2**30, rel=0.01)  # ZeRO-1 in bf16
    assert sizes["gradients"] == pytest.approx(6 * 3.84e9 / 2**30, rel=0.01)  # with their sums in fp32
    assert sizes["optimizer"] == pytest.approx(12 * 3.84e9 / 8 / 2**30, rel=0.01)
    assert 20 < sizes["total"] < 80
    assert "8 processes x " in told and "zero1, 8 processes, bf16" in told


@pytest.mark.parametrize("script", [*map(FULL_SIZE_SCRIPT.format, (1, 2)), "pocket/train_all.sh", "pocket/evidence.sh"])
def test_help_lists_the_settings_of_a_script_and_starts_nothing(script: str, tmp_path: Path):
    done = run_script(script, tmp_path, "--help", PATH="/usr/bin:/bin", DATA_ROOT="", VIRTUAL_ENV="")
    assert done.returncode == 0 and "NUM_GPUS" in done.stdout and done.stderr == ""
    assert "==" not in done.stdout and "set -euo" not in done.stdout


def check_4b(stage: int, folder: Path, *flags: str) -> str:
    (folder / "data").mkdir()
    settings = {"DATA": str(write_online_list(folder / "data", 16)), "MODEL": str(folder / "model")}
    settings |= {"OUTPUT_DIR": str(folder / "run"), "DATA_ROOT": "/data", "ANNO_ROOT": "/anno"}
    flags = ("--global-batch-size", "8", "--max-steps", "20", *flags)  # 16 samples fill no step of the published 1,024
    done = run_script(FULL_SIZE_SCRIPT.format(stage), folder, *flags, **settings)
    *_, last = done.stdout.splitlines()
    assert last == "no problems" or ("--output-dir" in last and "1 problem:" in done.stdout), done.stdout + done.stderr
    return done.stdout  # this machine may well have no room for the checkpoints


@pytest.mark.parametrize("stage", [1, 2])
def test_the_4b_scripts_need_their_data(stage: int, tmp_path: Path):
    done = run_script(FULL_SIZE_SCRIPT.format(stage), tmp_path, "--check", DATA_ROOT="", ANNO_ROOT="")
    assert done.returncode == 1 and "DATA_ROOT is not set" in done.stderr


@pytest.mark.slow
def test_both_pocket_stages(tmp_path: Path):
    """From nothing: the world, stage 1, a plan of stage 2, stage 2 from stage 1's model; run again, nothing is left."""
    need_training_packages()
    settings = {"WORLD": str(tmp_path / "short"), "VIDEOS": "2", "PICTURES": "2", "MODEL": "pocket"}
    flags = ["--max-steps", "2", "--global-batch-size", "4", "--batch-size", "2", "--num-frames", "4"]
    run = tmp_path / "stage1"
    first = run_script("pocket/stage1.sh", tmp_path, *flags, **settings, OUTPUT_DIR=str(run))
    assert first.returncode == 0, first.stderr
    settings |= {"WORLD": str(tmp_path / "long"), "MODEL": str(run / "model"), "OUTPUT_DIR": str(tmp_path / "stage2")}
    plan = run_script("pocket/stage2.sh", tmp_path, "--check", *flags, **settings)
    assert plan.returncode == 0 and "shapeworld_dialogue" in plan.stdout and "no problems" in plan.stdout
    for _ in range(2):
        second = run_script("pocket/stage2.sh", tmp_path, *flags, **settings)
        assert second.returncode == 0, second.stderr
        assert f"the trained model is in {tmp_path / 'stage2' / 'model'}" in second.stdout
    assert f"resuming from {tmp_path / 'stage2' / 'checkpoint-2'}" in second.stdout
    begun = json.loads((tmp_path / "stage2" / "settings.json").read_text())
    assert begun["model"] == str(run / "model") and begun["cpu"]
