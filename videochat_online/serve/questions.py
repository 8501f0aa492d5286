"""Questions over HTTP in this server's own way (completions.py has OpenAI's), and streamed answers.

Answers are streamed as server-sent events, and end as soon as nobody listens any more.
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
from typing import Any, ClassVar

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from .limits import NO_OTHER_FIELDS
from .live_session import FIRST_FRAME_SECONDS, LiveSession
from .routes import AllSessions, Found
from .sessions import Sessions
from .turns import Place, in_thread

EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""What OpenAPI says of a streamed answer."""
DEPTH = 64
"""Pieces of an answer that wait to be sent."""
LEFT_SECONDS = 60.0
"""Nobody is there who has taken no piece for so long."""
LOOK_SECONDS = 0.05
question_routes = APIRouter(tags=["questions"])


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
