"""Work for live sessions while nobody asks: their caches are brought up to the newest frame.

One thread for any number of sessions of one model; a question to any of them goes first.
"""

from __future__ import annotations

import threading
import time

from .session import StreamingSession


class IdlePrefill:
    """Runs while the `with` block does. An error in the thread is raised when the block is left."""

    def __init__(self, *sessions: StreamingSession, interval: float = 0.02) -> None:
        """`interval`: seconds between two looks at the sessions."""
        self.interval = interval
        self._sessions = list(sessions)
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="videochat-online-prefill", daemon=True)

    def add(self, session: StreamingSession) -> None:
        with self._changing:
            self._sessions.append(session)

    def remove(self, session: StreamingSession) -> None:
        """Leave a session alone from now on. One that is not there is no error."""
        with self._changing:
            self._sessions = [one for one in self._sessions if one is not session]

    def start(self) -> IdlePrefill:
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread, and raise what went wrong in it. May be called again."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> IdlePrefill:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until every cache stands at its newest frame; False after `timeout` seconds, or after an error."""
        until = None if timeout is None else time.monotonic() + timeout
        while any(session.needs_prefill for session in self._all()):
            if self._error is not None or (until is not None and time.monotonic() > until):
                return False
            time.sleep(self.interval / 4)
        return self._error is None

    def _all(self) -> list[StreamingSession]:
        with self._changing:
            return list(self._sessions)

    def _somebody_asks(self) -> bool:
        return self._stop.is_set() or any(session.is_asked for session in self._all())

    def _work(self) -> None:
        try:
            while not self._stop.wait(self.interval):
                for session in self._all():
                    if session.needs_prefill and not self._somebody_asks():
                        session.prefill(give_way=self._somebody_asks)
        except BaseException as error:  # raised by close()
            self._error = error
