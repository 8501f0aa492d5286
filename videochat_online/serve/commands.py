"""`videochat-online serve`: the server API without the page."""

from __future__ import annotations

from typing import Any

from ..model_flags import add_model_flags
from .server import add_server_flags, run_server


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
    parser.set_defaults(run=run_server)
