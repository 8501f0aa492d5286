"""What the documents say to type, and what commands print to type next, is typed here; what comes out must make sense.

Commands run one after the other as in a shell, in a folder of their own that has the repository's shell/ in it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pytest

from tests.documents import ROOT, blocks_of
from videochat_online.cli import build_parser, main

SMALLER = {
    "--videos 32": "--videos 1",
    "--videos 8": "--videos 2",
    "--max-steps 20": "--max-steps 4 --num-workers 0",
}
"""Numbers of the block -> what is enough to run it in seconds, in this process."""


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
    page = ROOT / "docs/train.md"
    [block] = [block for block in blocks_of(page, "bash") if "world build" in block and "eval ovbench" in block]
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


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of `videochat-online serve`."""
    pytest.importorskip("uvicorn", reason="needs the server: pip install 'videochat-online[demo]'")
    command = [sys.executable, "-m", "videochat_online.cli", "serve", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        late = threading.Timer(120, process.kill)
        late.start()
        try:
            addresses = (re.match(r"(http://[\d.:]+)\S* is ready", line) for line in process.stderr)
            ready = next(filter(None, addresses), None)
            assert ready is not None, "it ended before it was ready"
            late.cancel()
            yield ready[1]
        finally:
            late.cancel()
            process.kill()


DEMO = ROOT / "docs/demo.md"


def test_the_client_of_the_page_on_the_server(server: str, capsys: pytest.CaptureFixture[str]):
    code, *_ = blocks_of(DEMO, "python")  # of our own client; the next needs the package openai
    assert "http://127.0.0.1:8000" in code
    exec(compile(code.replace("http://127.0.0.1:8000", server), "docs/demo.md", "exec"), {})
    assert "'frames_seen': " in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_of_the_page_on_the_server(server: str):
    (block,) = [block for block in blocks_of(DEMO, "bash") if "curl" in block]
    text = block.replace("http://127.0.0.1:8000", server)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "error" not in done.stdout, done.stdout + done.stderr
    assert "chat.completion" in done.stdout


def headline_of(block: str, folder: Path) -> dict[str, Any]:
    output = re.search(r"eval ovbench.*?--output (\S+)", block, re.DOTALL)
    assert output is not None
    report = json.loads((folder / output[1] / "report.json").read_text())
    # a small world has few subjects: the commonest words of its answers get far without a picture
    assert not [caution for caution in report["cautions"] if "commonest text" not in caution]
    return report["scores"]["headline"]


def five_files(follow: str) -> list[str]:
    """The files that the README says to read, in order, for one way through the code."""
    [row] = re.findall(rf"^\| {follow} \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    return re.findall(r"`([^`]+)`", row)


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Files of the package in which a function runs meanwhile, in this thread."""
    entered: set[str] = set()
    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: entered.add(frame.f_code.co_filename))
    try:
        yield entered
    finally:
        sys.settrace(before)
        package = ROOT / "videochat_online"
        inside = {Path(name).relative_to(package).as_posix() for name in entered if name.startswith(f"{package}/")}
        entered.clear()
        entered |= inside


def test_a_frames_way_is_the_one_that_the_readme_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    [code] = blocks_of(ROOT / "README.md", "python")
    with files_entered() as entered:
        exec(compile(code, "README.md", "exec"), {})
    assert len(five_files("a frame")) == 5 and set(five_files("a frame")) <= entered


def test_the_page_on_training_trains_and_then_scores_above_chance(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """And the ways of a training sample and of a benchmark question are those that the README names."""
    block = train_then_evaluate()
    for number, smaller in SMALLER.items():
        assert number in block
        block = block.replace(number, smaller)
    with files_entered() as entered:
        type_in(block, monkeypatch)
    for follow in ("a training sample", "a benchmark question"):
        assert len(five_files(follow)) == 5 and set(five_files(follow)) <= entered
    headline = headline_of(block, workplace)
    assert headline["accuracy"] > headline["chance"] + 0.1
    compare = [block for block in blocks_of(ROOT / "docs/evaluate.md", "bash") if "eval compare" in block]
    type_in(compare[0], monkeypatch)
    model = re.search(r"^the trained model is in (.+)$", capfd.readouterr().out, re.MULTILINE)
    assert model is not None
    assert main(["info", model[1]]) == 0
    assert json.loads((Path(model[1]) / "config.json").read_text())["answer_mode"] == "likelihood"


def test_the_page_on_training_takes_data_of_ones_own(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs/train.md"
    block, *_ = [block for block in blocks_of(page, "bash") if "my.json" in block]
    sets, *_ = blocks_of(ROOT / "docs/data.md", "json")  # which the page points to
    (workplace / "my.json").write_text(sets)
    (workplace / "clips").symlink_to(ROOT / "videochat_online/pocket")
    said = [{"from": "human", "value": "Where is it?", "timestamps": 4.0}, {"from": "gpt", "value": "at the top"}]
    (workplace / "rows.jsonl").write_text(json.dumps({"video": "sample.mp4", "conversations": said}) + "\n")
    type_in(block.rstrip() + " --max-steps 2 --warmup 0 --num-workers 0 --cpu\n", monkeypatch)
    assert main(["info", "runs/mine/model"]) == 0


def test_the_page_on_use_watches_what_ships(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command with its answer, as the page shows it; measured numbers differ."""
    monkeypatch.chdir(ROOT)
    page = ROOT / "docs/use.md"
    [commands] = [block for block in blocks_of(page, "bash") if "videochat-online chat" in block]
    type_in("\n".join(line for line in commands.splitlines() if "--at 12" in line or "info" in line), monkeypatch)
    printed = capsys.readouterr().out
    shown = blocks_of(page, "")[0].split("; encode")[0]
    assert shown in printed and "2,910,976" in printed


@pytest.mark.slow  # one to five minutes
def test_the_page_on_training_word_for_word_in_a_shell(workplace: Path):
    shim = f'videochat-online() {{ {shlex.quote(sys.executable)} -m videochat_online.cli "$@"; }}\n'
    command = ["bash", "-euo", "pipefail", "-c", shim + train_then_evaluate()]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    headline = headline_of(train_then_evaluate(), workplace)
    assert headline["low"] > headline["chance"] and headline["accuracy"] > 1.5 * headline["chance"]
    assert f"# ShapeWorld (a generated world): {100 * headline['accuracy']:.1f}" in done.stdout


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
    assert {"train": "no problems", "test": "# ShapeWorld (a generated world): "}[split] in capsys.readouterr().out


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
