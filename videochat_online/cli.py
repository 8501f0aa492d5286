"""`videochat-online`: one command for everything. Parses flags, calls the parts, prints; no logic of its own.

A ValueError is what the user or a file did, an ImportError names a package to install, an OSError a file or port that
cannot be used: each is printed as one line, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # the reader of our output has closed it
        sys.stderr.close()
        return 0
    except (ValueError, ImportError, OSError) as error:
        print(f"videochat-online: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    from .chat import add_chat_command
    from .data.commands import add_data_command
    from .demo.commands import add_demo_command
    from .evaluation.commands import add_eval_commands
    from .info import add_info_command
    from .serve.commands import add_serve_command
    from .training.commands import add_train_command

    lab = {name: import_module(f"{__package__}.lab.{name}.commands") for name in ("shapeworld", "bench")}

    parser = argparse.ArgumentParser(
        prog="videochat-online",
        description="Multimodal models that watch a video stream and answer at any moment.",
        epilog="`videochat-online COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"videochat-online {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_chat_command(commands)
    add_info_command(commands)
    add_data_command(commands)
    add_train_command(commands)
    add_eval_commands(commands)
    lab["shapeworld"].add_world_commands(commands)
    lab["bench"].add_bench_command(commands)
    add_demo_command(commands)
    add_serve_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
