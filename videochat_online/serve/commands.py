"""`videochat-online serve`: the flags of a server, and the way from them to a running one, with a page or without."""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line import add_model_flags, load_from_flags
from ..extras import require
from .limits import Limits
from .server import bound_sockets, listen, port_of, serve_app, unwound_by_signals

if TYPE_CHECKING:
    from .sessions import Sessions

LOOPBACK_NAMES = ["localhost", "127.0.0.1"]
AddPage = Callable[[Any, "Sessions"], Any]
"""Mounts a page on the application; gives the application to run."""


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


def add_server_flags(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Where to listen, and the limits that an operator sets: those have the names of Limits' fields."""
    where = parser.add_argument_group("server")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    where.add_argument("--port", type=port_number, default=port, help="0 takes a free one")
    where.add_argument(
        "--token", help="what API clients must send; made up and printed where --host is not the loopback address"
    )
    where.add_argument(
        "--served-as", type=host_pattern, action="append", default=[], metavar="NAME",
        help="another host name it is reached by (a proxy's)",
    )  # fmt: skip
    most = parser.add_argument_group("limits")

    def limit(flag: str, field: str, kind: Callable[[str], Any], unit: str | None, text: str) -> None:
        most.add_argument(flag, dest=field, type=kind, default=getattr(Limits, field), metavar=unit, help=text)

    limit("--max-sessions", "max_sessions", int, None, "default: %(default)s")
    limit("--idle", "idle_seconds", float, "SECONDS", "end a session idle for so long (default: %(default)g)")
    limit("--max-upload", "max_upload_bytes", mebibytes, "MIB", f"default: {Limits.max_upload_bytes // 2**20}")
    limit("--max-video", "max_video_seconds", float, "SECONDS", "default: %(default)g")
    most.add_argument("--allow-urls", action="store_true", help="visitors may name public RTSP and HTTP addresses")
    text = "... inside this machine's networks, too; redirects, HLS and UDP"
    most.add_argument("--allow-private-urls", action="store_true", help=text)
    most.add_argument("--allow-cameras", action="store_true", help="visitors may open this machine's cameras")


def port_number(text: str) -> int:
    """A --port; 0 takes one that is free."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def mebibytes(text: str) -> int:
    """Bytes."""
    return int(text) * 2**20


def host_pattern(text: str) -> str:
    if not text or (text != "*" and "*" in text.removeprefix("*.")):
        raise argparse.ArgumentTypeError(f"expected a name such as demo.example.org or *.example.org, got {text!r}")
    return text


def limits_from_flags(options: argparse.Namespace) -> Limits:
    """ValueError for a limit that is none."""
    given = vars(options) | {"allow_urls": options.allow_urls or options.allow_private_urls}
    return Limits(**{field.name: given[field.name] for field in fields(Limits) if field.name in given})


def run_server(options: argparse.Namespace, add_page: AddPage | None = None) -> int:
    """Serve until stopped. OSError or ValueError for an address that cannot be listened on."""
    from .sessions import Sessions

    require("fastapi", "uvicorn")  # before a model is loaded
    limits = limits_from_flags(options)
    # 1. the port: one that is not free is an error before the model is loaded
    with unwound_by_signals(), bound_sockets(options.host, options.port) as sockets:
        # 2. the model
        model, processor = load_from_flags(options)
        with Sessions(model, processor, limits=limits, model_name=shown_name(options.model)) as sessions:
            # 3. the API, and the page beside it
            app = _application(options, sessions, add_page)
            # 4. listen until stopped
            listen(sockets, options.host)
            host = f"[{options.host}]" if ":" in options.host else options.host
            described = "" if add_page else "; /docs describes its API"
            serve_app(app, sockets, f"http://{host}:{port_of(sockets)} is ready{described}; stop with Ctrl-C")
    return 0


def _application(options: argparse.Namespace, sessions: Sessions, add_page: AddPage | None) -> Any:
    from .api import create_app
    from .pictures import add_picture_routes

    local = is_loopback(options.host)
    token = options.token or (None if local else secrets.token_urlsafe(24))
    names = [*LOOPBACK_NAMES, *options.served_as] if local and ":" not in options.host else None
    app = create_app(sessions, token=token, hosts=names)
    add_picture_routes(app, sessions)
    if add_page is not None:
        app = add_page(app, sessions)
    if note := sessions.model.config.note:
        print(f"note: {note}", file=sys.stderr)
    if add_page is not None and not local:
        print("note: the page asks for no token: whoever reaches this address may use it", file=sys.stderr)
    if token is not None and not options.token:
        print(f"API token: {token}", file=sys.stderr)
    return app


def shown_name(model: str) -> str:
    """What visitors see of --model: a folder's name without the way to it."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
