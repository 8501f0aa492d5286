"""What an operator allows and what a visitor chooses within it; and the errors that say which of them was passed.

An error's `status` is what it is over HTTP; any other ValueError is 400. Which network addresses may be named: none,
public ones, or any. Where private networks are to stay closed, a name is looked up, every address behind it must be
public, and the stream is opened at the one that was looked at; neither redirects of HTTP and RTSP nor playlists, which
name further addresses, are followed (media/fetching.py).
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from ..config import MEMORY_POLICIES, RECALL_MODES, MemoryConfig, RecallMode, checked_recall
from ..media.addresses import SENT, Address
from ..media.source import check_fps
from ..prompt.messages import check_text

if TYPE_CHECKING:
    from ..model.backbone import Backbone

log = logging.getLogger(__name__)
NO_OTHER_FIELDS = {"extra": "forbid"}
"""Of the json of a request: a name with a typing error is refused and not replaced by a default, silently."""
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
ENDING_IN_IPV4 = [
    ipaddress.IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
]
"""IPv4-compatible, mapped and translated addresses, NAT64 (RFC 4291, 2765, 6052)."""
ISATAP = 0x5EFE
"""Bits 32 to 63 of an IPv6 address that ends in an IPv4 one, but for one bit (RFC 5214)."""


class RequestError(ValueError):
    """A request that cannot be answered as it is; `param` and `code` as OpenAI's clients read them."""

    def __init__(
        self, message: str, param: str | None = None, code: str = "invalid_value", *, status: int = 400
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def token_problem(given: str | None, token: str) -> str | None:
    """What is wrong with the token that a client brings, over HTTP or a socket; None where it is the server's."""
    is_right = given is not None and secrets.compare_digest(given.encode(), token.encode())
    return None if is_right else "this server wants its token: Authorization: Bearer TOKEN"


class UnknownSession(ValueError):
    """No session of that id: it never was, or it has ended."""

    status = 404


class LimitReached(ValueError):
    """More than the operator allows; `retry` in seconds."""

    status = 429

    def __init__(self, message: str, retry: int = 1) -> None:
        super().__init__(message)
        self.retry = retry


class Overloaded(LimitReached):
    """More than the server can do now, whoever asks; or it is being stopped."""

    status = 503


class NotAllowed(ValueError):
    """Something the operator has not switched on, or that does not fit what the session is doing."""

    status = 403


class ClientLeft(ValueError):
    """Nobody is there any more to be answered. The status is nginx's, for logs and metrics."""

    status = 499


class TooLarge(ValueError):
    """More bytes than the server takes."""

    status = 413


@dataclass(frozen=True)
class Limits:
    """Limits of one server."""

    max_sessions: int = 16
    idle_seconds: float = 1800.0
    """A session without a question, a command or a frame for so long is ended."""
    max_client_sessions: int | None = None
    """Sessions of one client (one address); None: as many as there are places."""
    max_client_requests: int = 64
    """Requests and sockets of one client at once."""
    max_questions: int = 8
    """Of one session, that wait or are being answered."""
    max_waiting: int = 256
    """Questions of all clients that wait or are being answered."""
    answers_at_once: int = 4
    """Answers that are made at the same moment, together; the others wait for their turn, between two words, too."""
    body_seconds: float = 30.0
    """A request's body may pause for so long in all, beside the time it takes at 16 KiB a second."""
    shutdown_seconds: float = 10.0
    """Answers may go on for so long when the server is being stopped."""
    max_upload_bytes: int = 256 * 2**20
    max_video_seconds: float = 3600.0
    max_image_bytes: int = 8 * 2**20
    """Of one pushed frame."""
    max_request_bytes: int = 64 * 2**20
    """Of one JSON document, pictures in it included."""
    max_new_tokens: int = 512
    max_question_chars: int = 4000
    max_fps: float = 10.0
    max_memory_tokens: int = 8192
    """Visual tokens of one session's memory."""
    max_prompt_tokens: int = 16384
    """Of memory, dialogue and answer together; a longer dialogue loses its oldest turns. Bounds a session's cache."""
    allow_urls: bool = False
    """Visitors may name public RTSP and HTTP addresses."""
    allow_private_urls: bool = False
    """... also inside this machine and its network; redirects, playlists and UDP."""
    allow_cameras: bool = False
    """Visitors may open camera devices of this machine."""
    recall: str | None = None
    """Of sessions that do not say: see `StreamingSession`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, is_whole = getattr(self, field.name), isinstance(field.default, int)
            if field.name == "recall":
                checked_recall(value)
                continue
            if value is None and field.default is None:
                continue
            if (is_whole and not isinstance(value, int)) or not (isinstance(value, bool) or value > 0):
                expected = "an integer >= 1" if is_whole else "> 0"
                raise ValueError(f"Limits.{field.name} must be {expected}, got {value!r}")
        if self.allow_private_urls and not self.allow_urls:
            raise ValueError("Limits.allow_private_urls needs allow_urls: without it no address is opened at all")


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session; what is left out is the model's or the server's choice."""

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    # The API takes these as json: values are checked in `check`, so that a wrong one gets the API's own error.
    fps: float = 2.0
    """Frames a second that the model sees."""
    capacities: tuple[int, ...] | None = None
    """Frames each level of the memory holds, finest first."""
    policy: str = "pyramid"
    cascade: bool = False
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    timestamps: bool = True
    """Tell the model each frame's time."""
    recall: str | None = None
    """"time", "chosen" or "off", as `StreamingSession` has it; left out: as the server is set."""

    def memory(self, model: Backbone) -> MemoryConfig:
        """The memory that is asked for, on the grids of this model."""
        return model.config.memory_config.adapted(
            capacities=self.capacities,
            policy=self.policy,  # type: ignore[arg-type]
            cascade=self.cascade,
        )

    def recalls(self, limits: Limits) -> RecallMode | None:
        """As the session recalls. ValueError for a way that there is not."""
        if self.recall not in (None, "off", *RECALL_MODES):
            raise ValueError(f"recall must be {', '.join(map(repr, RECALL_MODES))} or 'off', got {self.recall!r}")
        return checked_recall({"off": None, None: limits.recall}.get(self.recall, self.recall))

    def check(self, limits: Limits, model: Backbone) -> None:
        """ValueError for a setting that means nothing; RequestError for more than the operator allows."""
        check_fps(self.fps)
        if self.recalls(limits) == "chosen":
            from ..streaming.chooser import chooser_of

            try:
                chooser_of(model)
            except ValueError as error:  # it names a folder of this machine, which is the operator's alone
                log.warning("a session with recall='chosen' is refused: %s", error)
                what = "recall='chosen' takes a chooser beside the model: this server's model has none that can be used"
                raise ValueError(what) from None
        if self.policy not in MEMORY_POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}, expected one of {', '.join(MEMORY_POLICIES)}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        check_text(self.system_prompt or "", "the system prompt")
        for name, wanted, most in (
            ("fps", self.fps, limits.max_fps),
            ("max_new_tokens", self.max_new_tokens or 1, limits.max_new_tokens),
            ("memory tokens", self.memory(model).max_tokens, limits.max_memory_tokens),
            ("characters of the system prompt", len(self.system_prompt or ""), limits.max_question_chars),
        ):
            if wanted > most:
                raise RequestError(f"{wanted:g} {name} are more than this server allows ({most:g})")


# ---- network addresses ----------------------------------------------------------------------------------------------


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
