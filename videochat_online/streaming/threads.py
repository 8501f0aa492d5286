"""Work in a thread of its own, taken out piece by piece: an answer while it is made, frames read ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class _End:
    """Stands behind the last piece."""

    error: BaseException | None


def stream_pieces(
    run: Callable[[Callable[[Item], None], threading.Event], None], *, depth: int = 0
) -> Generator[Item, None, None]:
    """What `run(emit, stop)` emits, in order, while it runs in another thread; at most `depth` wait (0: any number).

    An error in it comes out here. Leaving the iterator early sets `stop` and waits for the thread.
    """
    made: queue.Queue[Item | _End] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(value: Item | _End) -> None:
        while not stop.is_set():
            try:
                return made.put(value, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        end = _End(None)
        try:
            run(put, stop)
        except BaseException as error:  # raised where the pieces are taken, nothing is swallowed
            end.error = error
        put(end)

    thread = threading.Thread(target=work, name="videochat-online-pieces", daemon=True)
    thread.start()
    try:
        while not isinstance(value := made.get(), _End):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        stop.set()
        thread.join()


def paced(emit: Callable[[Item], None], pace: Callable[[], None] | None) -> Callable[[Item], None]:
    """`emit` that calls `pace` first, which may wait."""
    if pace is None:
        return emit

    def waits(piece: Item) -> None:
        pace()
        emit(piece)

    return waits
