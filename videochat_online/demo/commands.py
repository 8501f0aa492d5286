"""The page: a visitor watches a stream, asks about it while it runs, and sees what the model remembers.

`videochat-online demo` starts it, with the server API beside it.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..command_line import add_model_flags
from ..extras import require
from ..serve.commands import add_server_flags, run_server


def add_demo_command(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="a page on which visitors watch a stream, ask, and see the memory",
        description="A page on which visitors watch a stream (file, camera, address or a generated world), ask "
        "about it while it runs, and see what the model remembers. The server API is beside it, at /docs.",
        epilog="example: videochat-online demo --allow-urls",
    )
    add_server_flags(parser, port=7860)
    add_model_flags(parser, engine=True)
    parser.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> int:
    require("gradio")  # before a model is loaded
    from .page import add_page

    return run_server(options, add_page)
