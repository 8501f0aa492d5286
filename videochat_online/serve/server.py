"""Running the API (and whatever is mounted beside it) with uvicorn: where it listens, and who may come in."""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .limits import Limits

if TYPE_CHECKING:
    from .sessions import Sessions

LOOPBACK_NAMES = ["localhost", "127.0.0.1"]


def add_server_flags(parser: argparse.ArgumentParser, *, port: int) -> None:
    where = parser.add_argument_group("server")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    where.add_argument("--port", type=int, default=port, help="default: %(default)s")
    where.add_argument(
        "--token", help="what API clients must send; made up and printed where --host is not the loopback address"
    )
    where.add_argument(
        "--served-as",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name it is reached by (a proxy's)",
    )
    most = parser.add_argument_group("limits")
    usual = Limits()
    most.add_argument("--max-sessions", type=int, default=usual.max_sessions, help="default: %(default)s")
    most.add_argument(
        "--idle", type=float, default=usual.idle_seconds, metavar="SECONDS", help="end a session idle for so long"
    )
    most.add_argument("--max-upload", type=int, default=usual.max_upload_bytes // 2**20, metavar="MIB")
    most.add_argument("--max-video", type=float, default=usual.max_video_seconds, metavar="SECONDS")
    most.add_argument("--allow-urls", action="store_true", help="visitors may name public RTSP and HTTP addresses")
    most.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="... inside this machine's networks, too; redirects, HLS and UDP",
    )
    most.add_argument("--allow-cameras", action="store_true", help="visitors may open this machine's cameras")


def limits_from_flags(options: argparse.Namespace) -> Limits:
    return Limits(
        max_sessions=options.max_sessions,
        idle_seconds=options.idle,
        max_upload_bytes=options.max_upload * 2**20,
        max_video_seconds=options.max_video,
        allow_urls=options.allow_urls or options.allow_private_urls,
        allow_private_urls=options.allow_private_urls,
        allow_cameras=options.allow_cameras,
    )


def shown_name(model: str) -> str:
    """What visitors are told of --model: a folder's name without the way to it."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


AddPage = Callable[[Any, "Sessions"], Any]
"""Mounts a page on the application; gives the application to run."""


def run_server(options: argparse.Namespace, sessions: Sessions, add_page: AddPage | None = None) -> None:
    """1. the API 2. the page beside it 3. listen until interrupted."""
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("the server needs uvicorn: pip install 'videochat-online[demo]'") from error
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
    if token is not None and options.token is None:
        print(f"API token: {token}", file=sys.stderr)
    host = f"[{options.host}]" if ":" in options.host else options.host
    place = f"http://{host}:{options.port}"
    print(f"{place}{'' if add_page else '/docs'} is ready; stop with Ctrl-C", file=sys.stderr, flush=True)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=3)
