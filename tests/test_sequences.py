"""What the documents say to type, and what commands print to type next, is typed here; what comes out must make sense.

Commands run one after the other as in a shell, in a folder of their own that has the repository's shell/ in it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.test_readme import ROOT, blocks
from videochat_online.cli import build_parser, main

SMALLER = {"--videos 32": "--videos 1", "--videos 8": "--videos 2", "--max-steps 20": "--max-steps 4"}
"""Numbers of the block -> what is enough to run it in seconds."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which one types, with blanks in its name."""
    folder = tmp_path / "a place"
    folder.mkdir()
    (folder / "shell").symlink_to(ROOT / "shell")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    monkeypatch.delenv("DATA_ROOT", raising=False)
    return folder


def train_then_evaluate() -> str:
    [block] = [block for block in blocks("bash") if "world build" in block and "eval ovbench" in block]
    return block


def type_in(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of a shell in this process, which has loaded its libraries already. Each must end well."""
    for line in text.replace("\\\n", " ").splitlines():
        words = [Template(word).safe_substitute(os.environ) for word in shlex.split(line, comments=True)]
        if words[:1] == ["export"]:
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words:
            assert words[0] == "videochat-online"
            assert main(words[1:]) == 0, line


def headline_of(block: str, folder: Path) -> dict[str, Any]:
    output = re.search(r"eval ovbench.*?--output (\S+)", block, re.DOTALL)
    assert output is not None
    report = json.loads((folder / output[1] / "report.json").read_text())
    assert report["cautions"] == []
    return report["scores"]["headline"]


def test_the_readme_trains_and_then_scores_above_chance(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    block = train_then_evaluate()
    for number, smaller in SMALLER.items():
        assert number in block
        block = block.replace(number, smaller)
    type_in(block, monkeypatch)
    headline = headline_of(block, workplace)
    assert headline["accuracy"] > headline["chance"] + 0.1
    model = re.search(r"^the trained model is in (.+)$", capfd.readouterr().out, re.MULTILINE)
    assert model is not None
    assert main(["info", model[1]]) == 0
    assert json.loads((Path(model[1]) / "config.json").read_text())["answer_mode"] == "likelihood"


@pytest.mark.slow  # one to five minutes
def test_the_readme_word_for_word_in_a_shell(workplace: Path):
    shim = f'videochat-online() {{ {shlex.quote(sys.executable)} -m videochat_online.cli "$@"; }}\n'
    command = ["bash", "-euo", "pipefail", "-c", shim + train_then_evaluate()]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    headline = headline_of(train_then_evaluate(), workplace)
    assert headline["low"] > headline["chance"] and headline["accuracy"] > 1.5 * headline["chance"]
    assert f"# OVBench: {100 * headline['accuracy']:.1f}" in done.stdout


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_a_built_world_says_next_works_from_anywhere(
    split: str,
    workplace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    numbers = "--videos 1 --seconds 12 --fps 2 --size 64 --questions 4"
    assert main(["world", "build", "my world", "--split", split, *numbers.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [line for line in printed if line.startswith(("export ", "videochat-online "))]
    assert len(commands) == {"train": 2, "test": 1}[split]
    monkeypatch.chdir(tmp_path)
    type_in("\n".join(commands), monkeypatch)
    assert {"train": "no problems", "test": "# OVBench: "}[split] in capsys.readouterr().out


def texts_of(path: Path) -> list[str]:
    """Every text of a Python file; what is put into it when it runs is an X."""
    tree = ast.parse(path.read_text("utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(p.value if isinstance(p, ast.Constant) else "X" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def commands_in_texts() -> list[str]:
    texts = {" ".join(text.split()) for path in (ROOT / "videochat_online").rglob("*.py") for text in texts_of(path)}
    quoted = {command for text in texts for command in re.findall(r"`videochat-online ([^`]+)`", text)}
    examples = {
        command for text in texts for command in re.findall(r"example: .*?videochat-online (.+?)(?:\. |$)", text)
    }
    assert quoted and examples
    return sorted(quoted | examples)


@pytest.mark.parametrize("command", commands_in_texts())
def test_a_command_that_is_named_somewhere_exists(command: str):
    """Whole commands with these flags; a bare name is one that has a --help."""
    words = shlex.split(command)
    whole = any(word.startswith("-") and word != "--help" for word in words)
    names = [word for word in words if not word.isupper() and word != "--help"]
    try:
        build_parser().parse_args(words if whole else [*names, "--help"])
    except SystemExit as end:
        assert not whole and end.code == 0
