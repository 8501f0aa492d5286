"""Who is served next: places for work, given to the client that had least of them so far. Waiting takes no thread.

What waits is bounded, a session has one place at a time, and work that is done piece by piece can let others go first
between two pieces: a short question waits neither behind a long answer nor behind many of somebody else's. Who had
little finds a place kept free, and whoever had far more stands aside while it is served: a seldom question is nearly as
fast as in a quiet hour.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..streaming.together import aside
from .limits import ClientLeft, LimitReached, Overloaded

CLIENT: ContextVar[str] = ContextVar("CLIENT", default="")
"""The address of whoever sent what is being done now; empty for work of our own."""
HAS_LEFT: ContextVar[Callable[[], Awaitable[bool]] | None] = ContextVar("HAS_LEFT", default=None)
"""Tells of a request over HTTP, once its body is whole, whether its client has left."""
T = TypeVar("T")
THREADS = anyio.CapacityLimiter(64)
LOOK_SECONDS = 0.25
SLICE_SECONDS = 0.05
"""By so much another must have had less before it goes first in the middle of a work."""
HALF_LIFE_SECONDS = 10.0
"""What a client had counts half after so long."""
MUCH_SECONDS, TIMES_AS_MUCH = 1.0, 2
"""Who had so much, and so many times as much as another, stands aside while that one is served."""
ASIDE_SECONDS = 0.25
LONGEST_RETRY = 60
REFUSAL_PAUSES, LET_GO_PAUSES = (0.5, 0.2, 30.0), (0.0, 0.05, 1.0)
"""Of requests that are refused, and of pictures that are let go: twenty a second of one client."""
MOST_KNOWN = 1000
STOPPED = "the server is being stopped"


@dataclass(eq=False)
class Place:
    """One work that waits for its turn (`await place.turn()`), is done, and gives its place back (`release`)."""

    turns: Turns
    client: str
    session: str
    came: float = field(default_factory=time.monotonic)
    since: float = 0.0
    """From when on its wait or its work is to be counted (time.monotonic)."""
    state: str = "new"
    """new, waiting, held or over."""
    has_begun: bool = False
    is_displaced: bool = False  # for the sake of somebody who asked for less
    wake: Callable[[], Any] = field(default=lambda: None, repr=False)

    async def turn(self) -> None:
        """Wait until it may begin; Overloaded where the server ends before."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        self.turns._wait(self, partial(loop.call_soon_threadsafe, ready.set))
        while not ready.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ready.wait(), LOOK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """ClientLeft where nobody waits for it any more, Overloaded where it was over before it began."""
        if (has_left := HAS_LEFT.get()) is not None and await has_left():
            raise ClientLeft("the client left before its turn")
        if self.state == "over":
            raise Overloaded("who asked for less goes first; try again later" if self.is_displaced else STOPPED)

    def pause(self) -> None:
        """Between two pieces of work, in the thread that does it: whoever had less goes first, and this one waits."""
        again = threading.Event()
        if self.turns._gave_way(self, again.set):
            with aside():
                again.wait()

    def release(self) -> None:
        """It is over, or nobody wants it any more. May be called again, from any thread."""
        self.turns._end(self)


class Ledger:
    """What clients and sessions had lately, in seconds: of answers and of pictures alike."""

    def __init__(self) -> None:
        self._had: dict[str, tuple[float, float]] = {}  # seconds, and when that was so
        self._greatest = ""
        self._lock = threading.Lock()  # each queue has one of its own

    @property
    def most(self) -> float:
        """Of the client who had most: all forget alike, so that only a charge makes another the first."""
        return self.recent(self._greatest)

    def recent(self, who: str) -> float:
        seconds, at = self._had.get(who, (0.0, 0.0))
        return seconds * 0.5 ** ((time.monotonic() - at) / HALF_LIFE_SECONDS) if seconds else 0.0

    def charge(self, place: Place, seconds: float) -> None:
        with self._lock:
            for who in (f"client {place.client}", f"session {place.session}"):
                self._had[who] = self.recent(who) + seconds, time.monotonic()
            if self.recent(f"client {place.client}") >= self.most:
                self._greatest = f"client {place.client}"
            if len(self._had) > MOST_KNOWN:  # some came long ago
                self._had = {who: had for who, had in self._had.items() if self.recent(who) > SLICE_SECONDS / 10}


