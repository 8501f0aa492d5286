"""The port of a server: taken before the model is loaded, so that one that is not free is told at once."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
from collections.abc import Iterator

BACKLOG = 2048
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""One address of a name is not there: "localhost" is ::1, too, even where IPv6 is switched off."""


def port_number(text: str) -> int:
    """A --port; 0 takes one that is free."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
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
                with told(host, port):
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
        with told(host, port_of(sockets)):
            one.listen(BACKLOG)


def port_of(sockets: list[socket.socket]) -> int:
    return sockets[0].getsockname()[1]


@contextlib.contextmanager
def told(host: str, port: int) -> Iterator[None]:
    """An OSError that names the port."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"port {port} of {host} cannot be opened: {error.strerror}") from error
