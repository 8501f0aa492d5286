"""Standing instructions of a session over HTTP, and what is said for them as server-sent events.

An event's id goes on over streams of a session: a client that connects again with Last-Event-ID misses none of those
that are still kept. Listening is use: a session that somebody listens to is not idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from ..media.addresses import Address
from ..streaming.standing import REFRACTORY, Standing
from .limits import NO_OTHER_FIELDS, RequestError, UnknownSession
from .live_session import LiveSession
from .questions import EVENTS, data_line
from .routes import AllSessions, Found
from .sessions import Sessions
from .webhooks import receiver_of

LOOK_SECONDS, BEAT_SECONDS = 0.1, 15.0
standing_routes = APIRouter(tags=["standing instructions"], prefix="/sessions/{session}")


@dataclass
class StandingRequest:
    """What is to be told, and when it counts: docs/proactive.md."""

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    text: str
    question: str | None = None
    expect: str = "Yes"
    threshold: float | None = None
    """Left out: what the gate was trained with, or 0.5."""
    refractory: float = REFRACTORY
    once: bool = False
    quiet_hours: str | None = None
    webhook: str | None = None
    """An address that the operator allows; what is said is posted there, too."""


@dataclass
class StandingDocument:
    key: str
    text: str
    question: str
    expect: str
    rule: dict[str, Any]
    probability: float | None
    """At the newest frame that was read out."""
    curve: list[list[float]]
    """(seconds, P) of the newest frames."""
    last: dict[str, Any] | None
    """The last event of this instruction."""
    webhook: str | None = None
    """Scheme and host of the address that hears of it."""

    @classmethod
    def of(cls, one: Standing) -> StandingDocument:
        about = one.to_dict() | {"curve": list(map(list, one.curve))}
        about["webhook"] = one.webhook and receiver_of(Address.checked(one.webhook))
        return cls(**{name: about[name] for name in cls.__dataclass_fields__})


@standing_routes.post("/standing", status_code=201)
def add(found: Found, request: StandingRequest, sessions: AllSessions) -> StandingDocument:
    """Tell me when ...: from the next frame on, until it is removed; also over the session's next streams."""
    found.keep()
    if request.webhook is not None:
        sessions.webhooks.check(request.webhook)
    threshold = sessions.threshold if request.threshold is None else request.threshold
    return StandingDocument.of(found.session.watch_for(**asdict(request) | {"threshold": threshold}))


@standing_routes.get("/standing")
def standing(found: Found) -> list[StandingDocument]:
    """The instructions that are followed now, with their probabilities."""
    return [StandingDocument.of(one) for one in found.session.standing]


@standing_routes.delete("/standing/{key}", status_code=204, response_class=Response)
def remove(found: Found, key: str) -> None:
    """End an instruction; what was said for it stays among the events."""
    found.keep()
    try:
        found.session.drop_standing(key)
    except ValueError as error:
        raise UnknownSession(str(error)) from error


@standing_routes.get("/events", responses={200: {"content": EVENTS}}, response_class=StreamingResponse)
async def events(
    found: Found,
    sessions: AllSessions,
    last_event_id: Annotated[str | None, Header(description="only later ones; else those from now on")] = None,
) -> StreamingResponse:
    """What is said unasked, as it comes: `id`, event `said`, and the event as json. Ends with the session."""
    number = found.session.watchlist.num_events
    if last_event_id is not None:
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
            raise RequestError(f"Last-Event-ID is the id of an event, got {last_event_id!r:.40}", "Last-Event-ID")
        if (known := int(last_event_id)) > number:  # ids began anew: all that are kept, else it hears nothing for long
            known = 0
        number = known
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(_told(found, sessions, number), media_type="text/event-stream", headers=headers)


async def _told(found: LiveSession, sessions: Sessions, number: int) -> AsyncIterator[str]:
    """No thread waits for an event: any number of clients may listen."""
    yield ": listening\n\n"
    silent = 0.0
    while not found.is_closed and not sessions.turns.is_closed:
        found.keep()
        for event in found.session.watchlist.after(number):
            number, silent = event.id, 0.0
            yield f"id: {event.id}\nevent: said\n{data_line(asdict(event))}"
        await asyncio.sleep(LOOK_SECONDS)
        silent += LOOK_SECONDS
        if silent >= BEAT_SECONDS:  # else proxies cut a silent connection
            silent = 0.0
            yield ": still listening\n\n"
    yield "event: end\n" + data_line({"session": found.key})