class Turns:
    """See the module.

    Args:
        places: works that are done at once; one more is begun where another stands aside for it.
        most_waiting: works that wait or are done, of all clients (Overloaded beyond).
        most_of_session: the same of one session (LimitReached beyond).
        most_alone: the same of all that belong to no session.
        ledger: that of another queue, where what one had there counts here.
    """

    def __init__(
        self, places: int, *, most_waiting: int, most_of_session: int, most_alone: int, ledger: Ledger | None = None
    ) -> None:
        self.ledger = ledger or Ledger()
        self.most_waiting, self.most_of_session, self.most_alone = most_waiting, most_of_session, most_alone
        self._num_places, self._num_free = places, places + 1
        self._lock = threading.Lock()
        self._entered: list[Place] = []
        self._usual_seconds = 0.1
        self._is_calm = threading.Event()
        self._is_calm.set()
        self._much = math.inf  # from so much on one stands aside
        self.is_closed = False
        """Whether nothing more may enter: the server is being stopped."""

    @property
    def num_waiting(self) -> int:
        return sum(place.state != "held" for place in list(self._entered))

    @property
    def num_held(self) -> int:
        return sum(place.state == "held" for place in list(self._entered))

    @property
    def num_entered(self) -> int:
        return len(self._entered)

    @property
    def is_favouring(self) -> bool:
        """Whether somebody is served for whom others stand aside."""
        return not self._is_calm.is_set()

    def stand_aside(self) -> None:
        """In a thread that works for all: wait while somebody is favoured, but only a moment."""
        self._is_calm.wait(ASIDE_SECONDS)

    async def let_pass(self) -> None:
        """Wait a moment where somebody is favoured and this client is one who stands aside."""
        asked = sum(place.client == CLIENT.get() for place in self._entered)
        if self.is_favouring and max(1, asked) * self.ledger.recent(f"client {CLIENT.get()}") >= self._much:
            await asyncio.sleep(ASIDE_SECONDS)

    def enter(self, session: str = "") -> Place:
        """A place in the queue, to be released whatever happens; an empty session is none."""
        with self._lock:
            if self.is_closed:
                raise Overloaded(STOPPED, self._retry())
            if len(self._entered) >= self.most_waiting and not self._displace(self._entered):
                raise Overloaded(f"{len(self._entered)} requests wait already; try again later", self._retry())
            most, whose = (self.most_of_session, "of this") if session else (self.most_alone, "without a")
            same = [place for place in self._entered if place.session == session]
            if len(same) >= most and (session or not self._displace(same)):
                what = f"{most} questions {whose} session wait or are being answered; try again later"
                raise LimitReached(what, self._retry())
            place = Place(self, CLIENT.get(), session)
            self._entered.append(place)
            return place

    @contextmanager
    def entered(self, session: str = "") -> Iterator[Place]:
        """As `enter`; released where the block fails: else it is whoever does the work that gives it back."""
        place = self.enter(session)
        try:
            yield place
        except BaseException:
            place.release()
            raise

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """A block that is done when its turn has come, for no session."""
        with self.entered() as place:
            await place.turn()
            yield
        place.release()

    async def do(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """What a call returns that computes, in a thread, when its turn has come."""
        async with self.begun():
            return await in_thread(call, *arguments, **named)

    def empty(self) -> None:
        """Let nothing wait any longer."""
        for place in list(self._entered):
            if not place.has_begun:
                place.release()

    def _displace(self, among: list[Place]) -> bool:
        """Whether the newest that waits there, of the client who has most, could go: for one who then has no more."""
        had = Counter(place.client for place in among)
        most = max(had, key=lambda client: had[client])
        last = next((one for one in reversed(among) if one.client == most and not one.has_begun), None)
        if last is None or had[most] <= had[CLIENT.get()] + 1:
            return False
        last.is_displaced = True
        self._over(last)
        return True

    def _retry(self) -> int:
        """Seconds after which what waits now will have been served, as far as one can know."""
        seconds = self._usual_seconds * (len(self._entered) + 1) / self._num_places
        return min(LONGEST_RETRY, max(1, math.ceil(seconds)))

    def _wait(self, place: Place, wake: Callable[[], Any]) -> None:
        with self._lock:
            if place.state == "over":  # while its pictures were read
                wake()
                return
            place.wake, place.state, place.since = wake, "waiting", time.monotonic()
            self._give_places()

    def _gave_way(self, place: Place, wake: Callable[[], None]) -> bool:
        with self._lock:
            if place.state != "held":
                return False
            self._charge(place)
            share = self._shares()
            if not self._stands_aside(place, share) and not self._lets_first(place, share):
                self._give_places()  # to those that stood aside for this one, which had little
                return False
            self._num_free += 1
            place.wake, place.state = wake, "waiting"
            self._give_places()
            return place.state == "waiting"

    def _lets_first(self, place: Place, share: Callable[[Place], tuple[float, float]]) -> bool:
        """Whether one that waits had less."""
        if not (others := self._ready()):
            return False
        other = min(others, key=share)
        ours, theirs = share(place), share(other)
        mine, least = (ours[1], theirs[1]) if place.client == other.client else (ours[0], theirs[0])
        return least + SLICE_SECONDS < mine

    def _end(self, place: Place) -> None:
        with self._lock:
            if place.state != "over":
                self._over(place)

    def _over(self, place: Place) -> None:
        if place.state == "held":
            seconds = self._charge(place)
            self._usual_seconds += 0.1 * (seconds - self._usual_seconds)
            self._num_free += 1
        was_waiting, place.state = place.state == "waiting", "over"
        self._entered.remove(place)
        self._give_places()
        if was_waiting:
            place.wake()

    def _ready(self) -> list[Place]:
        """Those that may have a free place, the longest waiting first: a session does one work after another."""
        begun = {place.session for place in self._entered if place.has_begun and place.session}
        waiting = (place for place in self._entered if place.state == "waiting")
        return [place for place in waiting if place.has_begun or place.session not in begun]

    def _stands_aside(self, place: Place, share: Callable[[Place], tuple[float, float]]) -> bool:
        """Whether somebody is served now who had far less."""
        least = min((share(other)[0] for other in self._entered if other.state == "held"), default=math.inf)
        return _is_far_more(share(place)[0], least)

    def _give_places(self) -> None:
        share, now = self._shares(), time.monotonic()

        def order(place: Place) -> tuple[float, float]:
            """Of one client, who has waited for as long as it had goes before those who always come with less."""
            client, session = share(place)
            return client, session - (now - place.since)

        while self._num_free and (ready := self._ready()):
            place = min(ready, key=order)
            if self._stands_aside(place, share) or (self._num_free == 1 and not self._is_kept_for(place, share)):
                break
            self._num_free -= 1
            place.state, place.has_begun, place.since = "held", True, time.monotonic()
            place.wake()
        least = min((share(place)[0] for place in self._entered if place.state == "held"), default=math.inf)
        self._much = max(MUCH_SECONDS, TIMES_AS_MUCH * least)
        (self._is_calm.clear if self.ledger.most >= self._much else self._is_calm.set)()

    def _is_kept_for(self, place: Place, share: Callable[[Place], tuple[float, float]]) -> bool:
        """Whether somebody who does his work now stands aside for it at his next piece."""
        most = max((share(other)[0] for other in self._entered if other.state == "held"), default=0.0)
        return _is_far_more(most, share(place)[0])

    def _shares(self) -> Callable[[Place], tuple[float, float]]:
        """What a place's client and session had lately, in seconds; of a client, times what it asks for at once."""
        asked = Counter(place.client for place in self._entered)

        def share(place: Place) -> tuple[float, float]:
            client = asked[place.client] * self.ledger.recent(f"client {place.client}")
            return client, self.ledger.recent(f"session {place.session}")

        return share

    def _charge(self, place: Place) -> float:
        """Count the seconds since it was counted last."""
        now = time.monotonic()
        seconds, place.since = now - place.since, now
        self.ledger.charge(place, seconds)
        return seconds


def _is_far_more(seconds: float, than: float) -> bool:
    return seconds >= max(MUCH_SECONDS, TIMES_AS_MUCH * than)


async def in_thread(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """What a call returns that computes: no request of another kind waits behind it."""
    return await anyio.to_thread.run_sync(partial(call, *arguments, **named), limiter=THREADS)


class Refusals:
    """When clients are told that there is no room: after a moment, and a client's refusals one after another.

    So whoever asks again and again without waiting costs the others little. Used in the event loop's thread alone.
    `pauses` in seconds: from the request, from the refusal before, and at most.
    """

    def __init__(self, pauses: tuple[float, float, float] = REFUSAL_PAUSES) -> None:
        self.pauses = pauses
        self._next: dict[str, float] = {}

    async def moment(self) -> None:
        """Wait for the moment of one refusal of this client."""
        now, client = time.monotonic(), CLIENT.get()
        if len(self._next) > MOST_KNOWN:
            self._next = {who: at for who, at in self._next.items() if at > now}
        first, following, last = self.pauses
        at = min(max(now + first, self._next.get(client, 0.0) + following), now + last)
        self._next[client] = at
        await asyncio.sleep(at - now)
