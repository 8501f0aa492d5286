"""Connections of our own, to one IP address only where that is asked for: the bytes behind an http(s) address, and a
pipe between FFmpeg and an RTSP server.

FFmpeg would look a name up again, go wherever a server sends it, and cannot be woken while it waits. Knows nothing of
video but what tells a stream from a web page or a playlist.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from .addresses import Address

HEAD_BYTES = 4096
"""Of the beginning, kept for a look: what kind of answer it is."""
BEGINNING_BYTES = 2**16
CHUNK = SHORT_SEEK = 2**16
"""Bytes that are rather read and thrown away than asked for again."""
SHORT_BYTES = 2**26
"""A file no longer than this is fetched again from its beginning where the server gives no parts."""
UNQUOTED = "%/:=&?~#+!$,;'@()*[]"
"""What stands in paths and queries as it is; the rest (blanks, accents) is written as %XX."""
REDIRECT = b"\nlocation:"
HEADERS = {"User-Agent": "videochat-online", "Accept": "*/*"}


class Sockets:
    """The sockets of one connection, which are shut together, also those that are added later."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def add(self, new: socket.socket) -> socket.socket:
        with self._lock:
            self._open = [known for known in self._open if known.fileno() >= 0] + [new]
            if self._is_closed:
                shut(new)
        return new

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for known in self._open:
                shut(known)


def shut(known: socket.socket) -> None:
    """End every call that waits on a socket, from any thread."""
    with contextlib.suppress(OSError, ValueError):  # it was closed, or never connected
        known.shutdown(socket.SHUT_RDWR)


class Body:
    """The bytes of a response as they come; one whose length is known can be read from another place, too."""

    def __init__(self, ask: Callable[[int], Any]) -> None:
        self._ask = ask
        self._response = ask(0)
        self._position = self._wanted = 0  # of the response, and of the reader
        headers = self._response.headers
        self.address = str(self._response.url)
        """Where it was found, behind redirects."""
        self.kind = str(headers.get_content_type())
        self._gives_parts = self._response.status == 206 or headers.get("Accept-Ranges") == "bytes"
        self._length: int | None = self._response.length
        if self._response.status == 206:
            total = str(headers.get("Content-Range", "")).rpartition("/")[2]
            self._length = int(total) if total.isdecimal() else None
        if self.kind.startswith("multipart/"):
            self._length = None
        self.beginning = b""
        """Of what was received, up to BEGINNING_BYTES."""

    @property
    def has_end(self) -> bool:
        """Whether the server says how long it is."""
        return self._length is not None

    def head(self) -> bytes:
        """The first bytes: all that came with the first packets, at least a few. They will be read again."""
        while len(self.beginning) < 16 and self._receive(HEAD_BYTES):
            pass
        return self.beginning

    def raw_kind(self) -> str | None:
        """FFmpeg's name of what begins with a JPEG, or the parameters of H.264 or HEVC, in no container."""
        if self.head().startswith(b"\xff\xd8\xff"):
            return "mjpeg"
        start = re.match(rb"\x00\x00\x00?\x01([\x00-\x7f])", self.head())
        first = start.group(1)[0] if start else 0
        return "h264" if first & 0x1F in (7, 9) else "hevc" if first >> 1 in (32, 33, 35) else None

    def read(self, size: int) -> bytes:
        """What has come, at most `size` bytes, without waiting for that many; OSError where it breaks off."""
        if self._wanted < len(self.beginning):
            data = self.beginning[self._wanted : self._wanted + size]
        else:
            self._go_to(self._wanted)
            data = self._receive(size)
        self._wanted += len(data)
        return data

    def _receive(self, size: int) -> bytes:
        try:
            data: bytes = self._response.read1(size)
        except (http.client.HTTPException, ValueError) as error:  # ValueError: closed by another thread
            raise OSError(f"the answer broke off: {type(error).__name__}") from error
        if not data and size and self._response.length:
            raise OSError(f"the answer broke off, {self._response.length:,} bytes before its end")
        if self._position == len(self.beginning) < BEGINNING_BYTES:
            self.beginning += data
        self._position += len(data)
        return data

    def seekable(self) -> bool:
        return self._length is not None and (self._gives_parts or self._length <= SHORT_BYTES)

    def tell(self) -> int:
        return self._wanted

    def seek(self, position: int, whence: int = 0) -> int:
        """Read on from another byte; nothing is fetched before the next `read`."""
        assert self._length is not None, "what has no end is not seekable"
        self._wanted = position + (0, self._wanted, self._length)[whence]
        return self._wanted

    def _go_to(self, position: int) -> None:
        """OSError where the server does not give a part that it promised."""
        ahead = position - self._position
        if ahead < 0 or (ahead > SHORT_SEEK and self._gives_parts):
            start = min(position, self._length or 0) if self._gives_parts else 0
            self._position = start
            if start == self._length:
                return
            self._response.close()
            self._response = self._ask(start)
            if start and self._response.status != 206:
                raise OSError("the server does not give a part of the file")
        while self._position < position and self._receive(min(CHUNK, position - self._position)):
            pass

    def close(self) -> None:
        self._response.close()


