"""The documents as data: every page that a reader follows, its blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "lmms-eval-ovbench/README.md")]
    + [ROOT / "videochat_online/pocket/README.md", *(ROOT / "docs").rglob("*.md")]
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those without."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands_of(page: Path) -> list[list[str]]:
    """Every line of the page's shell blocks as words: continued lines joined, settings before a command left out."""
    lines = "\n".join(blocks_of(page, "bash")).replace("\\\n", " ").splitlines()
    bare = [re.sub(r"^([A-Z_]+=(\$\(|\S+\s*))*", "", line) for line in lines]
    return [words for line in bare if (words := shlex.split(line, comments=True))]


def inline_commands_of(page: Path) -> list[list[str]]:
    """Commands named in running text: `videochat-online ...`, `bash FILE`, `python -m videochat_online...`."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`((?:[A-Z_]+=\S+ )*(?:videochat-online|bash|python -m) [^`]+)`", prose)
    commands = [shlex.split(" ".join(text.split())) for text in quoted]
    return [[word for word in words if not re.match(r"[A-Z_]+=", word)] for words in commands]


def page_blocks(language: str) -> list[tuple[str, str]]:
    """(page, block) of all pages."""
    return [(name_of(page), text) for page in PAGES for text in blocks_of(page, language)]
