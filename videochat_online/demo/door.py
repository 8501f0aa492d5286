"""The door before gradio: only the routes that the page itself uses, and only files that were uploaded to this page.

Gradio opens, or copies, any file that an event's payload names, whatever component the event is about; its own check is
off where a page is mounted into another application. So the door looks at every request before gradio does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Container, Iterator, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ROUTES = re.compile(
    r"/(config/?|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?|(assets|static|svelte)/.*|"
    r"gradio_api/(startup-events|app_id/?|reset/?|theme\.css|queue/data|upload_progress|heartbeat/[^/]+|"
    r"upload|cancel|queue/join|run/predict|stream/[^/]+(/close)?))?"
)
"""What else gradio has (files by name, calls past the queue, a proxy, recordings, ...) serves other applications."""
PAYLOADS = re.compile(r"/gradio_api/(queue/join|run/predict|stream/[^/]+)")
"""Where the values of events come in."""
UPLOAD = "/gradio_api/upload"
SPARE_BYTES = 2**20
"""What an upload may have around its file: the form's own lines. Gradio limits each file, not the whole."""


class Door:
    """An ASGI application before another.

    Args:
        uploads: paths of what this page's visitors sent, as gradio answered; nobody else can guess them.
        most_bytes: of one event's payload.
        most_upload_bytes: of the file in one upload.
    """

    def __init__(self, app: Any, *, uploads: Container[str], most_bytes: int, most_upload_bytes: int) -> None:
        self.app, self.uploads, self.most_bytes = app, uploads, most_bytes
        self.most_upload_bytes = most_upload_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not ROUTES.fullmatch(path):
            await refused(404, f"the page has no address {path!r:.80}")(scope, receive, send)
        elif path == UPLOAD:
            await self.app(scope, at_most(receive, self.most_upload_bytes + SPARE_BYTES), send)
        elif not PAYLOADS.fullmatch(path):
            await self.app(scope, receive, send)
        elif (body := await read_body(receive, self.most_bytes)) is None:
            await refused(413, f"an event may have {self.most_bytes:,} bytes")(scope, receive, send)
        elif (event := read_event(body)) is None:
            await refused(400, "an event is a json object")(scope, receive, send)
        elif not all(map(self.is_ours, named_files(event))):
            await refused(403, "only files that were uploaded here can be opened")(scope, receive, send)
        else:  # written again: what gradio reads is what was looked at
            await self.app(scope, again(json.dumps(event).encode(), receive), send)

    def is_ours(self, file: dict[str, Any]) -> bool:
        """Whether it is an upload of this page, or carries its bytes itself."""
        path, address = file.get("path"), file.get("url")
        if path is None:
            return address is None or (isinstance(address, str) and address.startswith("data:"))
        return isinstance(path, str) and path in self.uploads and os.path.isfile(path) and not os.path.islink(path)


def read_event(body: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def named_files(event: Any) -> Iterator[dict[str, Any]]:
    """Every object, at any depth, that could stand for a file."""
    waiting = [event]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value or "url" in value:
                yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


async def read_body(receive: Receive, most: int) -> bytes | None:
    """A request's body; None for more than `most` bytes."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            return None
    return bytes(body)


def at_most(receive: Receive, most: int) -> Receive:
    """`receive` that ends the request with status 413 when it has given more than `most` bytes."""
    from starlette.exceptions import HTTPException

    size = 0

    async def give() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise HTTPException(413, f"an upload may have {most:,} bytes")
        return message

    return give


def again(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once more, and then what comes after it."""
    rest = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return rest.pop() if rest else await receive()

    return give


def refused(status: int, problem: str) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": problem, "detail": problem}, status)
