"""README and docs/ are true: commands exist with these flags, links and trees name what is there, Python runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tests.documents import PAGES, ROOT, blocks_of, commands_of, inline_commands_of, name_of, page_blocks
from tests.test_architecture import LAYER, LAYERS
from videochat_online.cli import build_parser

LAB = LAYER["lab"]
ARCHITECTURE = ROOT / "docs/architecture.md"
OF_THE_SHELL = {"source", "export", "curl"}
"""What else may stand in a block."""
NEEDS_MORE = {"lmms-eval-ovbench/README.md": "lmms-eval", "docs/demo.md": "a server that runs", "docs/extending.md": ""}
NEEDS_MORE |= {"docs/train.md": "an adapter, which test_adapters.py reads in this way"}
"""Pages whose Python is run elsewhere: tests/lmms_eval, tests/test_sequences.py, tests/test_extending.py."""


def in_blocks(program: str) -> list[tuple[str, list[str]]]:
    return [(name_of(page), words) for page in PAGES for words in commands_of(page) if words[0] == program]


def label(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value[:5])


@pytest.mark.parametrize(("page", "words"), in_blocks("videochat-online"), ids=label)
def test_commands_have_these_flags(page: str, words: list[str]):
    assert callable(build_parser().parse_args(words[1:]).run)


@pytest.mark.parametrize(("page", "words"), in_blocks("bash"), ids=label)
def test_scripts_exist(page: str, words: list[str]):
    assert (ROOT / words[1]).is_file()


def test_nothing_else_is_asked_for():
    others = [
        (name_of(page), words)
        for page in PAGES
        for words in commands_of(page)
        if words[0] not in {"bash", "videochat-online"} | OF_THE_SHELL
    ]
    assert others == []


INLINE = [(name_of(page), words) for page in PAGES for words in inline_commands_of(page)]


@pytest.mark.parametrize(("page", "words"), INLINE, ids=label)
def test_a_command_in_running_text_exists(page: str, words: list[str]):
    """A script is there, a module too; of a command whole lines are parsed, and bare names have a --help."""
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
    elif words[0] == "python":
        if words[2].startswith("videochat_online"):
            assert importlib.util.find_spec(words[2])
    else:
        names = [word for word in words[1:] if not word.isupper() and word != "--help" and word not in ("A", "B")]
        flags = [number for number, word in enumerate(words[1:]) if word.startswith("-")]
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args([*(names[: flags[0]] if flags else names[:3]), "--help"])
        assert end.value.code == 0


def paths_in_tree() -> set[str]:
    """Paths named in the block of files, folders with their slash; two blanks stand between names and what they are."""
    (block,) = [block for block in blocks_of(ARCHITECTURE, "") if block.startswith("shell/")]
    names, folder = set(), ""
    for line in block.splitlines():
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            names.add(folder := words[0])
        elif not line.startswith("   "):  # else the description continues
            names |= {folder + word for word in words if word.endswith((".py", ".sh", "/"))}
    return names


def test_the_tree_names_what_is_there():
    names = paths_in_tree()
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
    package = ROOT / "videochat_online"
    parts = {f"videochat_online/{each.name}/" for each in package.iterdir() if (each / "__init__.py").is_file()}
    files = {f"videochat_online/{each.name}" for each in package.glob("*.py")}
    folders = {f"shell/{each.name}/" for each in (ROOT / "shell").iterdir() if each.is_dir()}
    assert (parts | files | folders) - names == set()


def test_the_picture_of_the_layers_is_the_one_that_is_tested():
    picture = blocks_of(ARCHITECTURE, "")[0]
    for number, units in enumerate(LAYERS):
        [row] = re.findall(rf"^layer {number} +(.+)$", picture, re.MULTILINE)
        missing = [unit for unit in units if not re.search(rf"(?<![\w-]){unit}(?:\.py|/)", row)]
        assert missing == [] or (number == LAB and "lab/" in row), f"layer {number}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text("utf-8")):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        assert not heading or heading in headings_of(path), f"{target}#{heading}"


def headings_of(page: Path) -> set[str]:
    """Headings as links name them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs/README.md").read_text("utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [name for name in sorted(pages) if f"]({name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_the_text_exist(page: Path):
    named = re.findall(r"`([\w/]+/\w+\.(?:py|sh|json|yaml))`", page.read_text("utf-8"))
    roots = (ROOT, ROOT / "videochat_online", page.parent)
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


PYTHON = page_blocks("python")


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[f"{page}-{n}" for n, (page, _) in enumerate(PYTHON)])
def test_the_python_runs(page: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    compiled = compile(code, page, "exec")
    if page in NEEDS_MORE:
        return
    (tmp_path / "videochat_online").symlink_to(ROOT / "videochat_online")
    monkeypatch.chdir(tmp_path)
    exec(compiled, {})
    assert capsys.readouterr().out.endswith("\n")
