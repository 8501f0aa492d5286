"""Ends a run that stands still, and says which process is missing, in which step and what it was doing.

In each step every process waits for all others, as long as it takes. So a thread of each writes down where its process
is, in torchrun's store, and looks at the others' places once its own process does not come on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from time import monotonic

from torch.distributed import Store

from .distributed import rank, shared_store, world_size

PARTS = ("starting", "reading data", "computing", "saving")
"""Of a step, in order. In other work a process may be slow, but not behind."""
STOOD_STILL = 1
"""Exit status."""
Place = list
"""Step, part, a number that grows, host, process id."""


class Watch:
    """One for each process. A run that nobody shares is not watched: there is nobody to wait for."""

    def __init__(self, minutes: float) -> None:
        """`minutes`: how long a process may take for one part of a step."""
        self.minutes, self.beats = minutes, 0
        self.ended = threading.Event()
        self.store: Store | None = None
        self.about = [socket.gethostname(), os.getpid()]

    def start(self) -> None:
        if world_size() > 1:
            self.store = shared_store("watch", self.minutes)
            self.at(0, PARTS[0])
            threading.Thread(target=self._look, args=(self.store,), daemon=True).start()

    def at(self, step: int, doing: str) -> None:
        """This process begins a new part of its work."""
        self.place, self.since = (step, doing), monotonic()
        self._write()

    def _write(self) -> None:
        if self.store is not None:
            self.store.set(str(rank()), json.dumps([*self.place, self.beats, *self.about]))

    def close(self) -> None:
        self.ended.set()

    def _look(self, store: Store) -> None:
        interval, before = min(15.0, 6 * self.minutes), list[Place]()
        with suppress(RuntimeError):  # the store is gone, with the first machine: then waiting ends by itself
            while not self.ended.wait(interval):
                self.beats += 1
                self._write()
                late = monotonic() - self.since - 60 * self.minutes
                if late < 0:
                    before = []
                elif not before:
                    before = whereabouts(store)
                elif late > 3 * interval:
                    self._end(store, before, whereabouts(store))

    def _end(self, store: Store, before: list[Place], after: list[Place]) -> None:
        if store.add("told", 1) == 1:  # once for all
            print(f"error: {standstill(before, after, self.minutes)}", file=sys.stderr, flush=True)
        for number in silent(before, after):
            *_, host, process = after[number]
            if host == socket.gethostname():  # it cannot end itself, and torchrun would wait long for it
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        os._exit(STOOD_STILL)  # the main thread waits in a call that nothing interrupts


def whereabouts(store: Store) -> list[Place]:
    """Where each process is, by rank."""
    keys = [str(number) for number in range(world_size())]
    return [json.loads(store.get(key)) if store.check([key]) else [0, PARTS[0], 0, "", 0] for key in keys]


def silent(before: list[Place], after: list[Place]) -> list[int]:
    """The ranks that wrote nothing between two looks."""
    return [number for number, place in enumerate(after) if place == before[number]]


def standstill(before: list[Place], after: list[Place], minutes: float) -> str:
    """What to say about a run that stands still, from two looks at the places of its processes."""
    order = [(step, PARTS.index(part) if part in PARTS else len(PARTS)) for step, part, *_ in after]
    missing = silent(before, after)
    behind = missing or [number for number, one in enumerate(order) if one == min(order)]
    named = []
    for number in behind:
        step, part, _, host, process = after[number]
        who = f"rank {number} (process {process} on {host})" if process else f"rank {number}"
        named.append(f"{who} {'does not answer since' if missing else 'is still in'} step {step}, {part}")
    step, part = after[order.index(max(order))][:2]
    rest = f"; the others wait in step {step}, {part}" if len(behind) < len(after) else ""
    return (
        f"the run stands still for {minutes:g} minutes (--timeout): {'; '.join(named)}{rest}. "
        "Resume it with --resume auto"
    )
