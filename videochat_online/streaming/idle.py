"""Work for live sessions while nobody asks: their caches are brought up to the newest frame.

One thread for any number of sessions of one model; a question to any of them goes first, and so does whatever else
the caller names.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from .session import StreamingSession

log = logging.getLogger(__name__)


class IdlePrefill:
    """Runs while the `with` block does. An error in the thread is raised when the block is left."""

    def __init__(
        self,
        sessions: Callable[[], Iterable[StreamingSession]],
        *,
        interval: float = 0.02,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            sessions: gives those to look after; called again and again, from the thread.
            interval: seconds between two looks at them.
            is_busy: whether the machine has other work now.
        """
        self.sessions, self.interval, self.is_busy = sessions, interval, is_busy
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="videochat-online-prefill", daemon=True)

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

    def _has_to_wait(self) -> bool:
        return self._stop.is_set() or self.is_busy() or any(session.is_asked for session in self.sessions())

    def _work(self) -> None:
        try:
            while not self._stop.wait(self.interval):
                for session in self.sessions():
                    if session.needs_prefill and not self._has_to_wait():
                        session.prefill(give_way=self._has_to_wait)
        except BaseException as error:  # raised by close(), which may come much later
            log.exception("prefill in idle time has ended: questions will be slower")
            self._error = error
