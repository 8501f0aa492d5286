"""One parser for every command: a mistake gets one line that says what was meant, and exit status 2.

Knows no command. A ValueError is what the user or a file did, an ImportError names a package to install, an OSError a
file or port that cannot be used: each is printed as one line, too. Any other exception is our own mistake and shows.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def did_you_mean(name: str, known: Iterable[str], *, show: Callable[[str], str] = str) -> str:
    """'; did you mean a or b?', or nothing where no known name is near. `show` writes a name; repr if it is a value."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(show, near))}?" if near else ""


class HelpWithDefaults(argparse.HelpFormatter):
    """Help that ends with the flag's default, where it has one and the text does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help or "", action.default
        if not text or "default" in text or default is None or default is False or default in ("", argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})" if shown else text  # argparse fills in what % names


class CommandParser(argparse.ArgumentParser):
    """Flags of a command, or commands with flags of their own. Flags are written out; no prefix stands for one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpWithDefaults, "allow_abbrev": False, **options})

    def run(self, words: Sequence[str] | None = None) -> int:
        """Parse `words` (default: the command line), call `options.run(options)`, return the exit status."""
        options = self.parse_args(words)
        try:
            return options.run(options) or 0
        except BrokenPipeError:  # the reader of our output has closed it
            sys.stderr.close()
            return 0
        except (ValueError, ImportError, OSError) as error:
            print(f"{self.prog}: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """As argparse, but nothing unknown is let through, also not to the parser of which this is a command."""
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_unknown_names(words)  # first: argparse would rather complain of what then seems to be missing
        options, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return options, unknown

    def _refuse_unknown_names(self, words: Sequence[str]) -> None:
        commands = next((action for action in self._actions if isinstance(action, argparse._SubParsersAction)), None)
        flags = [name for action in self._actions for name in action.option_strings]
        for word in words:
            if word == "--":
                return
            name = word.split("=")[0] if word.startswith("--") else word[:2]
            if _is_flag(word) and name not in flags:
                near = did_you_mean(name, flags) or f"; `{self.prog} --help` lists them"
                self.error(f"unknown flag {name if word.startswith('--') else word}{near}")
            if commands is not None and not _is_flag(word):  # all that follows is the command's own
                if word not in commands.choices:
                    near = did_you_mean(word, commands.choices) or f"; expected one of {', '.join(commands.choices)}"
                    self.error(f"unknown {str(commands.metavar).lower()} {word!r}{near}")
                return

    def error(self, message: str) -> Any:
        """One line and exit status 2."""
        if "are required" in message:  # argparse's words
            message += f"; `{self.prog} --help` explains them"
        self.exit(2, f"{self.prog}: error: {message}\n")


def _is_flag(word: str) -> bool:
    """As argparse sees it: a negative number, a lone dash and a text with blanks are values."""
    if not word.startswith("-") or word == "-" or " " in word:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
