"""Optional packages: what is missing is said before a model is loaded or anything is measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from videochat_online.cli import main
from videochat_online.evaluation.videos import VideoLibrary
from videochat_online.extras import EXTRA_OF, lacks, require
from videochat_online.lab.bench.suite import add_to_report
from videochat_online.lab.pocket import evidence

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "videochat_online/pocket/sample.mp4"


def miss(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `package` were not installed."""
    monkeypatch.setitem(sys.modules, package, None)


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch):
    assert lacks("numpy", "pytest") is None
    assert lacks("numpy", "wandb_of_nobody") == "the package wandb_of_nobody is missing: pip install wandb_of_nobody"
    miss("matplotlib", monkeypatch)
    with pytest.raises(ImportError, match=r"the package matplotlib is missing: pip install 'videochat-online\[eval\]'"):
        require("numpy", "matplotlib")


def test_the_extras_are_those_of_the_setup():
    setup = (ROOT / "setup.py").read_text("utf-8")
    for package, extra in EXTRA_OF.items():
        name = package.replace("_", "-")
        assert re.search(rf'"{extra}": \[[^\]]*["\']{name}\b', setup), package


@pytest.mark.parametrize(("command", "package"), [("serve", "uvicorn"), ("demo", "gradio"), ("serve", "fastapi")])
def test_no_model_is_loaded_for_a_server_that_cannot_start(
    command: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    loaded: list[Any] = []
    monkeypatch.setattr("videochat_online.serve.commands.load_from_flags", loaded.append)
    miss(package, monkeypatch)
    assert main([command, "--port", "1"]) == 2
    assert f"the package {package} is missing: pip install 'videochat-online[demo]'" in capsys.readouterr().err
    assert loaded == []


def test_measurements_are_kept_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    miss("matplotlib", monkeypatch)
    tables = {"times": [{"what": "x", "a/b": 2.0}]}
    assert add_to_report(tmp_path, "ask", tables) == ["results.json", "results.md"]
    order: list[str] = []
    monkeypatch.setattr(
        "videochat_online.lab.bench.commands._measure",
        lambda options, name: order.append(capsys.readouterr().err) or tables,
    )
    assert main(["bench", "all", "--only", "ask", "--output", str(tmp_path)]) == 0
    assert "no plots will be drawn: the package matplotlib is missing" in order[0]  # said before anything was measured


def test_evidence_with_plots_is_not_begun_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    miss("matplotlib", monkeypatch)
    monkeypatch.setattr("sys.argv", ["evidence", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as end:
        evidence.main()
    assert end.value.code == 2 and list(tmp_path.iterdir()) == []
    assert "the package matplotlib is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "package"), [("--llm lora:4", "peft"), ("--tracker tensorboard", "tensorboard")])
def test_a_training_run_that_would_miss_a_package_is_not_begun(
    flags: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    miss(package, monkeypatch)
    given = ["--model", "pocket", "--data", "x.json", "--output-dir", str(tmp_path / "run"), *flags.split()]
    assert main(["train", *given]) == 2
    assert f"for these settings the package {package} is missing: pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_model_is_loaded_where_the_decoder_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("videochat_online.processing.load_model", lambda *_, **__: pytest.fail("a model is loaded"))
    miss("decord", monkeypatch)
    what = "the package decord is missing: pip install 'videochat-online[decord]'"
    assert main(["chat", str(SAMPLE), "-q", "What is there?", "--decoder", "decord"]) == 2
    assert what in capsys.readouterr().err
    with pytest.raises(ImportError, match=re.escape(what)):
        VideoLibrary(tmp_path, decoder="decord")


@pytest.mark.skipif(lacks("decord") is not None, reason="needs decord: pip install 'videochat-online[decord]'")
def test_chat_answers_alike_whatever_decodes(capsys: pytest.CaptureFixture[str]):
    arguments = ["chat", str(SAMPLE), "--fps", "1", "-q", "What is there?", "--max-new-tokens", "2", "--json"]
    answers = []
    for decoder in ("pyav", "decord"):
        assert main([*arguments, "--decoder", decoder]) == 0
        answers.append(json.loads(capsys.readouterr().out)["answers"][0]["answer"])
    assert answers[0] == answers[1]
