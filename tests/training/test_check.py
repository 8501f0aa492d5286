"""`--check`: the plan of a run on real files, and all problems in one report."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.training.world import save_small_model, write_online_list
from videochat_online.files import write_json
from videochat_online.training.commands import main
from videochat_online.training.configuration import TrainingConfig
from videochat_online.training.plan import RunShape
from videochat_online.training.run import describe_data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model"))


def check(model: Path, data: Path, output: Path, *flags: str) -> int:
    """The exit status; without the default tracker, whose package need not be there."""
    places = ["--model", str(model), "--data", str(data), "--output-dir", str(output)]
    return main(["--check", *places, "--cpu", "--tracker", "none", *flags])


def test_the_plan(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 10)
    flags = ["--global-batch-size", "4", "--num-processes", "2", "--epochs", "4", "--num-workers", "0"]
    assert check(model, data, tmp_path / "run", *flags) == 0
    told = capsys.readouterr().out
    assert re.search(r"^online +10 +10 +20 ", told, re.MULTILINE)  # rows, samples, questions
    assert re.search(r"samples +10 an epoch, [\d,]+ tokens \(estimated\), [\d.]+% padding \(grouped\)", told)
    assert re.search(r"4 samples, [\d,]+ tokens: 2 processes x 2 times x 1 sample", told)
    assert "12 (3 an epoch), 1 of them warm-up" in told
    assert "language_model   full" in told and "memory of each process" in told and told.endswith("no problems\n")
    assert not (tmp_path / "run").exists()


def test_blank_answers_are_a_warning(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 4)
    rows = json.loads((tmp_path / "rows.json").read_text())
    rows[2]["conversations"][-1]["value"] = ""
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert check(model, data, tmp_path / "run", "--global-batch-size", "2", "--num-workers", "0") == 0
    assert "  online: 1 of 8 answers are blank, in rows 2\n" in capsys.readouterr().out


def test_all_problems_in_one_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("videochat_online.extras.find_spec", lambda name: object())  # deepspeed is there
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
    assert "no weight would change" in told, "the plan of what can be read"
    assert "5 problems:" in told.splitlines()


@pytest.mark.parametrize("what", ["annotation", "list", "model"])
def test_a_missing_file_is_named(model: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 2)
    gone = {"annotation": tmp_path / "rows.json", "list": data, "model": tmp_path / "nomodel"}[what]
    gone.unlink(missing_ok=True)
    assert check(gone if what == "model" else model, data, tmp_path / "run", "--num-workers", "0") == 1
    assert str(gone) in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--output-dir", "--frame-cache"])
def test_a_folder_that_cannot_be_is_a_problem(
    flag: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_online_list(tmp_path, 2)
    flags = ["--global-batch-size", "1", "--num-workers", "0", "--max-steps", "2"]
    assert check(model, data, tmp_path / "run", *flags, flag, str(data / "run")) == 1
    assert f"1 problem:\n  {flag}: {data} is not a folder\n" in capsys.readouterr().out


def test_a_missing_package_is_a_problem_of_the_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("videochat_online.extras.find_spec", lambda name: None)
    flags = ["--tracker", "tensorboard", "--global-batch-size", "1", "--num-workers", "0"]
    assert check(model, write_online_list(tmp_path, 2), tmp_path / "run", *flags) == 1
    told = capsys.readouterr().out
    assert "1 problem:" in told and "the package tensorboard is missing: pip install 'videochat-online[train]'" in told


def test_a_plan_that_changes_no_weight_is_a_problem(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Six clips with the published settings; then as few steps as just change some, which is only said."""
    data = write_online_list(tmp_path, 6)
    assert check(model, data, tmp_path / "run", "--num-workers", "0") == 1
    told = capsys.readouterr().out
    assert "1 problem:\n  no weight would change: the run has 1 step" in told
    assert "1 warning:\n  one step holds the 6 samples of the data 170.7 times over" in told
    assert check(model, data, tmp_path / "run", "--num-workers", "0", "--max-steps", "2") == 0
    told = capsys.readouterr().out
    assert "2 warnings:\n  only 1 of 2 steps change weights; raise --max-steps 2\n" in told
    assert told.endswith("no problems\n")


