"""Work in a thread of its own, taken out piece by piece: an answer while it is made, frames read ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")


def stream_pieces(
    run: Callable[[Callable[[Item], None], threading.Event], None], *, depth: int = 0
) -> Generator[Item, None, None]:
    """What `run(emit, stop)` emits, in order, while it runs in another thread; at most `depth` wait (0: any number).

    An error in it comes out here. Leaving the iterator early sets `stop` and waits for the thread.
    """
    made: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(is_item: bool, value: Item | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return made.put((is_item, value), timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        error: BaseException | None = None
        try:
            run(lambda item: put(True, item), stop)
        except BaseException as caught:  # raised where the pieces are taken, nothing is swallowed
            error = caught
        put(False, error)

    thread = threading.Thread(target=work, name="videochat-online-pieces", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = made.get()
            if is_item:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stop.set()
        thread.join()


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items, made up to `depth` ahead in another thread, so that making and using them overlap."""

    def run(emit: Callable[[Item], None], stop: threading.Event) -> None:
        for item in items:
            emit(item)
            if stop.is_set():
                return

    return stream_pieces(run, depth=depth)
