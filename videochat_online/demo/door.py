"""The door before gradio: only the routes that the page itself uses, and only files that were uploaded to this page.

Gradio opens, or copies, any file that an event's payload names, whatever component the event is about; its own check is
off where a page is mounted into another application. So the door looks at every request before gradio does. What it
refuses is answered by the application around it, like every other error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..serve.entrance import at_most
from ..serve.limits import NotAllowed

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


@dataclass
class Door:
    """An ASGI application before another."""

    app: ASGIApp
    uploads: Container[str]
    """Paths of what this page's visitors sent, as gradio answered; nobody else can guess them."""
    most_bytes: int
    """Of one event's payload."""
    most_upload_bytes: int
    """Of the file in one upload."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not ROUTES.fullmatch(path):
            raise HTTPException(404, f"the page has no address {path!r:.80}")
        if path == UPLOAD:
            receive = at_most(receive, self.most_upload_bytes + SPARE_BYTES, "an upload")
        elif PAYLOADS.fullmatch(path):
            event = await read_event(at_most(receive, self.most_bytes, "an event"))
            if not all(map(self.is_ours, named_files(event))):
                raise NotAllowed("only files that were uploaded here can be opened")
            receive = again(json.dumps(event).encode(), receive)  # what gradio reads is what was looked at
        await self.app(scope, receive, send)

    def is_ours(self, file: dict[str, Any]) -> bool:
        """Whether it is an upload of this page, or carries its bytes itself."""
        path, address = file.get("path"), file.get("url")
        if path is None:
            return address is None or (isinstance(address, str) and address.startswith("data:"))
        return isinstance(path, str) and path in self.uploads and os.path.isfile(path) and not os.path.islink(path)


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


async def read_event(receive: Receive) -> dict[str, Any]:
    """A request's body; ValueError where it is no json object."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise ValueError("an event is a json object")
    return event


def again(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once more, and then what comes after it."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return rest.pop() if rest else await receive()

    return give
