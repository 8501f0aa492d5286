"""The server API as a FastAPI application: its description, who may come in, and what every error looks like.

routes.py and questions.py have what can be asked for. /docs shows the description to a person, by Swagger UI, which
comes with the package, so that it works without internet: serve/swagger/ holds two files of swagger-ui-dist 5.35.0 as
they were published (gzip), and their licences (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError, StarletteHTTPException
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from .. import __version__
from .completions import chat_routes, named_routes
from .entrance import Entrance
from .limits import token_problem
from .operations import Metrics, metric_routes, probe_routes
from .questions import error_body, question_routes, refusal_response, standing_routes
from .realtime import realtime_routes
from .routes import live_routes, model_routes, session_routes, stream_routes
from .sessions import Sessions

SWAGGER = Path(__file__).parent / "swagger"
SWAGGER_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
DESCRIPTION = """Talk with a running stream. A session watches one stream with a memory of fixed size:

1. `POST /v1/sessions`
2. `PUT .../source`, or `PUT .../video` with a file, or `POST .../frames` with pictures
3. `POST .../questions` at any moment, or `POST /v1/chat/completions` as with OpenAI's API
4. `POST .../standing` to be told by itself, `GET .../events` to hear it

`/s/NAME/v1` is OpenAI's API over a session called NAME, which remembers what it was shown; without a session each
chat completion is complete in itself. `WS /v1/realtime` speaks OpenAI's Realtime API, in text.
"""
MEANING = {
    400: "Something in the request, or a file, is not as it must be: a name, a type, a value above a limit",
    401: "The token is missing or wrong",
    403: "The operator does not allow this, or the session is doing something else",
    404: "No such session: it has ended, or never was",
    408: "The body came too slowly",
    413: "Too large",
    429: "All places are taken, or too many requests of one client or session; Retry-After says when to try again",
    502: "The engine that runs the language model refused, or broke its answer off",
    503: "Too much at once for this server, it is being stopped, or its engine is not there",
    504: "That engine said nothing for too long",
}


@dataclass
class ErrorBody:
    message: str
    type: str
    param: str | None
    """Where in the request."""
    code: str | None


@dataclass
class ErrorDocument:
    """What went wrong, in the shape of OpenAI's API."""

    error: ErrorBody


def create_app(sessions: Sessions, *, token: str | None = None, hosts: list[str] | None = None) -> FastAPI:
    """The API over `sessions`, and what a page fetches of them.

    Args:
        token: what clients must send as "Authorization: Bearer TOKEN"; None asks for nothing.
        hosts: names under which the server may be addressed (against DNS rebinding); None allows any.
    """
    # 1. the application and its description: FastAPI's own pages load their programs from other hosts
    app = FastAPI(title="videochat-online", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.sessions, app.state.token, app.state.metrics = sessions, token, Metrics(sessions)
    _add_docs_page(app)
    # 2. what errors look like, and who may come in
    for kind in (ValueError, StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, error_response)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(Entrance, sessions=sessions, metrics=app.state.metrics)  # the outermost
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorDocument, "description": meaning} for status, meaning in MEANING.items()
    }
    guards = [] if token is None else [Depends(_token_check(token))]
    # 3. what can be asked for
    for routes in (session_routes, stream_routes, question_routes, standing_routes, model_routes, chat_routes):
        app.include_router(routes, prefix="/v1", responses=errors, dependencies=guards)
    for routes in (model_routes, named_routes):
        named = [*guards, Depends(session_name)]
        app.include_router(routes, prefix="/s/{name}/v1", responses=errors, dependencies=named)
    app.include_router(metric_routes, responses=errors, dependencies=guards)
    app.include_router(probe_routes, responses={503: errors[503]})
    app.include_router(live_routes)
    app.include_router(realtime_routes)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI's description says 422 of what is 400 here, as OpenAI's clients expect it."""
        description = described()
        for operation in (one for methods in description["paths"].values() for one in methods.values()):
            operation["responses"].pop("422", None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def error_response(request: Request, error: Exception) -> JSONResponse:
    """The one shape of an error, wherever it comes from. The text of a bug stays in the log."""
    status, headers, body = 500, None, error_body("Internal Server Error", 500)
    if isinstance(error, StarletteHTTPException):
        status, headers, body = error.status_code, error.headers, error_body(str(error.detail), error.status_code)
    elif isinstance(error, RequestValidationError):
        status = 400
        body = error_body(validation_text(error.errors()), status, param=_param(error.errors()[0]["loc"]))
    elif isinstance(error, ValueError):
        return await refusal_response(error, request.app.state.sessions)
    return JSONResponse({"error": body}, status, headers)


def _param(place: Sequence[Any]) -> str | None:
    """pydantic's place of an error in OpenAI's words: messages.[0].content."""
    return ".".join(f"[{step}]" if isinstance(step, int) else str(step) for step in place[1:]) or None


def validation_text(errors: Sequence[Any]) -> str:
    """What pydantic found wrong, and where, in one line: the first few of a long list."""
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {_meaning(each)}" for each in errors[:5])


def _meaning(error: Any) -> str:
    """pydantic's words, but where the whole body is no object: then they would name a class of ours."""
    if tuple(error["loc"]) == ("body",) and error["type"] in ("dataclass_type", "model_attributes_type"):
        return "expected a JSON object, sent with Content-Type: application/json"
    return str(error["msg"])


def _token_check(token: str) -> Any:
    bearer = HTTPBearer(auto_error=False, description="The server's token, where it has one")

    async def check(given: HTTPAuthorizationCredentials | None = Security(bearer)) -> None:  # noqa: B008 - FastAPI's way
        if problem := token_problem(given.credentials if given else None, token):
            raise HTTPException(401, problem, {"WWW-Authenticate": "Bearer"})

    return check


async def session_name(name: str) -> None:
    """The parameter of every path below /s/{name}, for the description."""


def _add_docs_page(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    def page() -> Response:
        return get_swagger_ui_html(  # addresses that hold behind a proxy's path, too
            title=app.title,
            openapi_url="openapi.json",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None},  # else the description is sent to validator.swagger.io
        )

    @app.get("/docs/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in SWAGGER_FILES:
            raise HTTPException(404, f"there is no {name!r:.40} here")
        headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=86400"}
        return FileResponse(SWAGGER / f"{name}.gz", media_type=SWAGGER_FILES[name], headers=headers)
