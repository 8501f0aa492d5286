"""`videochat-online serve`: the flags of a server, and the way from them to a running one, with a page or without.

The port is taken before the model is loaded, so that one that is not free is an error at once.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line import add_model_flags, add_recall_flag, load_from_flags
from ..extras import require
from .limits import Limits
from .logs import FORMATS, start_logging

if TYPE_CHECKING:
    from .sessions import Sessions

LOOPBACK_NAMES = ["localhost", "127.0.0.1"]
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""One address of a name is not there: "localhost" is ::1, too, even where IPv6 is switched off."""
AddPage = Callable[[Any, "Sessions"], Any]
"""Mounts a page on the application; gives the application to run."""


SWITCH_SECONDS = 0.0005
"""Python's own 5 ms, after each small operation of an answer, made 1.4 s of 0.1 s beside pictures that are decoded."""
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
ARENAS, MMAPPED_BYTES = 2, 2**20
AT_ENGINE = 64
"""Answers at once where an engine makes them: it batches what comes together."""


def add_serve_command(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve sessions over HTTP: push frames or name a stream, ask, stream the answers",
        description="Serve sessions over HTTP: push frames or name a stream, ask, stream the answers; "
        "OpenAI-compatible chat completions; /docs describes it all.",
        epilog="example: videochat-online serve --port 8000 --allow-urls",
    )
    add_server_flags(parser, port=8000)
    add_model_flags(parser, engine=True)
    parser.set_defaults(run=run_server)


