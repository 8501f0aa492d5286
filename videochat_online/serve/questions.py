"""Questions over HTTP, in this server's own way and in that of OpenAI's chat completions: existing clients can ask.

Answers are streamed as server-sent events, and end as soon as nobody listens any more.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import anyio
from fastapi import APIRouter, Header
from fastapi.concurrency import iterate_in_threadpool, run_in_threadpool
from fastapi.responses import StreamingResponse

from .limits import NO_OTHER_FIELDS, UnknownSession
from .routes import AllSessions, Found
from .track import DialogueTurn

EVENTS: dict[str, Any] = {"text/event-stream": {}}
"""What OpenAPI says of a streamed answer."""
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


@dataclass
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def text(self) -> str:
        """The message's words; ValueError for parts that are not text: pictures come through the session."""
        if isinstance(self.content, str):
            return self.content
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in self.content):
            raise ValueError("only text parts are taken in messages; push frames to the session instead")
        return "\n".join(part["text"] for part in self.content)


@dataclass
class ChatRequest:
    """OpenAI's chat completion, about the stream of one session: named in `session`, or in the X-Session header.

    The last message is the question. The session remembers the dialogue itself, so earlier messages are not read.
    """

    model: str
    messages: list[ChatMessage] = field(default_factory=list)
    session: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None

    def question(self) -> str:
        """The last message's words; ValueError for messages that a session cannot take."""
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's: it is the question")
        if any(message.role == "system" for message in self.messages):
            raise ValueError("a session's system prompt is set when the session is made, not by a message")
        return self.messages[-1].text()


@question_routes.post("/sessions/{session}/questions", responses={200: {"model": AnswerDocument, "content": EVENTS}})
def ask(found: Found, request: QuestionRequest) -> Any:
    """Ask about what was seen so far. Streams `piece` events, then `done` with the whole answer."""
    turn, pieces = found.ask(request.question, max_new_tokens=request.max_new_tokens)

    def document() -> dict[str, Any]:
        stats = dict(found.session.stats())
        return asdict(AnswerDocument(turn.question, turn.answer, turn.timestamp, turn.age, stats))

    if request.stream:
        return event_response(answer_events(pieces, document))
    for _ in pieces:
        pass
    return document()


@question_routes.post("/chat/completions", responses={200: {"content": {"application/json": {}} | EVENTS}})
def complete(request: ChatRequest, sessions: AllSessions, x_session: Annotated[str | None, Header()] = None) -> Any:
    """Answer the last message from what the session has seen so far."""
    if request.model != sessions.model_name:
        raise ValueError(f"this server runs {sessions.model_name!r}, not {request.model!r:.80}")
    key = request.session or x_session
    if not key:
        raise UnknownSession("name a session: `session` in the body, or the X-Session header")
    most = request.max_completion_tokens or request.max_tokens
    turn, pieces = sessions.get(key).ask(request.question(), max_new_tokens=most)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}
    head["picture_age"] = turn.age
    if request.stream:
        return event_response(chat_chunks(pieces, turn, head))
    return chat_completion("".join(pieces), turn, head)


def answer_events(pieces: Iterator[str], document: Callable[[], dict[str, Any]]) -> Generator[str, None, None]:
    """An answer as server-sent events; an error on the way is one too."""
    try:
        for piece in pieces:
            yield "event: piece\n" + data_line({"text": piece})
        yield "event: done\n" + data_line(document())
    except Exception as error:  # the answer has begun: there is no status to send any more
        yield "event: error\n" + data_line({"error": str(error)})


def data_line(document: dict[str, Any]) -> str:
    """The end of a server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def chat_completion(text: str, turn: DialogueTurn, head: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as OpenAI's clients read it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason(turn)}
    used, said = turn.prompt_tokens, turn.answer_tokens
    usage = {"prompt_tokens": used, "completion_tokens": said, "total_tokens": used + said}
    timing = {"timestamp": turn.timestamp}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage, "stream_time": timing}


def finish_reason(turn: DialogueTurn) -> str:
    return "length" if turn.is_cut else "stop"


def chat_chunks(pieces: Iterator[str], turn: DialogueTurn, head: dict[str, Any]) -> Generator[str, None, None]:
    """Server-sent events as OpenAI's clients read them."""

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return data_line({**head, "object": "chat.completion.chunk", "choices": [choice]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        for piece in pieces:
            yield chunk({"content": piece})
        yield chunk({}, finish_reason(turn))
    except Exception as error:  # the answer has begun: there is no status to send any more
        yield data_line({"error": {"message": str(error), "type": type(error).__name__}})
    yield "data: [DONE]\n\n"


def event_response(lines: Generator[str, None, None]) -> StreamingResponse:
    """A response that sends `lines`; closes them when the client has left."""
    return StreamingResponse(_closing(lines), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _closing(lines: Generator[str, None, None]) -> AsyncIterator[str]:
    try:
        async for line in iterate_in_threadpool(lines):
            yield line
    finally:
        with anyio.CancelScope(shield=True):  # the client's leaving cancels this task; the answer has to end first
            await run_in_threadpool(lines.close)
