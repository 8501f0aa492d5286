"""OpenAI's chat completions, bound to a session's stream: existing clients can ask about it.

FastAPI is optional and imported inside the functions; so annotations here are evaluated, not strings.
"""

import json
import secrets
import time
from collections.abc import Generator, Iterator
from typing import Any

from .event_stream import EVENTS, event_response
from .limits import UnknownSession
from .messages import ChatRequest
from .sessions import Sessions
from .track import Moment


def chat_routes(sessions: Sessions) -> Any:
    from fastapi import APIRouter, Header

    router = APIRouter(tags=["questions"])

    @router.post("/chat/completions", responses={200: {"content": {"application/json": {}} | EVENTS}})
    def complete(request: ChatRequest, x_session: str | None = Header(None)) -> Any:
        """Answer the last message from what the session has seen so far."""
        if request.model != sessions.model_name:
            raise ValueError(f"this server runs {sessions.model_name!r}, not {request.model!r:.80}")
        key = request.session or x_session
        if not key:
            raise UnknownSession("name a session: `session` in the body, or the X-Session header")
        session = sessions.get(key)
        most = request.max_completion_tokens or request.max_tokens
        moment, pieces = session.ask(request.question(), max_new_tokens=most)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}
        if request.stream:
            return event_response(chunks(pieces, moment, head))
        text = "".join(pieces)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason(moment)}
        used, said = moment.prompt_tokens, moment.answer_tokens
        usage = {"prompt_tokens": used, "completion_tokens": said, "total_tokens": used + said}
        timing = {"timestamp": moment.timestamp}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage, "stream_time": timing}

    return router


def finish_reason(moment: Moment) -> str:
    return "length" if moment.is_cut else "stop"


def chunks(pieces: Iterator[str], moment: Moment, head: dict[str, Any]) -> Generator[str, None, None]:
    """Server-sent events as OpenAI's clients read them."""

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        document = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"

    try:
        yield chunk({"role": "assistant", "content": ""})
        for piece in pieces:
            yield chunk({"content": piece})
        yield chunk({}, finish_reason(moment))
    except Exception as error:  # the answer has begun: there is no status to send any more
        yield f"data: {json.dumps({'error': {'message': str(error), 'type': type(error).__name__}})}\n\n"
    yield "data: [DONE]\n\n"
