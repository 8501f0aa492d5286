"""The server API as a FastAPI application: sessions, frames and sources, questions as server-sent events.

FastAPI is optional and imported inside the functions; so annotations here are evaluated, not strings.
"""

import json
import secrets
from collections.abc import Generator, Iterator
from dataclasses import asdict
from typing import Any

from .. import __version__
from .event_stream import EVENTS, event_response
from .export import dialogue_json, dialogue_srt
from .limits import LimitReached, NotAllowed, UnknownSession
from .live_session import LiveSession
from .messages import AnswerDocument, ControlRequest, NewSession, Problem, Question, SeenFrame, SourceRequest
from .sessions import Sessions
from .settings import SessionSettings
from .sources import Opened, open_camera, open_network, open_push, open_sample, open_world
from .upload import TooLarge, decode_image, save_upload

STATUS: dict[type[ValueError], int] = {UnknownSession: 404, NotAllowed: 403, LimitReached: 429, TooLarge: 413}
"""HTTP status of an error; any other ValueError is 400."""
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Something in the request, or a file, is not as it must be"},
    401: {"model": Problem, "description": "The token is missing or wrong"},
    403: {"model": Problem, "description": "The operator does not allow this, or the session is doing something else"},
    404: {"model": Problem, "description": "No such session: it has ended, or never was"},
    413: {"model": Problem, "description": "Too large"},
    429: {"model": Problem, "description": "A limit is reached"},
}
DESCRIPTION = """Talk with a running stream. A session watches one stream with a memory of fixed size:

1. `POST /v1/sessions`
2. `PUT .../source`, or `PUT .../video` with a file, or `POST .../frames` with pictures
3. `POST .../questions` at any moment, or `POST /v1/chat/completions` as with OpenAI's API
"""


def create_app(sessions: Sessions, *, token: str | None = None, hosts: list[str] | None = None) -> Any:
    """The API over `sessions`.

    Args:
        token: what clients must send as "Authorization: Bearer TOKEN"; None asks for nothing.
        hosts: names under which the server may be addressed (against DNS rebinding); None allows any.
    """
    try:
        from fastapi import Depends, FastAPI
    except ImportError as error:
        raise ImportError("the server needs FastAPI: pip install 'videochat-online[demo]'") from error
    from .docs_page import add_docs_page
    from .openai_api import chat_routes

    about: dict[str, Any] = {"title": "videochat-online", "version": __version__, "description": DESCRIPTION}
    app = FastAPI(**about, docs_url=None, redoc_url=None)  # FastAPI's own load their programs from other hosts
    add_docs_page(app)
    _answer_errors(app)
    if hosts is not None:
        from fastapi.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    guarded: dict[str, Any] = {"responses": ERRORS}
    if token is not None:
        guarded["dependencies"] = [Depends(_token_check(token))]
    for routes in (session_routes, source_routes, question_routes, chat_routes):
        app.include_router(routes(sessions), prefix="/v1", **guarded)
    return app


def _answer_errors(app: Any) -> None:
    from fastapi import Request
    from fastapi.exceptions import StarletteHTTPException
    from fastapi.responses import JSONResponse

    async def answer(request: Request, error: Exception) -> JSONResponse:
        status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)
        return JSONResponse({"error": str(error)}, status)

    async def answer_http(request: Request, error: Any) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    app.add_exception_handler(ValueError, answer)
    app.add_exception_handler(StarletteHTTPException, answer_http)


def _token_check(token: str) -> Any:
    from fastapi import HTTPException, Security
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

    bearer = HTTPBearer(auto_error=False, description="The server's token, where it has one")

    def check(given: HTTPAuthorizationCredentials | None = Security(bearer)) -> None:  # noqa: B008 - FastAPI's way
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401, "this server wants its token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    return check


def session_routes(sessions: Sessions) -> Any:
    from fastapi import APIRouter, Response

    router = APIRouter(tags=["sessions"])

    @router.get("/models")
    def models() -> dict[str, Any]:
        """The model this server runs, and what it says about itself."""
        note = sessions.model.config.note
        return {"object": "list", "data": [{"id": sessions.model_name, "object": "model", "note": note}]}

    @router.post("/sessions", status_code=201)
    def create(settings: NewSession) -> dict[str, Any]:
        """Begin a session. Its id opens it to whoever knows it."""
        return sessions.create(SessionSettings.from_dict(asdict(settings))).state()

    @router.get("/sessions/{session}")
    def state(session: str) -> dict[str, Any]:
        """Stream, memory and counters now."""
        return sessions.get(session).state()

    @router.delete("/sessions/{session}", status_code=204, response_class=Response)
    def end(session: str) -> None:
        """End a session and remove its files."""
        sessions.end(session)

    @router.get("/sessions/{session}/dialogue")
    def dialogue(session: str) -> dict[str, Any]:
        """Questions and answers, with what was in memory at each."""
        found = sessions.get(session)
        about = {"source": found.state()["source"], "model": sessions.model_name}
        return json.loads(dialogue_json(list(found.track.moments), about))

    @router.get("/sessions/{session}/dialogue.srt", responses={200: {"content": {"application/x-subrip": {}}}})
    def subtitles(session: str) -> Response:
        """The dialogue as subtitles."""
        text = dialogue_srt(list(sessions.get(session).track.moments))
        return Response(text, media_type="application/x-subrip")

    return router


