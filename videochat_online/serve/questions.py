"""What is asked over HTTP in this server's own way (completions.py has OpenAI's): questions, and standing instructions.

Answers are streamed as server-sent events, and end as soon as nobody listens any more. So is what is said unasked: an
event's id goes on over streams of a session, and a client that connects again with Last-Event-ID misses none of those
that are still kept. Listening is use: a session that somebody listens to is not idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import anyio
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ..media.addresses import Address
from ..streaming.standing import REFRACTORY, Standing
from .limits import NO_OTHER_FIELDS, RequestError, UnknownSession
from .live_session import FIRST_FRAME_SECONDS, LiveSession
from .routes import AllSessions, Found
from .sessions import Sessions
from .turns import Place, in_thread
from .webhooks import receiver_of

EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""What OpenAPI says of a streamed answer."""
DEPTH = 64
"""Pieces of an answer that wait to be sent."""
LEFT_SECONDS = 60.0
"""Nobody is there who has taken no piece for so long."""
LOOK_SECONDS = 0.05
LISTEN_SECONDS, BEAT_SECONDS = 0.1, 15.0
"""Between two looks for what is said unasked, and after which silence a sign of life is sent."""
question_routes = APIRouter(tags=["questions"])
standing_routes = APIRouter(tags=["standing instructions"], prefix="/sessions/{session}")


@dataclass
class QuestionRequest:
    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    question: str
    max_new_tokens: int | None = None
    stream: bool = True
    """Server-sent events piece, done, error; otherwise one json document."""


@dataclass
class AnswerDocument:
    question: str
    answer: str
    timestamp: float
    """Seconds of stream time at which it was asked."""
    age: float | None
    """Seconds since the newest picture came, then."""
    stats: dict[str, Any]


@question_routes.post("/sessions/{session}/questions", responses={200: {"model": AnswerDocument, "content": EVENTS}})
async def ask(found: Found, request: QuestionRequest, connection: Request, sessions: AllSessions) -> Any:
    """Ask about what was seen so far. Streams `piece` events, then `done` with the whole answer."""
    found.check_question(request.question, request.max_new_tokens)
    with sessions.turns.entered(found.key) as place:
        await await_first_frame(found, place)
        try:
            found.check_stream()
        except ValueError:  # many that waited together are told one after another
            await sessions.refusals.moment()
            raise
        await place.turn()
        named = {"max_new_tokens": request.max_new_tokens, "pace": place.pause, "at_once": True}
        turn, pieces = await in_thread(found.ask, request.question, **named)
        answer = RunningAnswer(pieces, place, sessions)

    def document() -> dict[str, Any]:
        stats = dict(found.session.stats())
        return asdict(AnswerDocument(turn.question, turn.answer, turn.timestamp, turn.age, stats))

    if request.stream:
        return event_response(answer, answer_events(answer, document))
    await heard(answer, connection)
    return document()


async def await_first_frame(session: LiveSession, place: Place) -> None:
    """A question right after the start waits for something to be asked about, and holds no thread meanwhile."""
    until = time.monotonic() + FIRST_FRAME_SECONDS
    while session.awaits_first_frame and time.monotonic() < until:
        await place.check()
        await asyncio.sleep(LOOK_SECONDS)


# ---- standing instructions ------------------------------------------------------------------------------------------


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
        await asyncio.sleep(LISTEN_SECONDS)
        silent += LISTEN_SECONDS
        if silent >= BEAT_SECONDS:  # else proxies cut a silent connection
            silent = 0.0
            yield ": still listening\n\n"
    yield "event: end\n" + data_line({"session": found.key})


# ---- answers on their way -------------------------------------------------------------------------------------------


