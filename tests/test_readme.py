"""The README is true: its commands exist with these flags, its tree names what is there, its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from videochat_online.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def shell_commands() -> list[list[str]]:
    """Every line of the shell blocks as words, continued lines joined, settings in front of a command left out."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words[sum("=" in word for word in words[:1]) :] for words in commands if words]


@pytest.mark.parametrize(
    "words", [words for words in shell_commands() if words[0] == "videochat-online"], ids=lambda words: " ".join(words)
)
def test_commands_have_these_flags(words: list[str]):
    assert callable(build_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize(
    "words", [words for words in shell_commands() if words[0] == "bash"], ids=lambda words: words[1]
)
def test_scripts_exist(words: list[str]):
    assert (ROOT / words[1]).is_file()


def test_nothing_else_is_asked_for():
    assert {words[0] for words in shell_commands()} == {"bash", "videochat-online", "source", "export"}


def tree() -> set[str]:
    """Paths named in the block of files, folders with their slash; two blanks stand between names and what they are."""
    (block,) = [block for block in blocks("") if block.startswith("shell/")]
    names, folder = set(), ""
    for line in block.splitlines():
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            names.add(folder := words[0])
        elif not line.startswith("   "):  # else the description goes on
            names |= {folder + word for word in words if word.endswith((".py", ".sh", "/"))}
    return names


def test_the_tree_names_what_is_there():
    names = tree()
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
    package = ROOT / "videochat_online"
    parts = {f"videochat_online/{each.name}/" for each in package.iterdir() if (each / "__init__.py").is_file()}
    files = {f"videochat_online/{each.name}" for each in package.glob("*.py")}
    folders = {f"shell/{each.name}/" for each in (ROOT / "shell").iterdir() if each.is_dir()}
    assert (parts | files | folders) - names == set()


def test_links_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets and [target for target in targets if not (ROOT / target).exists()] == []


def test_the_python_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")
