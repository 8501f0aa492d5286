"""Runs with held-out rows, as a user starts them: what is said, what is written, on one process and on two."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.training.world import save_small_model
from videochat_online.training import log as log_module
from videochat_online.training.commands import main
from videochat_online.training.log import read_log

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue", "yellow")
OPTIONS = "\nOptions:\n" + "\n".join(f"({letter}) {colour}" for letter, colour in zip("ABCD", COLOURS, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"))


def write_rows(folder: Path, name: str, numbers: range, answer: str = "") -> Path:
    """Pictures of one colour, asked for its letter, its name, or both; every fifth row is text alone."""
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        colour, letter = COLOURS[number % 4], "ABCD"[number % 4]
        Image.new("RGB", (32, 32), colour).save(folder / f"{number}.png")
        turns = [
            (f"Which colour is number {number}?", answer or colour),
            (f"Which?{OPTIONS}", answer or f"({letter}) {colour}"),
        ]
        said = [({"from": "human", "value": question}, {"from": "gpt", "value": text}) for question, text in turns]
        row = {"conversations": [one for pair in said[: 1 + number % 2] for one in pair]}
        rows.append(row if number % 5 == 4 else {"image": f"{number}.png", **row})
    (folder / f"{name}_rows.json").write_text(json.dumps(rows))
    (folder / f"{name}.json").write_text(json.dumps({name: {"annotation": f"{name}_rows.json", "data_root": "."}}))
    return folder / f"{name}.json"


def flags_of(model: Path, folder: Path, *more: str) -> list[str]:
    data = write_rows(folder, "mine", range(20))
    places = ["--model", str(model), "--data", str(data), "--output-dir", str(folder / "run")]
    small = ["--global-batch-size", "4", "--num-workers", "0", "--frame-times", "always", "--log-every", "1"]
    return [*places, *small, "--learning-rate", "3e-3", "--drop-path", "0", "--cpu", "--tracker", "none", *more]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = [line for line in read_log(folder / "run" / "log.jsonl") if "eval_loss" in line]
    return [{name: value for name, value in line.items() if name != "eval_seconds"} for line in lines]


def test_a_share_is_held_out_and_the_page_is_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = flags_of(
        model, tmp_path, "--eval-share", "0.25", "--eval-every", "4", "--max-steps", "12", "--min-steps", "1"
    )
    assert main([*flags, "--check"]) == 0
    told = capsys.readouterr().out
    assert "5 of 20 rows are held out (--eval-share 0.25)" in told and "samples          15 an epoch" in told
    assert "; 4 times " in told and " tokens and 5 answers, about " in told and "3 kept and one being written" in told
    assert main(flags) == 0
    told, run = capsys.readouterr().out, tmp_path / "run"
    found = evaluations(tmp_path)
    assert [line["step"] for line in found] == [0, 4, 8, 12] and {line["eval_answers"] for line in found} == {5}
    assert found[-1]["eval_loss"] < found[0]["eval_loss"]
    best = json.loads((run / "best.json").read_text())
    assert best["loss"] == min(line["eval_loss"] for line in found[1:])
    assert f"exported         step {best['step']}, the best of 12" in told
    assert "right answers    0% -> " in told and f"report           {run / 'report.html'}" in told
    page = (run / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3 and "language_model" in page and f"--model {run / 'model'} -q" in page
    answers = read_log(run / "answers.jsonl")
    assert len(answers) == 20 and answers[0].keys() == {"step", "question", "expected", "given", "right"}
    assert all(one["expected"] in ("red", "green", "blue", "yellow") or one["expected"][0] == "(" for one in answers)
    assert any(one["question"] == f"Which?{OPTIONS}" for one in answers)
    assert all("<" not in one["question"] and "Frame" not in one["question"] for one in answers)
    assert main([*flags, "--resume", "auto"]) == 0  # it had ended: the same best weights, page and log
    assert f"exported         step {best['step']}, the best of 12" in capsys.readouterr().out
    assert (run / "report.html").read_text("utf-8") == page and evaluations(tmp_path) == found


def test_a_run_whose_best_checkpoint_lies_elsewhere(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Beside the checkpoint that is resumed it is found; if it is gone, that is said before training."""
    flags = flags_of(model, tmp_path, "--eval-share", "0.25", "--save-every", "2", "--max-steps", "6")
    flags += ["--schedule", "constant_with_warmup"]  # a rate that falls would bring the loss back at the end
    flags[flags.index("3e-3")] = "1"  # so the loss rises: 18, 53, 61
    assert main(flags) == 0
    run, other = tmp_path / "run", tmp_path / "other"
    best = json.loads((run / "best.json").read_text())["step"]
    assert best < 6
    ended = [*flags, "--output-dir", str(other), "--resume", str(run / "checkpoint-6")]
    assert main([*ended, "--check"]) == 0 and main(ended) == 0
    model_file = Path("model") / "model.safetensors"
    assert (other / model_file).read_bytes() == (run / model_file).read_bytes()
    assert "whose log is not in this folder" in capsys.readouterr().out
    (run / f"checkpoint-{best}").rename(tmp_path / "away")
    problem = f"the held-out loss was lowest at step {best}, and {run}/checkpoint-{best} is not there"
    assert main([*flags, "--resume", "auto"]) == 2 and problem in capsys.readouterr().err
    assert main([*flags, "--resume", "auto", "--check"]) == 1 and problem in capsys.readouterr().out
    assert main([*flags, "--resume", "auto", "--export-step", "last"]) == 0


