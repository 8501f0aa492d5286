"""Who may use the language model of one session: one at a time, and questions before anything done in idle time.

Knows no model. Idle work asks `is_wanted` between its steps and gives way as soon as a question waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class QuestionsFirst:
    """A lock that idle work only gets while nobody asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._num_waiting = 0
        self._num_questions = 0

    @contextmanager
    def question(self) -> Iterator[None]:
        """Wait for whoever is at work; idle work has been told to give way by then."""
        with self._changed:
            self._num_questions += 1
            self._num_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_taken)
                self._is_taken = True
            except BaseException:
                self._num_questions -= 1
                raise
            finally:
                self._num_waiting -= 1
        try:
            yield
        finally:
            with self._changed:
                self._num_questions -= 1
            self._release()

    @contextmanager
    def idle(self) -> Iterator[bool]:
        """Whether idle work may begin now; never waits."""
        with self._changed:
            may = not self._is_taken and not self._num_waiting
            self._is_taken = self._is_taken or may
        try:
            yield may
        finally:
            if may:
                self._release()

    @property
    def is_wanted(self) -> bool:
        """Whether a question waits."""
        return self._num_waiting > 0

    @property
    def is_asked(self) -> bool:
        """Whether a question waits or is being answered."""
        return self._num_questions > 0

    def _release(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify()
