"""Models of other families in whole runs: learnt, resumed, checked, saved so that their class loads them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.training.test_families import CLIP, ROOT
from tests.training.world import write_online_list
from videochat_online.cli import main
from videochat_online.model.weights import load_facts
from videochat_online.training.log import read_log


def flags_of(models: Path, family: str, folder: Path, *more: str) -> list[str]:
    places = ["--model", str(models / family), "--data", str(folder / "list.json"), "--output-dir", str(folder / "run")]
    quick = ["--num-workers", "0", "--num-frames", "2", "--frame-cache", str(folder / "frames"), "--log-every", "1"]
    quick += ["--gradient-checkpointing", "none", "--warmup", "0", "--schedule", "constant_with_warmup"]
    return ["train", "--preset", "finetune", *places, *quick, "--cpu", "--tracker", "none", *more]


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.parametrize("llm", ["lora:16", "full"])
@pytest.mark.parametrize("family", ["internvl", "qwen3_vl"])
def test_two_rows_are_learnt_and_the_model_is_asked(models: Path, family: str, llm: str, tmp_path: Path, capsys):
    """Through the command line: loss and answers of the rows, its own class, `info`, `chat`."""
    write_online_list(tmp_path, 2)
    more = [
        "--llm",
        llm,
        "--learning-rate",
        "1e-2",
        "--max-steps",
        "40",
        "--global-batch-size",
        "2",
        "--batch-size",
        "2",
    ]
    assert main(flags_of(models, family, tmp_path, *more)) == 0
    told = capsys.readouterr().out
    losses = losses_of(tmp_path / "run")
    assert losses[0] > 5 and losses[-1] < 1.5, losses
    assert "right answers" in told and f"{llm:12}" in told
    folder = tmp_path / "run" / "model"
    theirs, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    before = AutoModelForImageTextToText.from_pretrained(models / family).state_dict()
    changed = {name for name, weight in theirs.state_dict().items() if not weight.equal(before[name])}
    connector = ("model.multi_modal_projector.", "model.visual.merger.", "model.visual.deepstack_merger_list.")
    assert {name for name in changed if name.startswith(connector)}
    assert all(name.startswith((*connector, "model.language_model.", "lm_head.")) for name in changed)
    assert (folder / "preprocessor_config.json").read_text() == (
        models / family / "preprocessor_config.json"
    ).read_text()
    facts = load_facts(folder)  # a stream shows it what training showed it: squares, averaged
    assert (facts.any_shape, facts.small_frames, facts.note) == (False, "pooled", "")
    asked = ["-q", "What is happening now?", "--at", "4", "--max-new-tokens", "4", "--device", "cpu", "--json"]
    assert main(["chat", str(CLIP), *asked, "--model", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["answer"]


def test_answers_of_an_evaluation_are_learnt(models: Path, tmp_path: Path):
    """Words are generated with the positions of the prompt: what was learnt by heart is answered right."""
    write_online_list(tmp_path, 2)
    more = ["--llm", "full", "--learning-rate", "1e-2", "--max-steps", "80", "--global-batch-size", "2"]
    assert main(flags_of(models, "qwen3_vl", tmp_path, *more, "--batch-size", "2", "--eval-every", "80")) == 0
    evaluations = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "eval_loss" in line]
    assert evaluations[-1]["eval_accuracy"] == 1.0
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert {one["question"] for one in answers} == {"And now?"}


def test_an_adapter_is_the_merged_model_in_another_form(models: Path, tmp_path: Path):
    peft = pytest.importorskip("peft")
    write_online_list(tmp_path, 1)
    flags = flags_of(models, "qwen3_vl", tmp_path, "--vision", "lora:2:8", "--llm", "lora:4", "--learning-rate", "1e-2")
    flags += ["--max-steps", "2", "--resume", "auto"]
    assert main([*flags, "--export", "adapter"]) == 0
    folder = tmp_path / "run" / "model"
    about = json.loads((folder / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(models / "qwen3_vl")
    theirs = AutoModelForImageTextToText.from_pretrained(models / "qwen3_vl")
    joined = peft.PeftModel.from_pretrained(theirs, folder).merge_and_unload().state_dict()
    assert main(flags) == 0  # the run has ended: it is exported again
    merged = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    assert joined.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(joined[name], weight, atol=1e-6, rtol=1e-5)


KILLED = """
import os, signal, sys
from videochat_online.cli import main
from videochat_online.model.weights import load_facts
from videochat_online.training.loop import TrainingLoop
step = TrainingLoop.take_step
def take_step(self, batches):
    if self.state.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batches)
TrainingLoop.take_step = take_step
main(sys.argv[1:])
"""


@pytest.mark.parametrize("llm", ["lora:4", "full"])
def test_a_killed_run_ends_as_if_never(models: Path, llm: str, tmp_path: Path):
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
        write_online_list(tmp_path / name, 2)
    more = ["--llm", llm, "--max-steps", "5", "--save-every", "2", "--resume", "auto", "--checkpoint-weights", "auto"]
    assert main(flags_of(models, "qwen3_vl", tmp_path / "once", *more)) == 0
    flags = flags_of(models, "qwen3_vl", tmp_path / "killed", *more)
    done = subprocess.run([sys.executable, "-c", KILLED, *flags], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    checkpoint = tmp_path / "killed/run/checkpoint-2"
    assert (checkpoint / ("model.safetensors" if llm == "full" else "trained.safetensors")).is_file()
    assert main(flags) == 0
    runs = [tmp_path / name / "run" for name in ("once", "killed")]
    assert losses_of(runs[0]) == losses_of(runs[1]) and len(losses_of(runs[0])) == 5
    once, killed = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert all(weight.equal(killed[name]) for name, weight in once.items())


def test_check_says_what_it_sees_and_what_cannot_be(models: Path, tmp_path: Path, capsys):
    write_online_list(tmp_path, 3)
    flags = flags_of(models, "smolvlm", tmp_path, "--check")
    assert main(flags) == 0
    told = capsys.readouterr().out
    assert "connector        full" in told and "llm              lora:32" in told and "no problems" in told
    assert not (tmp_path / "run").exists()
    wrong = ["--drop-path", "0.1", "--max-dynamic-patch", "4"]
    message = "for models of type 'smolvlm' --drop-path must be 0"
    assert main([*flags, *wrong]) == 1 and message in capsys.readouterr().out
    flags.remove("--check")
    assert main([*flags, *wrong]) == 2 and message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_lora_with_quantized_weights(models: Path, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    write_online_list(tmp_path, 1)
    more = ["--quantize", "int8", "--llm", "lora:4", "--learning-rate", "1e-2", "--max-steps", "3"]
    assert main(flags_of(models, "qwen3_vl", tmp_path, *more)) == 0
    before, after = (load_file(one / "model.safetensors") for one in (models / "qwen3_vl", tmp_path / "run/model"))
    assert before.keys() == after.keys()
    assert before["model.visual.blocks.0.attn.qkv.weight"].equal(after["model.visual.blocks.0.attn.qkv.weight"])