def test_what_one_loss_alone_cannot_tell_is_not_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(flags_of(model, tmp_path, "--max-steps", "3", "--log-every", "10")) == 0
    told = capsys.readouterr().out
    assert "Whether the model has learnt is not known" in told and "The loss has fallen" not in told


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero3"])
@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_two_processes_find_what_one_does(model: Path, tmp_path: Path, strategy: str, batching: str):
    """Before the first step to the bit, answers too; after steps as nearly as training itself. The best is exported."""
    more = ["--eval-share", "0.25", "--eval-every", "2", "--max-steps", "4", "--batching", batching]
    assert main(flags_of(model, tmp_path / "one", *more)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    flags = flags_of(model, tmp_path / "two", *more, "--strategy", strategy, "--precision", "fp32")
    command += ["-m", "videochat_online.training", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = evaluations(tmp_path / "one"), evaluations(tmp_path / "two")
    assert one[0] == two[0]
    assert [line["eval_loss"] for line in one] == pytest.approx([line["eval_loss"] for line in two], abs=1e-5)
    answers = [read_log(tmp_path / name / "run" / "answers.jsonl")[:5] for name in ("one", "two")]
    assert answers[0] == answers[1] and len(answers[0]) == 5


def test_a_model_that_has_not_learnt_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The training answers are other ones than the held-out: nothing of what is asked for can be learnt."""
    other = write_rows(tmp_path / "other", "other", range(8), answer="purple, of course")
    flags = flags_of(model, tmp_path, "--eval-data", str(other), "--max-steps", "6", "--learning-rate", "1e-2")
    assert main(flags) == 0
    told = capsys.readouterr().out
    assert "WARNING: The model has not learnt: " in told
    assert "0% of the answers are right, always giving the commonest would make 100%" in told
    assert "has not learnt" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_few_rows_are_asked_themselves(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = flags_of(model, tmp_path, "--eval-share", "0.04", "--max-steps", "2", "--export-step", "last")
    assert main(flags) == 0
    told = capsys.readouterr().out
    assert "no row is held out (--eval-share 0.04 of 20 rows is less than one): 20 rows of the training data" in told
    assert "It was asked what it was trained on" in told and "step 2, the last of 2" in told


def test_rows_on_both_sides_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    both = write_rows(tmp_path, "both", range(18, 24))
    assert main([*flags_of(model, tmp_path, "--eval-data", str(both)), "--check"]) == 0
    assert "2 rows of the set 'both' of --eval-data stand in the training set 'mine' too" in capsys.readouterr().out


BAD = {
    "missing": (["--eval-data", "none.json"], "none.json: cannot be read"),
    "empty": (["--eval-data", "empty.json"], "empty_rows.json: holds no rows"),
    "no list": (["--eval-data", "mine_rows.json"], "mine_rows.json: a data-set list is an object"),
    "nothing to ask": (
        ["--eval-every", "5"],
        "--eval-every 5 needs held-out rows: give --eval-data LIST or --eval-share",
    ),
    "nothing to stop by": (["--early-stop", "2"], "--early-stop 2 needs held-out rows"),
    "share": (["--eval-share", "0.7"], "--eval-share must be from 0 to 0.5, got 0.7"),
    "below 0": (["--eval-share", "-0.1"], "--eval-share must be from 0 to 0.5, got -0.1"),
    "rows": (["--eval-share", "0.1", "--eval-rows", "0"], "--eval-rows must be at least 1, got 0"),
    "every": (["--eval-share", "0.1", "--eval-every", "-1"], "--eval-every must be at least 0, got -1"),
}


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["run", "check"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    name: str,
    check: list[str],
):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, "empty", range(0))
    flags, message = BAD[name]
    assert main([*flags_of(model, tmp_path), *flags, *check]) in (1, 2)
    told = "".join(capfd.readouterr())
    assert told.count(message) == 1 and "Traceback" not in told


def test_values_and_answers_are_in_the_curves(model: Path, tmp_path: Path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'videochat-online[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = flags_of(model, tmp_path, "--eval-share", "0.25", "--max-steps", "2", "--tracker", "tensorboard")
    assert main(flags) == 0
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    assert (
        [event.step for event in events.Scalars("eval/loss")]
        == [0, 2]
        == [e.step for e in events.Scalars("eval/accuracy")]
    )
    (first, _) = events.Tensors("eval/sample/text_summary")
    text = first.tensor_proto.string_val[0].decode()
    assert (
        text.startswith("| question | expected | given | right |\n| --- |") and text.count("\n") <= 1 + log_module.SHOWN
    )
