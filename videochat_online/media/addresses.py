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
SECRETS = "user|username|usr|login|account|pwd|pass|passwd|password|passphrase|psw|token|auth|key|apikey|secret|sig"
SECRET = re.compile(rf"(?i)(?<![a-z])((?:[a-z]+[_-])?(?:{SECRETS}|signature))=([^&;/?#\s]*)")
"""A key and its value, in a query or, as some cameras want it, in the path."""
HIDDEN = "***"


@dataclass(frozen=True)
class Address:
    """scheme://login@place: `login` as written, None where there is none; `place`: host, port, path and query."""

    scheme: str
    login: str | None
    place: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The parts. A password may hold "#", "?", "/" and "@"; a path may hold "@"."""
        scheme, _, rest = text.partition("://")
        authority = re.split(r"[/?]", rest, maxsplit=1)[0]
        # What ends at the first "/" is host:port, perhaps behind a login; else the login itself holds a "/" or "?".
        host_behind = re.split("#", authority.rpartition("@")[2], maxsplit=1)[0]
        before = authority if HOST.fullmatch(host_behind) else rest
        if "@" not in before:
            return cls(scheme, None, rest)
        login = before.rpartition("@")[0]
        return cls(scheme, login, rest[len(login) + 1 :])

    @property
    def user_and_password(self) -> tuple[str, str] | None:
        if not self.login:
            return None
        user, _, password = self.login.partition(":")
        return unquote(user), unquote(password)

    @property
    def url(self) -> str:
        """Written so that every library finds the same parts."""
        if self.login is None:
            return f"{self.scheme}://{self.place}"
        return f"{self.scheme}://{quote(self.login, safe=':%!$&()*+,;=-._~')}@{self.place}"

    @property
    def without_login(self) -> str:
        return f"{self.scheme}://{self.place}"


def without_password(address: str) -> str:
    """The address as it may be shown: nothing that stands before an "@", and no values of keys such as `pwd`."""
    if "://" not in address:
        return address
    found = Address.parse(address)
    place = SECRET.sub(rf"\1={HIDDEN}", found.place)
    return f"{found.scheme}://{place.rpartition('@')[2]}"


def without_secrets(text: str, address: str) -> str:
    """A message that may repeat the address, or parts of it, as it may be shown."""
    found = Address.parse(address)
    secrets = {address, found.url, found.login or "", *(value for _, value in SECRET.findall(found.place))}
    if found.user_and_password is not None:
        secrets.add(found.user_and_password[1])
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 2:
            text = text.replace(secret, without_password(secret) if "://" in secret else HIDDEN)
    return text


def is_address(text: str) -> bool:
    """Whether this names a network stream, not a file."""
    try:
        return urlsplit(text).scheme.lower() in PROTOCOLS
    except ValueError:  # brackets that do not match
        return text.partition("://")[0].lower() in PROTOCOLS