def fetch(address: Address, sockets: Sockets, *, place: str | None = None, seconds: float) -> Body:
    """The body behind an http(s) address; OSError for anything but an answer.

    Args:
        place: the only IP address to connect to; then redirects are not followed, nor a proxy used.
        seconds: longest silence.
    """
    host, slash, path = address.place.partition("/")
    server = f"{address.scheme}://{host}"
    opener = _opener(server, address.user_and_password, _Handler(sockets, place), is_pinned=place is not None)

    def ask(start: int) -> Any:
        url = f"{server}{slash}{quote(path, safe=UNQUOTED)}"
        request = urllib.request.Request(url, headers={**HEADERS, "Range": f"bytes={start}-"})
        try:
            response = opener.open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            error.close()
            is_redirect = 300 <= error.code < 400
            raise OSError(f"HTTP {error.code}: {'a redirect, not followed' if is_redirect else error.reason}") from None
        except urllib.error.URLError as error:
            raise OSError(f"no answer: {getattr(error.reason, 'strerror', None) or error.reason}") from None
        except (http.client.HTTPException, ValueError) as error:  # their words repeat the address
            raise OSError(f"no answer of HTTP that can be used ({type(error).__name__})") from None
        if response is None:  # nothing here opens the scheme it was sent to
            raise OSError("a redirect to something else than http")
        return response

    return Body(ask)


def post(
    address: Address, body: bytes, headers: dict[str, str], sockets: Sockets, *, place: str, seconds: float
) -> int:
    """The status of the answer to a POST, sent to the host or IP address `place`, wherever it says to go; OSError where
    none comes. `seconds`: longest silence."""
    parts = urlsplit(address.url)
    if address.login:
        code = base64.b64encode(":".join(address.user_and_password or ()).encode()).decode()
        headers = headers | {"Authorization": f"Basic {code}"}
    path = quote("/" + parts._replace(scheme="", netloc="").geturl().lstrip("/"), safe=UNQUOTED)
    server, is_secure = parts.netloc.rpartition("@")[2], address.scheme == "https"
    with contextlib.closing(
        _Connection(server, sockets=sockets, place=place, is_secure=is_secure, timeout=seconds)
    ) as connection:
        try:
            connection.request("POST", path, body, HEADERS | headers)
            return connection.getresponse().status
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"no answer of HTTP that can be used ({type(error).__name__})") from None


def _opener(
    server: str, login: tuple[str, str] | None, handler: _Handler, *, is_pinned: bool
) -> urllib.request.OpenerDirector:
    """Speaks http and https, nothing else that a redirect may name. The login is for all of its server."""
    handlers = [handler, urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()]
    if login is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, server, *login)
        handlers += [urllib.request.HTTPDigestAuthHandler(passwords), urllib.request.HTTPBasicAuthHandler(passwords)]
    if not is_pinned:
        handlers += [urllib.request.HTTPRedirectHandler(), urllib.request.ProxyHandler()]
    opener = urllib.request.OpenerDirector()
    for each in handlers:
        opener.add_handler(each)
    return opener


class _Handler(urllib.request.AbstractHTTPHandler):
    """urllib's way to a server, over connections that are pinned to `place` and known to `sockets`."""

    def __init__(self, sockets: Sockets, place: str | None) -> None:
        super().__init__()
        self._sockets, self._place = sockets, place

    def http_open(self, request: urllib.request.Request) -> Any:
        settings = {"sockets": self._sockets, "place": self._place, "is_secure": request.type == "https"}
        return self.do_open(_Connection, request, **settings)  # type: ignore[arg-type]

    https_open = http_open
    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str, *, sockets: Sockets, place: str | None, is_secure: bool, **settings: Any) -> None:
        self.default_port = 443 if is_secure else 80
        super().__init__(host, **settings)
        self._sockets, self._place, self._is_secure = sockets, place, is_secure
        self._create_connection = self._connected  # what http.client calls

    def _connected(self, place: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
        return self._sockets.add(socket.create_connection((self._place or place[0], place[1]), timeout, source))

    def connect(self) -> None:
        super().connect()
        if self._is_secure:
            host = getattr(self, "_tunnel_host", None) or self.host
            self.sock = secured(self.sock, self._sockets, host=host, is_checked=self._place is not None)


def secured(plain: socket.socket, sockets: Sockets, *, host: str | None, is_checked: bool) -> ssl.SSLSocket:
    """TLS over a connected socket, known to `sockets` before its handshake, so that a server that hangs can be left.

    `is_checked`: the certificate must be the host's. Cameras sign theirs themselves.
    """
    context = ssl.create_default_context()
    if not is_checked:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    sockets.add(secure)
    try:
        secure.do_handshake()
    except OSError:
        secure.close()
        raise
    return secure


def relay(place: str, port: int, sockets: Sockets, *, is_secure: bool, is_checked: bool, seconds: float) -> int:
    """A port of the loopback address that leads to `place` once; it ends with `sockets`. OSError where nobody answers.

    FFmpeg speaks with that port; what comes from the server passes on, if need be (`is_checked`) only until it holds a
    "Location:" line, as a redirect does. `seconds`: to connect.
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
