"""Which network addresses visitors may name: none, public ones, or any.

Where private networks are to stay closed, a name is looked up, every address behind it must be public, and the stream
is opened at the one that was looked at; neither redirects of HTTP nor playlists, which name further addresses, are
followed. So HTTP is our own here: FFmpeg's would look the name up again and go wherever a server sends it. What is left
to the operator's firewall: a public RTSP server that sends its clients elsewhere.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from functools import partial
from urllib.parse import SplitResult, urlsplit

from ..media.live_network import PROTOCOLS, NetworkStream
from .limits import Limits, NotAllowed

NO_PLAYLIST = {"format_whitelist": "rtsp,rtp,sdp,mov,mp4,matroska,webm,mpegts,flv,avi,mpjpeg,h264,hevc"}
"""FFmpeg option for visitors' addresses: formats that name no further addresses."""
SENT = ("udp",)
"""Schemes that open a port of this machine instead of fetching from another."""


def open_address(address: str, limits: Limits) -> NetworkStream:
    """The stream behind an address that the operator allows; NotAllowed or ValueError for others."""
    address = address.strip()
    place = checked_place(address, limits)
    if limits.allow_private_urls:
        return NetworkStream(address)
    return pinned_stream(address, place)


def pinned_stream(address: str, place: str) -> NetworkStream:
    """The stream at an address, reached only at the IP address `place` of its host."""
    parts = urlsplit(address)
    if parts.scheme.lower() in ("http", "https"):
        return NetworkStream(address, options=dict(NO_PLAYLIST), download=partial(download, address, place))
    host = f"[{place}]" if ":" in place else place
    login, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return NetworkStream(parts._replace(netloc=f"{login}{at}{host}{port}").geturl(), options=dict(NO_PLAYLIST))


def checked_place(address: str, limits: Limits) -> str:
    """An IP address of the host; NotAllowed where the operator does not allow it, ValueError where it is no address."""
    if not limits.allow_urls:
        raise NotAllowed("network addresses are switched off here (the operator can switch them on: --allow-urls)")
    parts = _split(address)
    if limits.allow_private_urls:
        return parts.hostname or ""
    if parts.scheme.lower() in SENT:
        raise NotAllowed(f"{parts.scheme.lower()} opens a port of this server, which is not allowed here")
    found = places(parts.hostname or "")
    if not all(map(is_public, found)):
        raise NotAllowed(f"{parts.hostname} is inside a private network; only public addresses are allowed here")
    return found[0]


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        is_address = parts.scheme.lower() in PROTOCOLS and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        is_address = False
    if not is_address:
        raise ValueError(f"{address!r}: expected an address such as rtsp://host/path ({', '.join(PROTOCOLS)})")
    return parts


def places(hostname: str) -> list[str]:
    """IP addresses of a host name; ValueError where there are none."""
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"there is no host {hostname!r} ({error})") from error
    return sorted({str(entry[4][0]) for entry in found})


def is_public(place: str) -> bool:
    """Whether an IP address is one of the public internet; IPv4 inside IPv6 counts as IPv4."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(place.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or address
    return address.is_global and not address.is_multicast


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
    is_secure = parts.scheme.lower() == "https"
    kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=seconds)
    connection.auto_open = 0  # it would look the name up again
    try:
        connection.sock = socket.create_connection((place, connection.port), seconds)
        if is_secure:
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(connection.sock, server_hostname=parts.hostname)
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