def test_texts_that_are_too_long_are_named(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, frames = write_online_list(tmp_path, 3), tmp_path / "frames"
    quick = ["--global-batch-size", "1", "--epochs", "20", "--num-workers", "0", "--frame-cache", str(frames)]
    assert check(model, data, tmp_path / "run", *quick, "--max-length", "10") == 1
    printed = capsys.readouterr().out
    assert printed.count("expected at most max_length=10: its text is too long") == 3 and "online, row 2: " in printed
    assert "too long         3 samples refused, 0 shown with fewer pictures" in printed
    assert not frames.exists()
    rows = json.loads((tmp_path / "rows.json").read_text())
    rows[1]["conversations"][0]["value"] = "Why? " * 500  # one of three, where one of three may fail
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert check(model, data, tmp_path / "run", *quick, "--max-length", "400", "--max-failed-share", "0.4") == 0
    printed = capsys.readouterr().out
    assert "1 warning:" in printed and "online, row 1: needs" in printed and printed.endswith("no problems\n")


def test_samples_shown_with_fewer_pictures_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    data = write_online_list(tmp_path, 3)
    rows = json.loads((tmp_path / "rows.json").read_text())
    rows[0]["video"] = "none.mp4"  # that is a problem of the data, and no misfit
    rows[1]["conversations"][0]["value"] = "Why? " * 30
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    quick = ["--global-batch-size", "1", "--epochs", "20", "--num-workers", "0", "--max-length", "160"]
    assert check(model, data, tmp_path / "run", *quick) == 1
    printed = capsys.readouterr().out
    assert "too long         0 samples refused, 1 shown with fewer pictures" in printed
    expected = "expected at most max_length=160: it is shown with 2"
    assert f"1 warning:\n  online, row 1: needs 193 tokens with 6 pictures, {expected}\n1 problem:\n" in printed
    assert not caplog.records


def test_wrong_settings_do_not_hide_wrong_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 3)
    (tmp_path / "rows.json").write_text((tmp_path / "rows.json").read_text().replace("sample.mp4", "gone.mp4", 1))
    assert check(model, data, tmp_path / "run", "--fps", "0", "--vision", "some", "--warmup", "-1") == 1
    printed = capsys.readouterr().out
    for problem in ("gone.mp4: does not exist", "--fps must be above 0", "--vision must be one of", "--warmup must"):
        assert problem in printed
    (tmp_path / "run.yaml").write_text(f"data: [{data}]\n")
    assert main(["--check", "--config", str(tmp_path / "run.yaml"), "--fps", "0"]) == 1
    assert "gone.mp4: does not exist" in capsys.readouterr().out
    (tmp_path / "run.yaml").write_text("fpss: 1\nnum_frames: many\n")
    assert check(model, data, tmp_path / "run", "--config", str(tmp_path / "run.yaml")) == 1
    printed = capsys.readouterr().out
    for problem in ("gone.mp4: does not exist", "unknown setting 'fpss'", "num_frames must be of type int"):
        assert problem in printed


def test_a_torn_list_does_not_hide_the_rest(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 3)
    entries = json.loads(data.read_text())
    entries["torn"] = entries["online"] | {"annotation": "torn.json"}
    data.write_text(json.dumps(entries))
    (tmp_path / "torn.json").write_text("[{")
    flags = ["--global-batch-size", "7", "--num-processes", "4", "--num-workers", "0", "--max-length", "10"]
    assert check(model, data, data / "run", *flags) == 1
    printed = capsys.readouterr().out
    for problem in ("torn.json, line 1", "--global-batch-size 7 must be", "online, row 2: needs", "not a folder"):
        assert problem in printed


def test_a_checkpoint_of_other_annotations_is_a_problem(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, run = write_online_list(tmp_path, 16), tmp_path / "run"
    flags = ("--global-batch-size", "1", "--num-workers", "0", "--resume", "auto")
    (run / "checkpoint-3").mkdir(parents=True)
    write_json(run / "checkpoint-3" / "complete.json", {"files": {}, "shape": asdict(RunShape(1, "ddp", 1, 1))})
    assert check(model, data, run, *flags) == 1
    assert "run has no data.json" in capsys.readouterr().out
    write_json(run / "data.json", describe_data(TrainingConfig(data=(str(data),))))
    assert check(model, data, run, *flags) == 0
    (tmp_path / "rows.json").write_text((tmp_path / "rows.json").read_text().replace("And now?", "And then?"))
    capsys.readouterr()
    assert check(model, data, run, *flags) == 1
    assert f"the words of {tmp_path / 'rows.json'} changed" in capsys.readouterr().out


def test_what_does_not_divide(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_online_list(tmp_path, 4)
    flags = ["--global-batch-size", "6", "--num-processes", "4", "--num-workers", "0"]
    assert check(model, data, tmp_path / "run", *flags) == 1
    assert "--global-batch-size 6 must be a multiple" in capsys.readouterr().out
