"""`videochat-online train` and `python -m videochat_online.training`: the same flags, the same run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..command_line import CommandParser
from .resolve import add_setting_flags, resolve

DESCRIPTION = "Train a model on data-set lists. Settings come from --preset, then --config, then flags."
EPILOG = (
    "example: videochat-online train --preset stage2 --model pocket --data list.json --output-dir runs/mine --check. "
    "On several GPUs: torchrun --nproc-per-node 8 -m videochat_online.training --preset stage1 --strategy zero1 ..."
)


def add_train_command(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model, on one machine or many",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_train_flags(parser)


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="check settings and data, print the plan, and stop")
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="processes that --check plans for (default: those of torchrun, or 1)",
    )
    add_setting_flags(parser)
    parser.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    from .check import check
    from .distributed import is_main_process, world_size
    from .run import run

    config = resolve(options)
    if options.check:
        if options.num_processes is not None and options.num_processes < 1:
            raise ValueError(f"--num-processes must be at least 1, got {options.num_processes}")
        return check(config, options.num_processes or world_size(), say)
    return run(config, say if is_main_process() else be_quiet)


def say(text: str) -> None:
    print(text, flush=True)


def be_quiet(text: str) -> None:
    """What processes other than the first have to say."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program that torchrun starts."""
    parser = CommandParser(prog="python -m videochat_online.training", description=DESCRIPTION, epilog=EPILOG)
    add_train_flags(parser)
    return parser.run(arguments)
