"""What `python -m lmms_eval_ovbench.check` finds before lmms-eval starts."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench import check, task_files

TaskManager = functools.cache(task_files.TaskManager)
"""It reads a thousand task files, which takes seconds."""


@pytest.fixture(autouse=True)
def one_task_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "TaskManager", TaskManager)


def problems(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = check.main(arguments)
    return status, [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]


def test_a_run_that_would_work_has_no_problems(root: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("--tasks", "ovbench", "--model-args", "pretrained=pocket,mode=streaming")
    assert problems(capsys, *arguments) == (0, [])


def test_every_problem_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    (tmp_path / "annotations").symlink_to((root / "annotations").resolve())
    (tmp_path / "videos").mkdir()
    monkeypatch.setenv("OVBENCH_ROOT", str(tmp_path))
    status, found = problems(
        capsys, "--tasks", "ovbench_coin", "--model-args", "fps=2,colour=red", "--requires", "nope"
    )
    assert status == 1
    assert "nope is not installed" in found[0] and "colour" in found[1]
    assert sum("not found below" in line for line in found) > 3
    assert problems(capsys, "--tasks", "ovbench,no_such_task")[1][0].endswith("lists them")
    assert "no model 'nobody'" in problems(capsys, "--tasks", "ovbench", "--model", "nobody")[1][0]


def test_versions_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch):
    installed = {"one": "1.5", "two": "4.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    needs = ["one>=1", "two>=3.20,<4", "three", 'four; extra == "dev"', 'five; python_version < "3"']
    monkeypatch.setattr(check, "requires", lambda package: needs)
    monkeypatch.setattr(check, "version", version)
    assert check.unmet_requirements("plug-in") == [
        "two 4.0 is installed, but plug-in needs two<4,>=3.20",
        "three is not installed, and plug-in needs it",
    ]
