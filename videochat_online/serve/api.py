"""The server API as a FastAPI application: sessions, what they watch, frames; questions.py has the questions.

/docs shows its description to a person, by Swagger UI, which comes with the package, so that it works without internet:
serve/swagger/ holds two files of swagger-ui-dist 5.35.0 as they were published (gzip), and their licences (Apache-2.0).
FastAPI is optional and imported inside the functions; so annotations here are evaluated, not strings.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from .. import __version__
from ..extras import require
from .limits import NO_OTHER_FIELDS, LimitReached, NotAllowed, SessionSettings, TooLarge, UnknownSession
from .questions import question_routes
from .sessions import Sessions
from .sources import SourceRequest, open_source
from .track import dialogue_srt
from .upload import decode_image, save_upload

SWAGGER = Path(__file__).parent / "swagger"
SWAGGER_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@dataclass
class ErrorDocument:
    """What went wrong."""

    error: str


@dataclass
class ControlRequest:
    """`seek` takes seconds, `speed` takes a factor as value."""

    __pydantic_config__: ClassVar = NO_OTHER_FIELDS

    action: Literal["play", "pause", "stop", "seek", "speed"]
    value: float | None = None


@dataclass
class SeenFrame:
    number: int
    timestamp: float


STATUS: dict[type[ValueError], int] = {UnknownSession: 404, NotAllowed: 403, LimitReached: 429, TooLarge: 413}
"""HTTP status of an error; any other ValueError is 400."""
MEANING: dict[int | str, str] = {
    400: "Something in the request, or a file, is not as it must be",
    401: "The token is missing or wrong",
    403: "The operator does not allow this, or the session is doing something else",
    404: "No such session: it has ended, or never was",
    413: "Too large",
    429: "A limit is reached",
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
    require("fastapi")
    from fastapi import Depends, FastAPI
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    # 1. the application and its description
    about: dict[str, Any] = {"title": "videochat-online", "version": __version__, "description": DESCRIPTION}
    app = FastAPI(**about, docs_url=None, redoc_url=None)  # FastAPI's own load their programs from other hosts
    _add_docs_page(app)
    # 2. how errors are answered, and who may come in
    _answer_errors(app)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    errors = {status: {"model": ErrorDocument, "description": meaning} for status, meaning in MEANING.items()}
    guarded: dict[str, Any] = {"responses": errors}
    if token is not None:
        guarded["dependencies"] = [Depends(_token_check(token))]
    # 3. what can be asked for
    for routes in (session_routes, source_routes, question_routes):
        app.include_router(routes(sessions), prefix="/v1", **guarded)
    return app


def _add_docs_page(app: Any) -> None:
    from fastapi import HTTPException
    from fastapi.openapi.docs import get_swagger_ui_html
    from fastapi.responses import FileResponse

    @app.get("/docs", include_in_schema=False)
    def page() -> Any:
        return get_swagger_ui_html(  # addresses that hold behind a proxy's path, too
            title=app.title,
            openapi_url="openapi.json",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None},  # else the description is sent to validator.swagger.io
        )

    @app.get("/docs/{name}", include_in_schema=False)
    def file(name: str) -> Any:
        if name not in SWAGGER_FILES:
            raise HTTPException(404, f"there is no {name!r:.40} here")
        headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=86400"}
        return FileResponse(SWAGGER / f"{name}.gz", media_type=SWAGGER_FILES[name], headers=headers)


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
    def create(settings: SessionSettings) -> dict[str, Any]:
        """Begin a session. Its id opens it to whoever knows it."""
        return sessions.create(settings).state()

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
        return sessions.get(session).dialogue_document(sessions.model_name)

    @router.get("/sessions/{session}/dialogue.srt", responses={200: {"content": {"application/x-subrip": {}}}})
    def subtitles(session: str) -> Response:
        """The dialogue as subtitles."""
        text = dialogue_srt(sessions.get(session).track.dialogue())
        return Response(text, media_type="application/x-subrip")

    return router


def source_routes(sessions: Sessions) -> Any:
    from fastapi import APIRouter, Request
    from fastapi.concurrency import run_in_threadpool

    router = APIRouter(tags=["streams"])

    schema = {"type": "string", "format": "binary"}
    binary = {"requestBody": {"content": {"application/octet-stream": {"schema": schema}}, "required": True}}

    @router.put("/sessions/{session}/source")
    def start(session: str, request: SourceRequest) -> dict[str, Any]:
        """Watch a stream from now on; memory and dialogue begin empty."""
        found = sessions.get(session)
        found.start(open_source(request, sessions.limits))
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
        found.control(request.action, request.value)
        return found.state()

    @router.post("/sessions/{session}/frames", status_code=201, openapi_extra=binary)
    async def see(session: str, request: Request, timestamp: float | None = None) -> SeenFrame:
        """See one picture (JPEG, PNG, ...), sent as the request's body, shown at `timestamp` seconds."""
        found = sessions.get(session)
        image = await decode_image(request.stream(), sessions.limits.max_image_bytes)
        return SeenFrame(**await run_in_threadpool(found.see, image, timestamp))

    return router
