"""A pipe between FFmpeg and an RTSP server, which can be closed at any moment, and through which no redirect comes.

FFmpeg cannot be woken while it waits, and follows a redirect wherever it leads. Here it speaks with a port of this
machine; what comes from the server passes on, if need be only until it holds a "Location:" line, as a redirect does.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from .fetching import Sockets, secured, shut

CHUNK = 2**16
REDIRECT = b"\nlocation:"


def relay(place: str, port: int, sockets: Sockets, *, is_secure: bool, is_checked: bool, seconds: float) -> int:
    """A port of the loopback address that leads to `place` once; it ends with `sockets`. OSError where nobody answers.

    `is_checked`: a redirect ends it. `seconds`: to connect.
    """
    server = sockets.add(socket.create_connection((place, port), seconds))
    if is_secure:  # FFmpeg does not check certificates either
        server = secured(server, sockets, host=None, is_checked=False)
    server.settimeout(None)
    door = sockets.add(socket.create_server(("127.0.0.1", 0)))
    door.settimeout(seconds)
    threading.Thread(target=_work, args=(door, server, sockets, is_checked), name="rtsp relay", daemon=True).start()
    return int(door.getsockname()[1])


def _work(door: socket.socket, server: socket.socket, sockets: Sockets, is_checked: bool) -> None:
    with door, server, contextlib.suppress(OSError), sockets.add(door.accept()[0]) as client:
        client.settimeout(None)
        back = (server, client, is_checked)
        thread = threading.Thread(target=_pump, args=back, name="rtsp relay", daemon=True)
        thread.start()
        _pump(client, server, False)
        thread.join()


def _pump(source: socket.socket, target: socket.socket, is_checked: bool) -> None:
    """Bytes from one to the other until either ends; then both end."""
    seen = b""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            if is_checked:
                seen = seen[-len(REDIRECT) :] + data.replace(b"\r", b"").lower()
                if REDIRECT in seen:
                    break
            target.sendall(data)
    shut(source)
    shut(target)
