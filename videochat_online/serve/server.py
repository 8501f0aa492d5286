"""Running the API (and whatever is mounted beside it) with uvicorn: where it listens, and who may come in."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import require
from ..model_flags import load_from_flags
from .limits import Limits
from .ports import bound, listen, port_number, port_of

if TYPE_CHECKING:
    from .sessions import Sessions

LOOPBACK_NAMES = ["localhost", "127.0.0.1"]


def add_server_flags(parser: argparse.ArgumentParser, *, port: int) -> None:
    where = parser.add_argument_group("server")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    where.add_argument("--port", type=port_number, default=port, help="0 takes a free one (default: %(default)s)")
    where.add_argument(
        "--token", help="what API clients must send; made up and printed where --host is not the loopback address"
    )
    where.add_argument(
        "--served-as",
        type=host_pattern,
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


def host_pattern(text: str) -> str:
    if not text or (text != "*" and "*" in text.removeprefix("*.")):
        raise argparse.ArgumentTypeError(f"expected a name such as demo.example.org or *.example.org, got {text!r}")
    return text


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


def run_server(options: argparse.Namespace, add_page: AddPage | None = None) -> int:
    """1. the port 2. the model 3. the API, and the page beside it 4. listen until stopped."""
    from .sessions import Sessions

    require("fastapi", "uvicorn")  # before a model is loaded
    limits = limits_from_flags(options)
    with unwound_by_signals(), bound(options.host, options.port) as sockets:
        model, processor = load_from_flags(options)
        with Sessions(model, processor, limits=limits, model_name=shown_name(options.model)) as sessions:
            app = _application(options, sessions, add_page)
            listen(sockets, options.host)
            host = f"[{options.host}]" if ":" in options.host else options.host
            place = f"http://{host}:{port_of(sockets)}{'' if add_page else '/docs'}"
            _serve(app, sockets, f"{place} is ready; stop with Ctrl-C")
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


def _serve(app: Any, sockets: list[socket.socket], ready: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(ready, file=sys.stderr, flush=True)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is stopped
        Server(config).run(sockets=sockets)


@contextlib.contextmanager
def unwound_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block as Ctrl-C does, so that what it holds is removed.

    While uvicorn runs it takes SIGTERM itself, ends what is being answered, and raises it again.
    """

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(0)

    def terminate(number: int, frame: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    handlers = {signal.SIGTERM: leave, signal.SIGHUP: terminate}
    before = {number: signal.getsignal(number) for number in handlers}
    try:
        for number, handler in handlers.items():
            if before[number] == signal.SIG_DFL:  # nohup has SIGHUP ignored
                signal.signal(number, handler)
        yield
    finally:
        for number in handlers:
            signal.signal(number, before[number])
