"""Pictures wait for their turn to be decoded and seen, off the event loop, on a part of the machine: of all requests
and sockets in one queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from .sessions import Sessions
    from .turns import Place

T = TypeVar("T")
READERS = anyio.CapacityLimiter(64)
"""Threads; the turns of `Sessions.reading` allow fewer."""


@asynccontextmanager
async def reading_turn(sessions: Sessions) -> AsyncIterator[Place]:
    """A place that may begin; whoever leaves while waiting gives it back."""
    with sessions.reading.entered() as place:
        await place.turn()
        yield place
    place.release()


async def in_reader(call: Callable[..., T], *arguments: object) -> T:
    """What a call returns that decodes or sees pictures; it has its turn."""
    return await anyio.to_thread.run_sync(partial(call, *arguments), limiter=READERS)


async def in_reading_turn(sessions: Sessions, call: Callable[..., T], *arguments: object) -> T:
    """What a call returns that decodes or sees pictures, in a turn of its own."""
    async with reading_turn(sessions):
        return await in_reader(call, *arguments)
