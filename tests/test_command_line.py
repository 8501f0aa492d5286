"""A mistype is answered the same way at every door: one line that says what was meant, and exit status 2."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from videochat_online.cli import build_parser, main
from videochat_online.command_line import CommandParser
from videochat_online.media.source import MediaWarning

ROOT = Path(__file__).parent.parent
MODULES = {
    "training": "--learning-rate",
    "evaluation ovbench": "--annotations",
    "evaluation compare": "--output",
    "lab.bench.soak": "--sessions",
    "lab.pocket.align": "--seed",
    "lab.pocket.build": "--trained",
    "lab.pocket.build_tokenizer": "--help",
    "lab.pocket.evidence": "--videos",
    "lab.pocket.warm_up": "--steps",
}
"""Programs that are started as `python -m videochat_online.NAME`, with a flag of each."""


def parsers(parser: CommandParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(words of a command, its flags), of `parser` and of all commands below it."""
    yield words, [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*words, name))


def mistyped(name: str) -> str:
    """Without its last letter but one: what is typed too fast."""
    return name[:-2] + name[-1]


COMMANDS = dict(parsers(build_parser()))


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out = capsys.readouterr()
    assert exit_.value.code == 2 and out.out == "" and out.err.count("\n") == 1 and ": error: " in out.err
    return out.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_flag_of_every_command(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    for flag in COMMANDS[command]:
        error = refusal([*command, mistyped(flag), "1"], capsys)
        assert f"unknown flag {mistyped(flag)}; did you mean " in error and flag in error
        assert error.startswith(" ".join(["videochat-online", *command]) + ": error: ")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command], ids=" ".join)
def test_a_mistyped_command(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    *above, name = command
    error = refusal([*above, mistyped(name)], capsys)
    assert f"{mistyped(name)!r}; did you mean " in error and name in error


@pytest.mark.parametrize("name", MODULES)
def test_the_programs_beside_the_command(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    module, *words = name.split()
    monkeypatch.setattr(sys, "argv", ["x", *words, mistyped(MODULES[name])])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(f"videochat_online.{module}", run_name="__main__", alter_sys=True)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "; did you mean " in error and MODULES[name] in error and error.count("\n") == 1


def test_there_is_no_other_parser():
    files = [*(ROOT / "videochat_online").rglob("*.py"), *(ROOT / "lmms-eval-ovbench").rglob("*.py")]
    makes_one = re.compile(r"ArgumentParser\(|\(.*ArgumentParser\):\n")
    own = [path.name for path in files if makes_one.search(path.read_text("utf-8"))]
    assert own == ["command_line.py"]


def parser() -> CommandParser:
    made = CommandParser(prog="p")
    made.add_argument("video", nargs="?")
    made.add_argument("-q", "--question")
    made.add_argument("--at", type=float, default=1.5, help="when")
    made.add_argument("--near", default="here", help="where (default: where one is)")
    made.add_argument("--all", action="store_true", help="everything")
    made.add_argument("--part", type=int, default=0, help="in %% of the whole")
    made.add_argument("--levels", nargs="+", default=[2, 3], help="which")
    made.add_argument("--mood", choices=("calm", "wild"))
    made.add_argument("--names", action="append", default=[], help="more")
    made.set_defaults(run=lambda options: None)
    return made


def test_values_that_look_like_flags_are_values():
    options = parser().parse_args(["-q", "--is it red?", "--at", "-3"])
    assert (options.question, options.at) == ("--is it red?", -3.0)
    assert parser().parse_args(["-qhello", "--at=-2", "--", "--odd"]).video == "--odd"
    assert parser().parse_args(["-"]).video == "-"


def test_help_shows_each_default_once():
    text = parser().format_help()
    assert text.count("default") == 4 and "when (default: 1.5)" in text and "in % of the whole (default: 0)" in text
    assert "which (default: 2 3)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["v", "w"], "unexpected argument 'w'"),
        (["-x"], "unknown flag -x"),
        (["--questio", "x"], "unknown flag --questio; did you mean --question?"),
        (["--zzz"], "unknown flag --zzz; `p --help` lists them"),
        (["--at", "soon"], "argument --at: invalid float value: 'soon'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        parser().run(words)
    assert exit_.value.code == 2 and capsys.readouterr().err.startswith(f"p: error: {message}")


@pytest.mark.parametrize("kind", [ValueError, ImportError, FileNotFoundError])
def test_what_a_user_did_is_one_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]):
    def fail(options: argparse.Namespace) -> int:
        raise kind("this is missing")

    one = parser()
    one.set_defaults(run=fail)
    assert one.run([]) == 2 and capsys.readouterr().err == "p: error: this is missing\n"
    one.set_defaults(run=lambda options: [][1])
    with pytest.raises(IndexError):  # our own mistake stays visible
        one.run([])
    one.set_defaults(run=lambda options: 1)
    assert one.run([]) == 1 and parser().run([]) == 0


def test_a_choice_that_is_near(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parser().run(["--mood", "calmm"])
    assert capsys.readouterr().err.endswith("; did you mean calm?\n")


def test_our_own_warning_is_one_line(capsys: pytest.CaptureFixture[str]):
    def warn_twice(options: argparse.Namespace) -> None:
        for text, kind in (("a.mp4: is cut off", MediaWarning), ("old", UserWarning)):
            print(warnings.formatwarning(text, kind, "file.py", 7), file=sys.stderr, end="")

    one, before = parser(), warnings.formatwarning
    one.set_defaults(run=warn_twice)
    assert one.run([]) == 0 and warnings.formatwarning is before
    assert capsys.readouterr().err == "warning: a.mp4: is cut off\nfile.py:7: UserWarning: old\n"
