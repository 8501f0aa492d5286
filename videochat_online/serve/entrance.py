"""What each request and socket passes first: its id, its client's share, a deadline for its body, a line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import ClientLeft, LimitReached
from .logs import REQUEST, log_request
from .operations import PROBES, Metrics
from .questions import error_body, refusal_response
from .sessions import Sessions
from .turns import CLIENT, HAS_LEFT

ID = re.compile(r"[\x21-\x7e]{1,64}")
SLOWEST = 16 * 2**10
"""Bytes a second: who sends a body more slowly than that has `Limits.body_seconds` in all."""
CLOSES = (408, 413)
"""The rest of such a body is not read: the connection ends with the answer."""
REST, LONGEST_REST_SECONDS = 2, 1.0
"""For each further socket that a client has, so many times as long as its message took."""
log = logging.getLogger(__name__)


class Entrance:
    """See the module. Inner parts know the client and the request's id by context variables."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, metrics: Metrics) -> None:
        self.app, self.sessions, self.metrics = app, sessions, metrics
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        # 1. who asks, and by which id the answer can be found again
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8)
        client = (scope.get("client") or ("",))[0]
        CLIENT.set(client)
        REQUEST.set(request_id)
        if scope["type"] == "http":
            receive = self._in_time(receive)
            kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind == b"application/json" or kind.endswith(b"+json"):  # others are bounded where they are read
                receive = at_most(receive, self.sessions.limits.max_request_bytes, "a JSON body")
        # who looks waits for nothing: so not behind others
        HAS_LEFT.set(Request(scope, receive).is_disconnected if scope["type"] == "http" else None)
        receive = self._behind(receive, client if scope["type"] == "websocket" else None)
        started, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"].endswith(("response.start", "websocket.accept")):
                status = message.get("status", 101)
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message["headers"] = [*headers, (b"connection", b"close")] if status in CLOSES else headers
            await send(message)

        # 2. its share, then what it asks for
        self._open[client] += 1
        try:
            most = self.sessions.limits.max_client_requests
            if client and self._open[client] > most and scope["path"] not in PROBES:
                error = LimitReached(f"{most} requests at once are all that one client may have here")
                await (await refusal_response(error, self.sessions))(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except Exception:
            if status:
                raise
            log.exception("a request failed")  # the text of a bug stays here
            failed = JSONResponse({"error": error_body("Internal Server Error", 500)}, 500)
            await failed(scope, receive, answer)
        finally:
            self._open -= Counter([client])  # who has none left goes
            # 3. told without what stands in its path and query: a session's id is a key
            route = _pattern(scope)
            self.metrics.requests.labels(route, str(status)).inc()
            log_request(scope, route, status, client, time.monotonic() - started)

    def _behind(self, receive: Receive, many_of: str | None) -> Receive:
        """`receive` behind others, where they are to go first: reading costs the event loop time that all share.

        A client with several sockets rests after each message: together they take little more than one of another.
        """
        given = time.monotonic()

        async def give() -> Message:
            nonlocal given
            if many_of is not None and self._open[many_of] > 1 and len(self._open) > 1:
                rest = REST * (self._open[many_of] - 1) * (time.monotonic() - given)
                await asyncio.sleep(min(rest, LONGEST_REST_SECONDS))
            message = await receive()
            await self.sessions.turns.let_pass()
            given = time.monotonic()
            return message

        return give

    def _in_time(self, receive: Receive) -> Receive:
        """`receive` that ends the request with status 408 where its body comes too slowly."""
        until, is_whole = time.monotonic() + self.sessions.limits.body_seconds, False

        async def give() -> Message:
            nonlocal until, is_whole
            if is_whole:  # what comes now is that the client leaves
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, until - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(408, "the request's body came too slowly") from None
            if message["type"] == "http.disconnect":
                raise HTTPException(ClientLeft.status, "the client left before its request was whole")
            is_whole = not message.get("more_body", False)
            until += len(message.get("body", b"")) / SLOWEST
            return message

        return give


def _pattern(scope: Scope) -> str:
    """The path of a route with the names of its parameters: a newer FastAPI leaves out where a router was mounted."""
    path = getattr(scope.get("route"), "path", None)
    if path is None or "/v1" in path or not scope["path"].startswith(("/v1/", "/s/")):
        return path or "other"
    return ("/v1" if scope["path"].startswith("/v1/") else "/s/{name}/v1") + path


def at_most(receive: Receive, most: int, what: str) -> Receive:
    """`receive` that ends the request with status 413 when it has given more than `most` bytes."""
    size = 0

    async def give() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:  # of the kind that gradio answers, too
            raise HTTPException(413, f"{what} may have {most:,} bytes")
        return message

    return give
