"""Requests wait as long as their client does; those with pictures to be decoded, off the event loop, a few at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import HTTPException, Request

if TYPE_CHECKING:
    from .sessions import Sessions

T = TypeVar("T")
READERS = anyio.CapacityLimiter(64)
"""Threads; the turns of `Sessions.reading` allow fewer."""
LEFT = 499
"""Status of a request whose client left before there was an answer, as nginx writes it into its log."""
LOOK_SECONDS = 0.05


async def wanted(waiting: Coroutine[Any, Any, T], connection: Request | None) -> T:
    """What is awaited; it ends as soon as the client has left, and with it what its request holds. None: a socket's."""
    if connection is None:  # it is cancelled where that closes
        return await waiting
    task = asyncio.create_task(waiting)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_SECONDS)
            if not task.done() and await connection.is_disconnected():
                raise HTTPException(LEFT, "the client left before its turn")
        return task.result()
    finally:
        task.cancel()


async def in_reading_turn(
    sessions: Sessions, connection: Request | None, call: Callable[..., T], *arguments: object
) -> T:
    """What a call returns that decodes pictures. The place is kept until they are seen: decoded they are large."""
    with sessions.reading.entered() as place:
        await wanted(place.turn(), connection)
        found = await anyio.to_thread.run_sync(partial(call, *arguments), limiter=READERS)
    place.release()
    return found
