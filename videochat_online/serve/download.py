"""HTTP from one checked place: connects to the very IP address that was looked at, and follows no redirect.

FFmpeg's own HTTP would look the name up again and go wherever a server sends it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from urllib.parse import urlsplit


class Body:
    """The bytes of a response as they come. A context manager."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        """What has come, at most `size` bytes, without waiting for that many; OSError where it breaks off."""
        try:
            return self._response.read1(size)
        except http.client.HTTPException as error:
            raise OSError(f"the answer broke off: {error}") from error

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *error: object) -> None:
        self._response.close()


def download(address: str, place: str, seconds: float) -> Body:
    """The body behind an http(s) address, fetched from the IP address `place`; OSError for anything but status 200.

    `seconds`: longest silence.
    """
    parts = urlsplit(address)
    assert parts.hostname is not None, "addresses are checked before they are opened"
    kind = _SecureConnection if parts.scheme.lower() == "https" else _Connection
    connection = kind(parts.hostname, parts.port, timeout=seconds)
    connection.place = place
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "videochat-online", "Accept": "*/*"})
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise OSError(f"{parts.hostname} gives no answer: {error}") from error
    if response.status != 200:
        connection.close()
        what = "a redirect, which is not followed" if 300 <= response.status < 400 else response.reason
        raise OSError(f"HTTP {response.status}: {what}")
    return Body(response)


class _Connection(http.client.HTTPConnection):
    place = ""

    def connect(self) -> None:
        self.sock = socket.create_connection((self.place, self.port), self.timeout)


class _SecureConnection(http.client.HTTPSConnection):
    place = ""

    def connect(self) -> None:
        plain = socket.create_connection((self.place, self.port), self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
