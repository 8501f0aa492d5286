"""Which network addresses visitors may name: none, public ones, or any.

Where private networks are to stay closed, a name is looked up, every address behind it must be public, and the stream
is opened at the one that was looked at; neither redirects of HTTP and RTSP nor playlists, which name further addresses,
are followed (media/fetching.py).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from ..media.addresses import SENT, Address
from ..media.live_network import NetworkStream
from .limits import Limits, NotAllowed

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
ENDING_IN_IPV4 = [
    ipaddress.IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
]
"""IPv4-compatible, mapped and translated addresses, NAT64 (RFC 4291, 2765, 6052)."""
ISATAP = 0x5EFE
"""Bits 32 to 63 of an IPv6 address that ends in an IPv4 one, but for one bit (RFC 5214)."""


def open_address(address: str, limits: Limits) -> NetworkStream:
    """The stream behind an address that the operator allows; NotAllowed or ValueError for others."""
    place = checked_place(address, limits)
    return NetworkStream(address) if limits.allow_private_urls else pinned_stream(address, place)


def pinned_stream(address: str, place: str) -> NetworkStream:
    """The stream at an address, reached only at the IP address `place` of its host."""
    found = Address.checked(address)
    if found.scheme not in ("http", "https"):  # whose servers want to know the name
        address = found.at(place)
    return NetworkStream(address, place=place)


def checked_place(address: str, limits: Limits) -> str:
    """An IP address of the host; NotAllowed where the operator does not allow it, ValueError where it is no address."""
    if not limits.allow_urls:
        raise NotAllowed("network addresses are switched off here (the operator can switch them on: --allow-urls)")
    return reachable_place(Address.checked(address), limits)


def reachable_place(asked: Address, limits: Limits) -> str:
    """The same, where addresses are opened at all."""
    host = urlsplit(asked.url).hostname or ""
    if limits.allow_private_urls:
        return host
    if asked.scheme in SENT:
        raise NotAllowed(f"{asked.scheme} opens a port of this server, which is not allowed here")
    found = places(host)
    if not all(map(is_public, found)):
        raise NotAllowed(f"{host} is inside a private network; only public addresses are allowed here")
    return found[0]


def places(hostname: str) -> list[str]:
    """IP addresses of a host name; ValueError where there are none."""
    try:
        found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"there is no host {hostname!r} ({error})") from error
    return sorted({str(entry[4][0]) for entry in found})


def is_public(place: str) -> bool:
    """Whether an IP address is one of the public internet; IPv4 inside IPv6, in whatever form, must be public too."""
    address = ipaddress.ip_address(place.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if any(address in network for network in ENDING_IN_IPV4):
            return is_public(str(last))
        inside = [last] if int(address) >> 32 & 0xFDFFFFFF == ISATAP else []
        inside += [address.sixtofour] if address.sixtofour else []
        if address not in GLOBAL_UNICAST or not all(is_public(str(hidden)) for hidden in inside):
            return False
    return address.is_global and not address.is_multicast
