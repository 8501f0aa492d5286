"""What is said for standing instructions, posted to other programs as Standard Webhooks (standardwebhooks.com).

To the operator's own addresses everything, to one that an instruction names what is said for it, and only below an
address that the operator allows. A receiver, which is a host with its port, gets one event at a time, in order, in a
thread of its own: nobody waits for it. What it does not take is tried again, then given up, counted and logged; never
with its path, which in many a webhook is the password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from queue import SimpleQueue
from urllib.parse import unquote, urlsplit

from ..media.addresses import Address
from ..media.fetching import Sockets, post
from ..prompt.messages import check_text
from ..streaming.standing import Standing
from .limits import Limits, NotAllowed, reachable_place
from .turns import STOPPED

SECRET = "VIDEOCHAT_ONLINE_WEBHOOK_SECRET"
"""Environment variable with the key of the signatures, in base64 with or without "whsec_" before it."""
PAUSES = (1.0, 5.0, 30.0)
"""Seconds before an event is tried again."""
SILENCE_SECONDS, MOST_SECONDS = 5.0, 10.0
"""Of one try: how long a receiver may say nothing, and take in all."""
AGAIN = (408, 425, 429)
"""Statuses, beside those from 500 on, after which it is tried again."""
MOST_WAITING = 256
"""Events that wait for one receiver; those beyond are given up."""
MOST_CHARACTERS = 2000
"""Of an address."""
LAST_SECONDS, LEAVE_SECONDS = 2.0, 0.5
"""When the server ends: for what still waits, and then for receivers that hang to be left."""
Jobs = SimpleQueue[tuple[Future[str | None], Callable[[], str | None]] | None]
log = logging.getLogger(__name__)


class Webhooks:
    """All webhooks of one server. Raises ValueError for addresses and a secret that cannot be used."""

    def __init__(
        self, addresses: Sequence[str] = (), allowed: Sequence[str] = (), *, limits: Limits | None = None,
        secret: str | None = None,
    ) -> None:  # fmt: skip
        self._own, self._allowed = list(map(_checked, addresses)), list(map(_checked, allowed))
        self._limits, self._secret = limits or Limits(), _key(secret)
        self._receivers: dict[str, Jobs] = {}
        self._waiting: dict[Future[str | None], str] = {}
        self._open: set[Sockets] = set()
        self._ending = threading.Event()
        self._lock = threading.RLock()
        self.num_sent = self.num_failed = 0
        """Events that a receiver took, and that were given up."""

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def check(self, address: str) -> None:
        """Of an address that an instruction names: NotAllowed or ValueError where nothing may be posted there."""
        found = _checked(address)
        if found.login is not None or not any(_is_below(found, each) for each in self._allowed):
            raise NotAllowed("this server posts to no such address (the operator can allow it: --webhook-allow)")
        self._place(found, is_named=True)

    def _place(self, address: Address, *, is_named: bool) -> str:
        """Where to connect to. A name may lead into private networks where the operator gave it, or allows that; an IP
        address stands there because the operator wrote it."""
        host = urlsplit(address.url).hostname or ""
        is_number = ":" in host or host.replace(".", "").isdigit()
        return reachable_place(address, self._limits) if is_named and not is_number else host

    def send(self, session: str, standing: Standing) -> None:
        """Hand on what was said last. Waits for nothing: a session calls this while it holds its state."""
        event, name = standing.last, hashlib.sha256(session.encode()).hexdigest()[:16]  # the id itself is a key
        named = [(_checked(standing.webhook), True)] if standing.webhook else []
        if event is None or event.quiet:
            return
        now = datetime.now(timezone.utc).isoformat()
        told = {"type": "standing.said", "timestamp": now, "session": name, "data": asdict(event)}
        body, key = json.dumps(told, ensure_ascii=False).encode(), f"{name}.{event.id}"
        for address, is_named in [*((one, False) for one in self._own), *named]:
            place = receiver_of(address)
            if self._ending.is_set() or list(self._waiting.values()).count(place) >= MOST_WAITING:
                self._give_up(place, STOPPED if self._ending.is_set() else "too many wait for it")
                continue
            future: Future[str | None] = Future()
            self._waiting[future] = place
            future.add_done_callback(self._over)
            self._jobs_of(place).put((future, partial(self._deliver, address, is_named, key, body)))

    def _jobs_of(self, place: str) -> Jobs:
        with self._lock:
            if (jobs := self._receivers.get(place)) is None:
                jobs = self._receivers[place] = SimpleQueue()
                threading.Thread(target=_make_calls, args=(jobs,), name="videochat-online-webhook", daemon=True).start()
            return jobs

    def _over(self, future: Future[str | None]) -> None:
        """Count an event that is told or given up, once."""
        with self._lock:
            if (place := self._waiting.pop(future, None)) is None:
                return
            problem = STOPPED if future.cancelled() or not future.done() else future.result()
            if problem is None:
                self.num_sent += 1
            else:
                self._give_up(place, problem)

    def _deliver(self, address: Address, is_named: bool, key: str, body: bytes) -> str | None:
        """Until it is taken, refused, or was tried often enough; then why it is given up."""
        for pause in (*PAUSES, None):
            status = 0
            try:
                status = self._post(address, is_named, key, body)
                problem = f"it answered with status {status}"
            except (OSError, ValueError) as error:  # no answer; ValueError: its name is gone, or leads elsewhere now
                problem = str(error) or type(error).__name__
            if 200 <= status < 300:
                return None
            if pause is None or (0 < status < 500 and status not in AGAIN) or self._ending.wait(pause):
                break
        return problem

    def _post(self, address: Address, is_named: bool, key: str, body: bytes) -> int:
        place = self._place(address, is_named=is_named)
        seconds = str(int(time.time()))
        headers = {"Content-Type": "application/json", "webhook-id": key, "webhook-timestamp": seconds}
        if self._secret:
            signed = hmac.digest(self._secret, f"{key}.{seconds}.".encode() + body, "sha256")
            headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
        sockets = Sockets()
        self._open.add(sockets)
        limit = threading.Timer(MOST_SECONDS, sockets.close)  # a receiver may send its answer byte by byte
        limit.start()
        try:
            return post(address, body, headers, sockets, place=place, seconds=SILENCE_SECONDS)
        finally:
            limit.cancel()
            self._open.discard(sockets)

    def _give_up(self, place: str, problem: str) -> None:
        with self._lock:
            self.num_failed += 1
        log.warning("a moment was not told to the webhook at %s: %s", place, problem)

    def close(self) -> None:
        """End: what waits is tried once more, within LAST_SECONDS in all; who hangs is left LEAVE_SECONDS later."""
        self._ending.set()
        wait(list(self._waiting), LAST_SECONDS)
        for future in list(self._waiting):
            future.cancel()
        for sockets in list(self._open):
            sockets.close()
        wait(list(self._waiting), LEAVE_SECONDS)
        with self._lock:
            for future in list(self._waiting):  # nothing wakes who looks up a name, or connects
                self._over(future)
        for jobs in self._receivers.values():
            jobs.put(None)


def _make_calls(jobs: Jobs) -> None:
    """One after another, until None. In a daemon's thread, so that a process may end while one of them hangs."""
    while (job := jobs.get()) is not None:
        future, call = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:  # whoever counts it shows it
                future.set_exception(error)


def receiver_of(address: Address) -> str:
    """Scheme, host and port: all that may be shown of a webhook."""
    parts = urlsplit(address.url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{address.scheme}://{host}:{parts.port or (443 if address.scheme == 'https' else 80)}"


def _checked(text: str) -> Address:
    check_text(text, "a webhook")
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"a webhook may have {MOST_CHARACTERS} characters, got {len(text)}")
    found = Address.checked(text)
    if found.scheme not in ("http", "https"):
        raise ValueError(f"a webhook is an http or https address, got one of {found.scheme}")
    return found


def _is_below(address: Address, allowed: Address) -> bool:
    """Whether it is that address, or stands below it in the same host's paths."""
    path, base = (unquote(urlsplit(one.url).path) for one in (address, allowed))
    is_plain = ".." not in path.replace("\\", "/").split("/")
    return (
        receiver_of(address) == receiver_of(allowed)
        and is_plain
        and f"{path.rstrip('/')}/".startswith(f"{base.rstrip('/')}/")
    )


def _key(secret: str | None) -> bytes:
    try:
        return base64.b64decode((secret or "").removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{SECRET} must be base64, with or without whsec_ before it") from error
