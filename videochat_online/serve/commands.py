"""`videochat-online serve`: the server API without the page."""

from __future__ import annotations

import argparse
from typing import Any

from ..extras import require
from ..model_flags import add_model_flags, load_from_flags
from .server import add_server_flags, limits_from_flags, run_server, shown_name


def add_serve_command(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve sessions over HTTP: push frames or name a stream, ask, stream the answers",
        description="Serve sessions over HTTP: push frames or name a stream, ask, stream the answers; "
        "OpenAI-compatible chat completions; /docs describes it all.",
        epilog="example: videochat-online serve --port 8000 --allow-urls",
    )
    add_server_flags(parser, port=8000)
    add_model_flags(parser)
    parser.set_defaults(run=run_serve)


def run_serve(options: argparse.Namespace) -> int:
    from .sessions import Sessions

    require("fastapi", "uvicorn")  # before a model is loaded
    limits = limits_from_flags(options)
    model, processor = load_from_flags(options)
    with Sessions(model, processor, limits=limits, model_name=shown_name(options.model)) as sessions:
        run_server(options, sessions)
    return 0
