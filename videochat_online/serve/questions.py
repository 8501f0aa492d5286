"""Questions over HTTP in this server's own way (completions.py has OpenAI's), and streamed answers.

Answers are streamed as server-sent events, and end as soon as nobody listens any more.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from .limits import NO_OTHER_FIELDS
from .routes import Found

EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""What OpenAPI says of a streamed answer."""
ANSWERING = anyio.CapacityLimiter(64)
"""Threads that wait for answers: no request of another kind waits behind them."""
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
async def ask(found: Found, request: QuestionRequest, connection: Request) -> Any:
    """Ask about what was seen so far. Streams `piece` events, then `done` with the whole answer."""
    turn, pieces = await answering(found.ask, request.question, max_new_tokens=request.max_new_tokens)

    def document() -> dict[str, Any]:
        stats = dict(found.session.stats())
        return asdict(AnswerDocument(turn.question, turn.answer, turn.timestamp, turn.age, stats))

    if request.stream:
        return event_response(answer_events(pieces, document))
    await heard(pieces, connection)
    return document()


def answer_events(pieces: Iterator[str], document: Callable[[], dict[str, Any]]) -> Generator[str, None, None]:
    """An answer as server-sent events; an error on the way is one too."""
    try:
        for piece in pieces:
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


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The one shape of an error, as OpenAI's clients read it."""
    kind = {401: "invalid_api_key", 404: "not_found", 413: "too_large", 429: "rate_limit_exceeded"}
    named = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"message": message, "type": named, "param": param, "code": code or kind.get(status)}


def data_line(document: dict[str, Any]) -> str:
    """The end of a server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def event_response(lines: Generator[str, None, None]) -> StreamingResponse:
    """A response that sends `lines`; closes them when the client has left."""
    return StreamingResponse(_closing(lines), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _closing(lines: Generator[str, None, None]) -> AsyncIterator[str]:
    try:
        while (line := await answering(next, lines, None)) is not None:
            yield line
    finally:
        with anyio.CancelScope(shield=True):  # the client's leaving cancels this task; the answer has to end first
            await answering(lines.close)


async def answering(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a call returns that may wait for an answer."""
    return await anyio.to_thread.run_sync(partial(call, *arguments, **named), limiter=ANSWERING)


async def heard(pieces: Any, connection: Request) -> str:
    """All of an answer that is not streamed; it, too, ends as soon as nobody waits for it."""
    text = ""
    try:
        while (piece := await answering(next, pieces, None)) is not None and not await connection.is_disconnected():
            text += piece
    finally:
        with anyio.CancelScope(shield=True):
            await answering(pieces.close)
    return text
