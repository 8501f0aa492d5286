"""Network addresses as people write them: which schemes are streams, the login in them, and how they may be shown.

Passwords hold anything: "rtsp://admin:a#b@host", "rtsp://admin:a/b@host", "?user=admin&pwd=..". Opens nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,srtp,tcp,udp,tls",
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
    "udp": "udp,rtp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmp,rtmps,tcp,tls",
    "srt": "srt",
}
"""Schemes of addresses, and the protocols that what stands behind one may use: never this machine's files."""

HOST = re.compile(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:@/?#\[\]]*)(:\d*)?")
SECRET = re.compile(
    r"""(?xis) (?<![\w-])
    ( [\w-]*(?:pwd|passw\w*|passphrase|psw|token|secret|signature|credential|username|jwt)
    | login\w* | streamid
    | (?: [\w-]*[_-] | (?-i:[a-z]+(?=[A-Z])) )? (?:user|usr|account|pass|auth|key|apikey|sig) )
    = ( (?: (?!&|;[\w-]+=) . )* )"""
)
"""A key and its value, in a query or, as some cameras want it, in the path. A value may hold anything but "&"."""
HIDDEN = "***"
SENT = ("udp", "srt")
"""Schemes that open a port of this machine instead of fetching from another."""


@dataclass(frozen=True)
class Address:
    """scheme://login@place: `login` as written, None where there is none; `place`: host, port, path and query."""

    scheme: str
    login: str | None
    place: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The parts. A password may hold "#", "?", "/" and "@"; a path may hold "@"."""
        scheme, _, rest = text.strip().partition("://")
        authority = re.split(r"[/?]", rest, maxsplit=1)[0]
        # What ends at the first "/" is host:port, perhaps behind a login; else the login itself holds a "/" or "?".
        host_behind = authority.rpartition("@")[2].partition("#")[0]
        before = authority if HOST.fullmatch(host_behind) else rest
        login, at, _ = before.rpartition("@")
        return cls(scheme.lower(), login if at else None, rest[len(login + at) :])

    @classmethod
    def checked(cls, text: str) -> Address:
        """The parts of an address that names a stream; ValueError for anything else."""
        found = cls.parse(text)
        try:
            parts = urlsplit(found.url)
            is_named = bool(parts.port) if found.scheme in SENT else parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number, brackets that do not match
            is_named = False
        if not is_named or found.scheme not in PROTOCOLS:
            expected = f"expected an address such as rtsp://host/path or udp://:port ({', '.join(PROTOCOLS)})"
            raise ValueError(f"{without_password(text)!r}: {expected}")
        return found

    @property
    def user_and_password(self) -> tuple[str, str] | None:
        if not self.login:
            return None
        user, _, password = self.login.partition(":")
        return unquote(user), unquote(password)

    @property
    def url(self) -> str:
        """Written so that every library finds the same parts."""
        login = "" if self.login is None else quote(self.login, safe=":%!$&()*+,;=-._~") + "@"
        return f"{self.scheme}://{login}{self.place}"

    def at(self, host: str, *, port: int | None = None, scheme: str | None = None) -> str:
        """The same address at another host (an IP address)."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        port = port or parts.port
        netloc = f"{login}{at}" + (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        return parts._replace(scheme=scheme or self.scheme, netloc=netloc).geturl()


def is_address(text: str) -> bool:
    """Whether this is meant to name a network stream, not a file; one that is written wrongly, too."""
    return "://" in text or text.strip().partition(":")[0].lower() in PROTOCOLS


def without_password(address: str) -> str:
    """The address as it may be shown: nothing that stands before an "@", and no values of keys such as `pwd`."""
    scheme, mark, _ = address.rpartition("://") if "://" not in address else address.partition("://")
    place = SECRET.sub(rf"\1={HIDDEN}", Address.parse(address).place if mark else address)
    return f"{scheme}{mark}{place.rpartition('@')[2]}"


def without_secrets(text: str, address: str) -> str:
    """A message that may repeat the address, or parts of it, as it may be shown."""
    found = Address.parse(address)
    login = found.login or ""
    secrets = {address, found.url, login, *(value for _, value in SECRET.findall(found.place))}
    secrets |= {part for known in (login, quote(login)) for part in known.split(":", 1)[1:]}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 2:
            text = text.replace(secret, without_password(secret) if "://" in secret else HIDDEN)
    return text
