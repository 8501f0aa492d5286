"""Sources that are connected to: each connection is read in a thread of its own, and opened again when it breaks off.

A connection is alive while pictures come; bytes, sound and the promises of a library do not count. One that hangs is
left behind: nobody waits for it, it frees what it holds when its call returns, and no other is opened before that.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from .fetching import Sockets
from .live import LiveSource, LiveStream
from .source import Frame, MediaError

TimedPicture = tuple[np.ndarray, float]
"""uint8 (H, W, 3) RGB, and its seconds of the stream."""
Pictures = Generator[TimedPicture, None, None]
CAPACITY = 64
"""Pictures of a connection that may wait; they are taken at once, but a stream without times may begin with many."""


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


class Connection(LiveSource):
    """One connection: `pictures(connection)` opens it, and gives what it reads."""

    def __init__(self, name: str, pictures: Callable[[Connection], Pictures], patience: float) -> None:
        super().__init__(name)
        self.has_end = False
        """Whether what is read has an end of its own, such as a file behind an address: that end is no break."""
        self.sockets = Sockets()
        """They end with the connection, and with them the calls in which its thread may hang."""
        self._pictures = pictures
        self.expect(patience)

    def expect(self, seconds: float, *, since: float | None = None) -> None:
        """The next picture comes within `seconds` of `since` (now), or the connection is broken."""
        self.patience = seconds
        self.until = (time.monotonic() if since is None else since) + seconds

    def frames(self) -> Iterator[Frame]:
        with closing(self._pictures(self)) as pictures:  # closed in this thread: it frees what it holds
            for number, picture in enumerate(pictures):
                yield Frame(*picture, number)

    def stop(self) -> None:
        super().stop()
        self.sockets.close()

    def close(self) -> None:
        self.sockets.close()


class ReconnectingSource(LiveSource):
    """Opens, reads, and opens again. It ends where the first try fails: the address is wrong, or nothing runs there."""

    def __init__(self, name: str, *, timeouts: Timeouts | None = None) -> None:
        super().__init__(name)
        self.timeouts = timeouts or Timeouts()
        self._num = 0
        self._began: float | None = None
        self._last_came: float | None = None
        self._reader: LiveStream | None = None

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
            connection = Connection(self.name, self._pictures, self.timeouts.open)
            reader = self._reader = LiveStream(connection, fps=None, capacity=CAPACITY)
            try:
                if self.stopped.is_set():  # `stop` may not have seen this connection
                    return
                reader.start()
                while (frame := self._next(reader, connection)) is not None:
                    self.state, self.problem, pause = "playing", None, self.timeouts.first_pause
                    self._last_came = time.monotonic()
                    self._num += 1
                    yield replace(frame, index=self._num - 1)
                if connection.has_end:
                    return
            except MediaError as problem:
                error = problem
            finally:
                reader.leave()
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
                if reader.has_ended or self.stopped.wait(0.1):
                    break

    def _next(self, reader: LiveStream, connection: Connection) -> Frame | None:
        """The next frame; None at the end, or when it was left. MediaError where it breaks off."""
        while (frame := reader.take(max(0.0, connection.until - time.monotonic()))) is None:
            if reader.is_over or connection.stopped.is_set():
                return reader.take(0)
            if time.monotonic() >= connection.until:
                what = f"no picture came for {connection.patience:g} s"
                raise MediaError.about(self.name, what, "a stream whose pictures keep coming")
        return frame

    def stop(self) -> None:
        super().stop()
        if (reader := self._reader) is not None:
            reader.leave()

    def close(self) -> None:
        """Gives the connection's thread a moment to end; one that hangs in a library ends when its call returns."""
        if (reader := self._reader) is not None:
            reader.close()
