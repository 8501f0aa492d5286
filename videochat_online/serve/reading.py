"""Pictures wait for their turn to be decoded and seen, off the event loop, on a part of the machine: of all requests
and sockets in one queue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from .content import Picture
    from .live_session import LiveSession
    from .sessions import Sessions

T = TypeVar("T")
READERS = anyio.CapacityLimiter(64)
"""Threads; the turns of `Sessions.reading` allow fewer."""


async def in_reading_turn(sessions: Sessions, call: Callable[..., T], *arguments: object) -> T:
    """What a call returns that decodes or sees pictures."""
    with sessions.reading.entered() as place:
        await place.turn()
        found = await anyio.to_thread.run_sync(partial(call, *arguments), limiter=READERS)
    place.release()
    return found


def show(session: LiveSession, pictures: Sequence[Picture], *, is_repeat: bool = False) -> None:
    """See pictures in their order, those of a video by its seconds; of a request that is repeated, none twice."""
    with session.showing:  # a repeat may come while its first try is still being seen
        began, before = session.session.stats()["last_timestamp"] or 0.0, set(session.shown)
        for picture in pictures:
            digest = hashlib.sha256(b"%r" % (picture.image.shape,) + picture.image.tobytes()).digest()
            if not (is_repeat and digest in before):
                session.see(picture.image, None if picture.seconds is None else began + picture.seconds)
                session.shown.append(digest)
