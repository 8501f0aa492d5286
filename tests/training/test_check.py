"""`--check`: the plan of a run on real files, all problems in one report, and both 4B scripts with their memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.world import save_small_model, write_online_list
from videochat_online.training.commands import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"))


def check(model: Path, data: Path, output: Path, *flags: str) -> int:
    return main(["--check", "--model", str(model), "--data", str(data), "--output-dir", str(output), "--cpu", *flags])


def test_the_plan(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 10)
    flags = ["--global-batch-size", "4", "--num-processes", "2", "--epochs", "3", "--num-workers", "0"]
    assert check(model, data, tmp_path / "run", *flags) == 0
    told = capsys.readouterr().out
    assert re.search(r"^online +10 +10 +20 ", told, re.MULTILINE)  # rows, samples, questions
    assert re.search(r"samples +10 an epoch, [\d,]+ tokens \(estimated\), [\d.]+% padding \(grouped\)", told)
    assert "4 samples: 2 processes x 2 times x 1 sample" in told
    assert "9 (3 an epoch), 1 of them warm-up" in told
    assert "language_model   full" in told and "memory on each GPU" in told and told.endswith("no problems\n")
    assert not (tmp_path / "run").exists()


def test_all_problems_in_one_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 3)
    rows = json.loads((tmp_path / "rows.json").read_text())
    rows[0]["video"] = "none.mp4"
    rows[1]["conversations"][0]["timestamps"] = 900.0
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-3" / "weights").write_text("half")
    flags = ["--strategy", "mine.json", "--vision", "last:9", "--resume", "auto", "--num-workers", "0"]
    assert check(model, data, tmp_path / "run", *flags) == 1
    told = capsys.readouterr().out
    for problem in ("none.mp4", "online, row 1", "mine.json cannot be read", "--vision last:9: the encoder has 2"):
        assert problem in told
    assert "checkpoint-3: it has no complete.json" in told
    assert told.splitlines()[-5] == "4 problems:"


@pytest.mark.parametrize("what", ["annotation", "list", "model"])
def test_a_missing_file_is_named(model: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 2)
    gone = {"annotation": tmp_path / "rows.json", "list": data, "model": tmp_path / "nomodel"}[what]
    gone.unlink(missing_ok=True)
    assert check(gone if what == "model" else model, data, tmp_path / "run", "--num-workers", "0") == 1
    assert str(gone) in capsys.readouterr().out


def test_what_does_not_divide(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 4)
    flags = ["--global-batch-size", "6", "--num-processes", "4", "--num-workers", "0"]
    assert check(model, data, tmp_path / "run", *flags) == 1
    assert "--global-batch-size 6 must be a multiple" in capsys.readouterr().out


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
    shutil.copytree(golden / "tokenizers" / "phi3_fast", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(FULL_SIZE))
    told = run_script(stage, tmp_path, "--check", "--batching", "packed" if stage == 2 else "grouped")
    assert re.search(r"vision_model +frozen +304,", told)
    assert re.search(r"total +4,1\d\d,\d{3},\d{3} ", told)
    sizes = {name: float(size) for name, size in re.findall(r"^  (\w+) +([\d.]+)", told, re.MULTILINE)}
    assert sizes["weights"] == pytest.approx(2 * 4.14e9 / 2**30, rel=0.01)  # ZeRO-1 in bf16
    assert sizes["gradients"] == pytest.approx(2 * 3.84e9 / 2**30, rel=0.01)
    assert sizes["optimizer"] == pytest.approx(12 * 3.84e9 / 8 / 2**30, rel=0.01)
    assert 20 < sizes["total"] < 80
    assert "8 processes x " in told and "zero1, 8 processes, bf16" in told


def run_script(stage: int, folder: Path, *flags: str) -> str:
    (folder / "data").mkdir()
    environment = {
        **os.environ, "DATA": str(write_online_list(folder / "data", 16)), "MODEL": str(folder / "model"),
        "OUTPUT_DIR": str(folder / "run"), "DATA_ROOT": "/data", "ANNO_ROOT": "/anno",
        "VIRTUAL_ENV": sys.prefix, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = ROOT / "shell" / "online_4b" / f"videochat_online_4b_stage{stage}_ft.sh"
    done = subprocess.run(
        ["bash", str(script), *flags], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    *_, last = done.stdout.splitlines()
    assert last == "no problems" or ("--output-dir" in last and "1 problem:" in done.stdout), done.stdout + done.stderr
    return done.stdout  # this machine may well have no room for the checkpoints


@pytest.mark.parametrize("stage", [1, 2])
def test_the_4b_scripts_need_their_data(stage: int):
    script = ROOT / "shell" / "online_4b" / f"videochat_online_4b_stage{stage}_ft.sh"
    environment = {name: value for name, value in os.environ.items() if name not in ("DATA_ROOT", "ANNO_ROOT")}
    done = subprocess.run(
        ["bash", str(script), "--check"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "DATA_ROOT is not set" in done.stderr
