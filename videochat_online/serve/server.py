"""The process of a server: its port, uvicorn, and signals. Knows nothing of what is served.

The port is taken before the model is loaded, so that one that is not free is an error at once.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

BACKLOG = 2048
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""One address of a name is not there: "localhost" is ::1, too, even where IPv6 is switched off."""


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
        failure = OSError(f"{host} has no address")
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                with port_named(host, port):
                    one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
                    one.bind((address[0], port_of(sockets) if sockets else port, *address[2:]))
            except OSError as error:
                if error.errno not in ABSENT:
                    raise
                failure = error
                continue
            sockets.append(one)
        if not sockets:
            raise failure
        yield sockets


def listen(sockets: list[socket.socket], host: str) -> None:
    """Two programs may bind a port at the same moment; only one of them can listen."""
    for one in sockets:
        with port_named(host, port_of(sockets)):
            one.listen(BACKLOG)


def port_of(sockets: list[socket.socket]) -> int:
    return sockets[0].getsockname()[1]


@contextlib.contextmanager
def port_named(host: str, port: int) -> Iterator[None]:
    """An OSError gets the port into its message."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"port {port} of {host} cannot be opened: {error.strerror}") from error


def serve_app(app: Any, sockets: list[socket.socket], ready: str) -> None:
    """Answer on listening sockets until a signal; prints `ready` as soon as the first request would be answered."""
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
