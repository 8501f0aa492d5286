"""The worked examples of docs/extending.md: their edits fit the code as it is, and their lines run with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT

PAGE = (ROOT / "docs/extending.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def blocks_in(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)


def edit(root: Path, diff: str) -> None:
    """Make the edits of a diff without line numbers: what stands before each must be found exactly once."""
    for part in re.split(r"^--- a/", diff, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        text = (root / name).read_text("utf-8")
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] or line for line in lines if not line.startswith("+"))
            after = "".join(line[1:] or line for line in lines if not line.startswith("-"))
            assert f"\n{text}".count(f"\n{before}") == 1, f"{name} does not hold this once:\n{before}"
            text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
        (root / name).write_text(text, "utf-8")


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all edits made and all new files written."""
    root = tmp_path_factory.mktemp("edited")
    shutil.copytree(ROOT / "videochat_online", root / "videochat_online", ignore=shutil.ignore_patterns("__pycache__"))
    for section in SECTIONS:
        for diff in blocks_in(section, "diff"):
            edit(root, diff)
        for code in blocks_in(section, "python"):
            if name := re.match(r"# (videochat_online/\S+\.py)\n", code):
                (root / name[1]).write_text(code[name.end() :], "utf-8")
    return root


def test_the_examples_are_the_four():
    assert list(SECTIONS) == ["A memory policy", "A language model", "A data format", "A benchmark"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_runs(section: str, edited: Path, tmp_path: Path):
    (code,) = [code for code in blocks_in(section, "python") if not code.startswith("# videochat_online/")]
    (tmp_path / "sample.mp4").symlink_to(ROOT / "videochat_online/pocket/sample.mp4")
    environment = {**os.environ, "PYTHONPATH": str(edited), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_needs_its_edit(section: str, tmp_path: Path):
    """An edit that changes nothing would not show in the example."""
    assert blocks_in(section, "diff")
    with pytest.raises(AssertionError, match="does not hold this once"):
        for diff in blocks_in(section, "diff"):
            names = re.findall(r"^--- a/(.+)$", diff, re.MULTILINE)
            for name in names:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text("another file\n", "utf-8")
            edit(tmp_path, diff)
