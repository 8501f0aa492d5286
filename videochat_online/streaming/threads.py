"""Work in a thread of its own, taken out piece by piece: an answer while it is made, frames read ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class _End:
    """Stands behind the last piece."""

    error: BaseException | None


class Pieces(Iterator[Item]):
    """What `run(emit, stop)` emits, in order, made in another thread from now on; at most `depth` wait (0: any).

    An error in it comes out here. Closing sets `stop` and waits for the thread.
    """

    def __init__(self, run: Callable[[Callable[[Item], None], threading.Event], None], *, depth: int = 0) -> None:
        self._made: queue.Queue[Item | _End] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(run,), name="videochat-online-pieces", daemon=True)
        self._thread.start()

    def _put(self, value: Item | _End) -> None:
        while not self._stop.is_set():
            try:
                return self._made.put(value, timeout=0.1)
            except queue.Full:
                continue

    def _work(self, run: Callable[[Callable[[Item], None], threading.Event], None]) -> None:
        end = _End(None)
        try:
            run(self._put, self._stop)
        except BaseException as error:  # raised where the pieces are taken, nothing is swallowed
            end.error = error
        self._put(end)

    def __next__(self) -> Item:
        if isinstance(value := self._made.get(), _End):
            self._made.put(_End(None))  # whoever asks again gets no more
            if value.error is not None:
                raise value.error
            raise StopIteration
        return value

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def stream_pieces(
    run: Callable[[Callable[[Item], None], threading.Event], None], *, depth: int = 0
) -> Generator[Item, None, None]:
    """As `Pieces`, but begins when the first is taken, and leaving the iterator early closes it."""
    with closing(Pieces(run, depth=depth)) as pieces:
        yield from pieces