def open_source(request: SourceRequest, sessions: Sessions) -> Opened:
    """What a request names; NotAllowed for what the operator has not switched on."""
    limits = sessions.limits
    if request.kind == "sample":
        return open_sample(request.name, limits)
    if request.kind == "shapeworld":
        return open_world(request.seed, request.level)
    if request.kind == "url":
        return open_network(request.address, limits)
    return open_camera(request.number, limits) if request.kind == "camera" else open_push()


def source_routes(sessions: Sessions) -> Any:
    from fastapi import APIRouter, Request
    from fastapi.concurrency import run_in_threadpool

    router = APIRouter(tags=["streams"])

    schema = {"type": "string", "format": "binary"}
    binary = {"requestBody": {"content": {"application/octet-stream": {"schema": schema}}, "required": True}}

    @router.put("/sessions/{session}/source")
    def start(session: str, request: SourceRequest) -> dict[str, Any]:
        """Watch a stream from now on; memory and dialogue begin anew."""
        found = sessions.get(session)
        found.start(open_source(request, sessions))
        return found.state()

    @router.put("/sessions/{session}/video", openapi_extra=binary)
    async def upload(session: str, request: Request) -> dict[str, Any]:
        """Watch a video file, sent as the request's body."""
        found = sessions.get(session)
        path = await save_upload(request.stream(), found, sessions.limits.max_upload_bytes)
        await run_in_threadpool(found.start_file, path, "your video")
        return found.state()

    @router.post("/sessions/{session}/control")
    def control(session: str, request: ControlRequest) -> dict[str, Any]:
        """Play, pause, stop, seek or change the speed."""
        found = sessions.get(session)
        control_session(found, request)
        return found.state()

    @router.post("/sessions/{session}/frames", status_code=201, openapi_extra=binary)
    async def see(session: str, request: Request, timestamp: float | None = None) -> SeenFrame:
        """See one picture (JPEG, PNG, ...), sent as the request's body, shown at `timestamp` seconds."""
        found = sessions.get(session)
        image = await decode_image(request.stream(), sessions.limits.max_image_bytes)
        return SeenFrame(**await run_in_threadpool(found.see, image, timestamp))

    return router


def control_session(session: LiveSession, request: ControlRequest) -> None:
    if request.action in ("seek", "speed"):
        if request.value is None:
            raise ValueError(f"{request.action} needs a value")
        (session.seek if request.action == "seek" else session.set_speed)(request.value)
    else:
        {"play": session.play, "pause": session.pause, "stop": session.stop}[request.action]()


def question_routes(sessions: Sessions) -> Any:
    from fastapi import APIRouter

    router = APIRouter(tags=["questions"])

    @router.post("/sessions/{session}/questions", responses={200: {"model": AnswerDocument, "content": EVENTS}})
    def ask(session: str, request: Question) -> Any:
        """Ask about what was seen so far. Streams `piece` events, then `done` with the whole answer."""
        found = sessions.get(session)
        moment, pieces = found.ask(request.question, max_new_tokens=request.max_new_tokens)

        def document() -> dict[str, Any]:
            stats = dict(found.session.stats())
            return asdict(AnswerDocument(moment.question, moment.answer, moment.timestamp, stats))

        if not request.stream:
            for _ in pieces:
                pass
            return document()
        return event_response(events(pieces, document))

    return router


def events(pieces: Iterator[str], document: Any) -> Generator[str, None, None]:
    """An answer as server-sent events; an error on the way is one too."""
    try:
        for piece in pieces:
            yield f"event: piece\ndata: {json.dumps({'text': piece}, ensure_ascii=False)}\n\n"
        yield f"event: done\ndata: {json.dumps(document(), ensure_ascii=False)}\n\n"
    except Exception as error:  # the answer has begun: there is no status to send any more
        yield f"event: error\ndata: {json.dumps({'error': str(error)})}\n\n"
