"""`videochat-online`: one command for everything. Each command adds its own flags; parsing and failing are shared."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .command_line import CommandParser

COMMANDS = {
    "chat": "chat:add_chat_command",
    "info": "info:add_info_command",
    "data": "data.commands:add_data_command",
    "train": "training.commands:add_train_command",
    "gate": "training.commands:add_gate_command",
    "eval": "evaluation.commands:add_eval_commands",
    "world": "lab.shapeworld.commands:add_world_commands",
    "bench": "lab.bench.commands:add_bench_command",
    "tiny-model": "lab.tiny_models:add_tiny_model_command",
    "demo": "demo.commands:add_demo_command",
    "export-llm": "llm_export:add_export_command",
    "serve": "serve.commands:add_serve_command",
}
"""Command -> what adds its flags. By name, so that no command imports another."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return build_parser(*words[:1]).run(words)


def build_parser(command: str = "") -> CommandParser:
    """The parser of `command` alone, or of all commands where it is none of them (as in `--help`)."""
    parser = CommandParser(
        prog="videochat-online",
        description="Multimodal models that watch a video stream and answer at any moment.",
        epilog="`videochat-online COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"videochat-online {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in [command] if command in COMMANDS else COMMANDS:
        module, _, function = COMMANDS[name].partition(":")
        getattr(import_module(f"{__package__}.{module}"), function)(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
