"""Sources that are connected to: each connection is read in a thread of its own, and opened again when it breaks off.

A connection is alive while pictures come; bytes, sound and the promises of a library do not count. One that hangs is
left behind: nobody waits for it, it frees what it holds when its call returns, and no other is opened before that.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from .fetching import Sockets
from .live import LiveSource
from .source import Frame, MediaError

TimedPicture = tuple[np.ndarray, float]
"""uint8 (H, W, 3) RGB, and its seconds of the stream."""
Pictures = Generator[TimedPicture, None, None]
CAPACITY = 16
"""Pictures of a connection that may wait; whoever queues them for a model takes them at once."""
LEAVE_SECONDS = 0.4
"""How long `close` waits for the thread of a connection."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a stream. All in seconds."""

    open: float = 8.0
    read: float = 5.0
    """Without a picture for this long, a connection counts as broken."""
    key: float = 15.0
    """... while only pictures come that cannot be decoded before the next key frame."""
    first_pause: float = 0.5
    """Between the break and the first try; doubled with each try."""
    longest_pause: float = 4.0
    give_up: float = 300.0
    """Since the last frame."""


class Connection:
    """One connection, read in a thread: `pictures(connection)` opens it, and gives what it reads."""

    def __init__(self, name: str, pictures: Callable[[Connection], Pictures], patience: float) -> None:
        self.left = threading.Event()
        """Set when nobody waits for pictures any more: the reading thread has to end."""
        self.has_end = False
        """Whether what is read has an end of its own, such as a file behind an address: that end is no break."""
        self._name, self._pictures = name, pictures
        self._waiting: deque[TimedPicture] = deque()
        self._changed = threading.Condition()
        self._patience = patience
        self._until = time.monotonic() + patience
        self._error: Exception | None = None
        self._is_done = False
        self.sockets = Sockets()
        """They end with the connection, and with them the calls in which its thread may hang."""
        self.thread = threading.Thread(target=self._work, name=f"read {name}"[:40], daemon=True)

    # ---- the thread that reads ------------------------------------------------------------------------------------

    def expect(self, seconds: float, *, since: float | None = None) -> None:
        """The next picture comes within `seconds` of `since` (now), or the connection is broken."""
        self._patience = seconds
        self._until = (time.monotonic() if since is None else since) + seconds

    def _work(self) -> None:
        try:
            with closing(self._pictures(self)) as pictures:  # closed in this thread: it frees what it holds
                for picture in pictures:
                    with self._changed:
                        self._changed.wait_for(lambda: len(self._waiting) < CAPACITY or self.left.is_set())
                        self._waiting.append(picture)
                        self._changed.notify_all()
                    if self.left.is_set():
                        break
        except Exception as error:  # raised by take()
            self._error = error
        finally:
            self.sockets.close()
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    # ---- those who wait for pictures ------------------------------------------------------------------------------

    def take(self) -> TimedPicture | None:
        """The next picture; None at the end, or when the connection was left. MediaError where it breaks off."""
        with self._changed:
            while not self._waiting and not self._is_done and not self.left.is_set():
                if (remaining := self._until - time.monotonic()) <= 0:
                    what = f"no picture came for {self._patience:g} s"
                    raise MediaError.about(self._name, what, "a stream whose pictures keep coming")
                self._changed.wait(remaining)
            if self.left.is_set():
                return None
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            if self._error is not None:
                raise self._error
            return None

    def leave(self) -> None:
        """Let the thread end; does not wait for it."""
        self.left.set()
        self.sockets.close()
        with self._changed:
            self._changed.notify_all()


class ReconnectingSource(LiveSource):
    """Opens, reads, and opens again. It ends where the first try fails: the address is wrong, or nothing runs there."""

    def __init__(self, name: str, *, timeouts: Timeouts | None = None) -> None:
        super().__init__(name)
        self.timeouts = timeouts or Timeouts()
        self._num = 0
        self._began: float | None = None
        self._last_came: float | None = None
        self._connection: Connection | None = None

    @abstractmethod
    def _pictures(self, connection: Connection) -> Pictures:
        """Pictures of one connection, their seconds counted on from `_now()`; ends where it breaks off.

        Runs in the connection's thread. MediaError where it cannot be opened or breaks off with a reason.
        """

    def _now(self) -> float:
        """Seconds of the stream: real time since its first picture, 0 before it."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        return now - self._began

    def frames(self) -> Iterator[Frame]:
        pause = self.timeouts.first_pause
        while not self.stopped.is_set():
            error = MediaError.about(self.name, "the stream broke off", "one that continues")
            connection = self._connection = Connection(self.name, self._pictures, self.timeouts.open)
            try:
                if self.stopped.is_set():  # `stop` may not have seen this connection
                    return
                connection.thread.start()
                while (picture := connection.take()) is not None:
                    self.state, self.problem, pause = "playing", None, self.timeouts.first_pause
                    self._last_came = time.monotonic()
                    self._num += 1
                    yield Frame(*picture, self._num - 1)
                if connection.has_end:
                    return
            except MediaError as problem:
                error = problem
            finally:
                connection.leave()
            if self.stopped.is_set():
                return
            if self._last_came is None or connection.has_end:
                raise error
            self.state, self.problem = "reconnecting", str(error)
            self.num_reconnects += 1
            self.stopped.wait(pause)
            pause = min(2 * pause, self.timeouts.longest_pause)
            while True:  # a device or port is free only when the thread that read it has ended
                if time.monotonic() - self._last_came > self.timeouts.give_up:
                    raise error
                if not connection.thread.is_alive() or self.stopped.wait(0.1):
                    break

    def stop(self) -> None:
        super().stop()
        if (connection := self._connection) is not None:
            connection.leave()

    def close(self) -> None:
        """Gives the connection's thread a moment to end; one that hangs in a library ends when its call returns."""
        if (connection := self._connection) is not None and connection.thread.ident is not None:
            connection.thread.join(LEAVE_SECONDS)