class RunningAnswer(AsyncIterator[str]):
    """An answer that a thread takes from the model, for the event loop; at most DEPTH pieces wait to be sent.

    An error in it is raised here, as in `pieces`; the place is given back as soon as the model has said all.
    """

    def __init__(self, pieces: Any, place: Place, sessions: Sessions) -> None:
        self._pieces, self._place, self._sessions = pieces, place, sessions
        self._loop, self._ready = asyncio.get_running_loop(), asyncio.Event()
        self._made: deque[str | None] = deque()
        self._room = threading.Semaphore(DEPTH)
        self._left = self._has_begun = self._is_stopped = False
        self._error: BaseException | None = None
        self.ended = asyncio.Event()
        sessions.running.add(self)
        threading.Thread(target=self._take, name="videochat-online-answer", daemon=True).start()

    def __aiter__(self) -> RunningAnswer:
        return self

    async def __anext__(self) -> str:
        while not self._made:
            self._ready.clear()
            await self._ready.wait()
        if (piece := self._made[0]) is None:
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self._made.popleft()
        self._room.release()
        return piece

    def leave(self, error: Exception | None = None) -> None:
        """End it at the next piece; with an error, whoever listens gets that. In the event loop's thread."""
        self._left = True
        self._error = self._error or error
        self._place.release()
        self._room.release()
        if error is not None:
            self._is_stopped = True
            self._made.append(None)
            self._ready.set()

    async def close(self) -> None:
        """End it, and wait for that; where the server is being stopped, its thread ends by itself."""
        self.leave()
        if not self._is_stopped:
            await self.ended.wait()

    def _take(self) -> None:
        try:
            for piece in self._pieces:
                if not self._room.acquire(blocking=False):
                    self._place.release()  # nobody reads: others go on
                    if not self._room.acquire(timeout=LEFT_SECONDS):
                        break
                if self._left:
                    break
                self._tell(self._put, piece)
        except BaseException as error:  # raised where the answer is read
            self._error = self._error or error
        finally:
            try:
                self._pieces.close()
            finally:
                self._place.release()
                self._tell(self._end)

    def _put(self, piece: str | None) -> None:
        if piece and not self._has_begun:
            self._has_begun = True
            self._sessions.on_first_piece(time.monotonic() - self._place.came)
        self._made.append(piece)
        self._ready.set()

    def _end(self) -> None:
        self._put(None)
        self.ended.set()
        self._sessions.running.discard(self)

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(call, *arguments)


async def answer_events(
    answer: AsyncIterator[str], document: Callable[[], dict[str, Any]]
) -> AsyncGenerator[str, None]:
    """An answer as server-sent events; an error on the way is one too."""
    try:
        async for piece in answer:
            yield "event: piece\n" + data_line({"text": piece})
        yield "event: done\n" + data_line(document())
    except Exception as error:  # the answer has begun: there is no status to send any more
        yield "event: error\n" + data_line({"error": error_body(str(error), 500)})


def refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of what a client did wrong: an error of limits.py, any other is 400."""
    status = getattr(error, "status", 400)
    return status, error_body(
        str(error), status, param=getattr(error, "param", None), code=getattr(error, "code", None)
    )


async def refusal_response(error: Exception, sessions: Sessions) -> JSONResponse:
    """What a client did wrong, as it is told over HTTP."""
    status, body = refusal(error)
    return JSONResponse({"error": body}, status, await retry_headers(error, sessions))


async def retry_headers(error: Exception, sessions: Sessions) -> dict[str, str] | None:
    """When to try again what was refused for lack of room, told when its moment has come, or when the server ends; None
    for other errors."""
    retry = getattr(error, "retry", None)
    if retry is None:
        return None
    moment = asyncio.ensure_future(sessions.refusals.moment())
    sessions.moments.add(moment)
    moment.add_done_callback(sessions.moments.discard)
    await asyncio.wait([moment])
    return {"Retry-After": str(retry)}


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The one shape of an error, as OpenAI's clients read it."""
    kind = {401: "invalid_api_key", 404: "not_found", 413: "too_large", 429: "rate_limit_exceeded"}
    named = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"message": message, "type": named, "param": param, "code": code or kind.get(status)}


def data_line(document: dict[str, Any]) -> str:
    """The end of a server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def event_response(answer: RunningAnswer, lines: AsyncGenerator[str, None]) -> StreamingResponse:
    """A response that sends `lines`, which are made of `answer`; ends that when the client has left."""

    async def closing() -> AsyncIterator[str]:
        try:
            async for line in lines:
                yield line
        finally:
            with anyio.CancelScope(shield=True):  # the client's leaving cancels this task; the answer has to end first
                await lines.aclose()
                await answer.close()

    return StreamingResponse(closing(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def heard(answer: RunningAnswer, connection: Request) -> str:
    """All of an answer that is not streamed; it, too, ends as soon as nobody waits for it."""
    text = ""
    try:
        async for piece in answer:
            text += piece
            if await connection.is_disconnected():
                break
    finally:
        with anyio.CancelScope(shield=True):
            await answer.close()
    return text