def add_server_flags(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Where to listen, what is said unasked, and the limits that an operator sets."""
    where = parser.add_argument_group("server")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    where.add_argument("--port", type=port_number, default=port, help="0 takes a free one")
    where.add_argument(
        "--token",
        type=api_token,
        help="what API clients must send; made up and printed where --host is not the loopback address",
    )
    where.add_argument(
        "--served-as", type=host_pattern, action="append", default=[], metavar="NAME",
        help="another host name it is reached by (a proxy's)",
    )  # fmt: skip
    where.add_argument(
        "--log-format", choices=FORMATS, default="text",
        help="text: warnings, on stderr; json: each request too, an object a line, on stdout (default: %(default)s)",
    )  # fmt: skip
    standing = parser.add_argument_group("standing instructions")
    standing.add_argument(
        "--gate", type=Path, metavar="FILE",
        help="what decides when to speak (default: gate.safetensors beside the model); none: its own Yes and No",
    )  # fmt: skip
    standing.add_argument(
        "--webhook", action="append", default=[], metavar="URL",
        help="post what is said in any session there; signed where VIDEOCHAT_ONLINE_WEBHOOK_SECRET is set",
    )  # fmt: skip
    standing.add_argument(
        "--webhook-allow", action="append", default=[], metavar="URL",
        help="instructions may name this address, and those below it, as their webhook",
    )  # fmt: skip
    add_recall_flag(parser)
    _add_limits(parser.add_argument_group("limits"))


def _add_limits(limits: Any) -> None:
    """Flags with the names of Limits' fields."""
    for flag, field, kind, unit, text in (
        ("--max-sessions", "max_sessions", int, None, "default: %(default)s"),
        ("--max-client-sessions", "max_client_sessions", int, None, "of these, of one address (default: all)"),
        ("--max-client-requests", "max_client_requests", int, None, "of one address at once (default: %(default)s)"),
        ("--idle", "idle_seconds", float, "SECONDS", "end a session idle for so long (default: %(default)g)"),
        ("--max-upload", "max_upload_bytes", mebibytes, "MIB", f"default: {Limits.max_upload_bytes // 2**20}"),
        ("--shutdown", "shutdown_seconds", float, "SECONDS", "answers may go on when it ends (default: %(default)g)"),
        ("--max-video", "max_video_seconds", float, "SECONDS", "default: %(default)g"),
    ):
        limits.add_argument(flag, dest=field, type=kind, default=getattr(Limits, field), metavar=unit, help=text)
    turns = (
        "made together, a token of each in one pass of the model; others wait for their turn (default: "
        f"{Limits.answers_at_once}; with --engine, {AT_ENGINE}; 1 where the checkpoint's generation_config.json asks "
        "for more than likeliest or drawn tokens: such answers are made one by one)"
    )
    limits.add_argument("--answers-at-once", type=int, help=turns)
    for flag, text in (
        ("--allow-urls", "visitors may name public RTSP and HTTP addresses"),
        ("--allow-private-urls", "... inside this machine's networks, too; redirects, HLS and UDP"),
        ("--allow-cameras", "visitors may open this machine's cameras"),
    ):
        limits.add_argument(flag, action="store_true", help=text)


def port_number(text: str) -> int:
    """A --port; 0 takes one that is free."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def mebibytes(text: str) -> int:
    """Bytes."""
    return int(text) * 2**20


def api_token(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty, as of a variable that is not set; left out, none is asked for")
    return text


def host_pattern(text: str) -> str:
    if not text or (text != "*" and "*" in text.removeprefix("*.")):
        raise argparse.ArgumentTypeError(f"expected a name such as demo.example.org or *.example.org, got {text!r}")
    return text


def run_server(options: argparse.Namespace, add_page: AddPage | None = None) -> int:
    """Serve until stopped. OSError or ValueError for an address that cannot be listened on."""
    from ..streaming.chooser import chooser_of
    from ..streaming.together import makes_together
    from .sessions import Sessions

    require("fastapi", "uvicorn", "websockets", "prometheus_client")  # before a model is loaded
    given = vars(options) | {"allow_urls": options.allow_urls or options.allow_private_urls}
    if given["answers_at_once"] is None:
        given["answers_at_once"] = AT_ENGINE if options.engine != "transformers" else Limits.answers_at_once
    limits = Limits(**{field.name: given[field.name] for field in fields(Limits) if field.name in given})
    from .running import Server
    from .webhooks import SECRET, Webhooks

    _keep_memory_whole()
    webhooks = Webhooks(options.webhook, options.webhook_allow, limits=limits, secret=os.environ.get(SECRET))
    # 1. the port
    with unwound_by_signals(), bound_sockets(options.host, options.port) as sockets:
        # 2. the model
        model, processor = load_from_flags(options)
        if limits.recall == "chosen":
            chooser_of(model)  # said now, and not to the first visitor
        about = {"model_name": shown_name(options.model), "gate": _gate(options, model), "webhooks": webhooks}
        if options.answers_at_once is None and model.keeps_keys and not makes_together(model):
            limits = replace(limits, answers_at_once=1)
        with Sessions(model, processor, limits=limits, **about) as sessions:
            # 3. the API, and the page beside it
            app = _application(options, sessions, add_page)
            # 4. listen until stopped
            listen(sockets, options.host)
            host = f"[{options.host}]" if ":" in options.host else options.host
            described = "" if add_page else "; /docs describes its API"
            start_logging(options.log_format, token=app.state.token)
            ready = f"http://{host}:{port_of(sockets)} is ready{described}; stop with Ctrl-C"
            sys.setswitchinterval(SWITCH_SECONDS)
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it is stopped
                Server(app, sessions, ready=ready).run(sockets=sockets)
    return 0


def _keep_memory_whole() -> None:
    """glibc: each of many threads that come and go leaves an arena full of holes, and a server grows for hours."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:  # another C library has no arenas
        return
    for name, number, value in (
        ("MALLOC_ARENA_MAX", M_ARENA_MAX, ARENAS),
        ("MALLOC_MMAP_THRESHOLD_", M_MMAP_THRESHOLD, MMAPPED_BYTES),
    ):
        if name not in os.environ:  # glibc has read it: the operator's choice
            mallopt(number, value)


def _gate(options: argparse.Namespace, model: Any) -> Any:
    """What decides for standing instructions, which an engine cannot follow; None: the model's own Yes and No."""
    from ..streaming.gate import Gate, gate_file

    if options.gate and not model.keeps_keys:
        raise ValueError("--gate is for standing instructions, which need probabilities: --engine gives answers only")
    path = gate_file(options.model, options.gate)
    if path is None or not model.keeps_keys:
        return None
    gate = Gate.load(path, model)
    print(f"note: {path} decides when to speak, at a threshold of {gate.threshold:.3f}", file=sys.stderr)
    return gate


def _application(options: argparse.Namespace, sessions: Sessions, add_page: AddPage | None) -> Any:
    from .api import create_app

    local = is_loopback(options.host)
    token = options.token or (None if local else secrets.token_urlsafe(24))
    names = [*LOOPBACK_NAMES, *options.served_as] if local and ":" not in options.host else None
    app = create_app(sessions, token=token, hosts=names)
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


# ---- ports and signals ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bound_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """A socket for every address of `host`, bound and not listening yet; OSError or ValueError where it cannot be."""
    if not host:  # for the system that is every address: an empty variable would open the server to the network
        raise ValueError("--host is empty, expected an address such as 127.0.0.1")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host}: there is no such address ({error})") from error
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        problem = None
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
                one.bind((address[0], port_of(sockets) if sockets else port, *address[2:]))
                sockets.append(one)
            except OSError as error:
                problem = _cannot_open(host, port, error)
                if error.errno not in ABSENT:
                    raise problem from error
        if problem and not sockets:
            raise problem
        yield sockets


def listen(sockets: list[socket.socket], host: str) -> None:
    """Two programs may bind a port at the same moment; only one of them can listen."""
    for one in sockets:
        try:
            one.listen()
        except OSError as error:
            raise _cannot_open(host, port_of(sockets), error) from error


def port_of(sockets: list[socket.socket]) -> int:
    return sockets[0].getsockname()[1]


def _cannot_open(host: str, port: int, error: OSError) -> OSError:
    return OSError(error.errno, f"port {port} of {host} cannot be opened: {error.strerror}")


@contextlib.contextmanager
def unwound_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block as Ctrl-C does, so that what it holds is removed.

    While uvicorn runs it takes SIGTERM itself, ends what is being answered, and raises it again.
    """

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(0)

    def terminate(number: int, frame: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    with contextlib.ExitStack() as before:
        for number, handler in ((signal.SIGTERM, leave), (signal.SIGHUP, terminate)):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
                before.callback(signal.signal, number, signal.signal(number, handler))
        yield
