"""Requests with pictures wait for their turn to be decoded, off the event loop, on a part of the machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from .sessions import Sessions

T = TypeVar("T")
READERS = anyio.CapacityLimiter(64)
"""Threads; the turns of `Sessions.reading` allow fewer."""


async def in_reading_turn(sessions: Sessions, call: Callable[..., T], *arguments: object) -> T:
    """What a call returns that decodes pictures. The place is kept until they are seen: decoded they are large."""
    with sessions.reading.entered() as place:
        await place.turn()
        found = await anyio.to_thread.run_sync(partial(call, *arguments), limiter=READERS)
    place.release()
    return found
