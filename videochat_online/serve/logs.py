"""What a server writes about itself: for a person, or one JSON object a line; never a secret.

Requests are told with the pattern of their path, for a session's id and name are keys; nothing of a query, of headers
or of bodies is told.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

from ..media.addresses import HIDDEN, without_password

REQUEST: ContextVar[str] = ContextVar("REQUEST", default="")
"""The id of the request that is being answered."""
FORMATS = ("text", "json")
DATA = re.compile(r"data:[\w.+/;=-]{0,100},\S+", re.IGNORECASE)
KEY = re.compile(r"(bearer\s+|openai-insecure-api-key\.)[^\s'\",]+", re.IGNORECASE)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE)
requests = logging.getLogger(f"{__name__}.requests")


def redacted(text: str, *, token: str | None = None) -> str:
    """A text without data URIs, keys, this server's token, and logins in addresses."""
    text = KEY.sub(rf"\1{HIDDEN}", DATA.sub(f"data:{HIDDEN}", text))
    text = ADDRESS.sub(lambda found: without_password(found[0]), text)
    return text.replace(token, HIDDEN) if token else text


class TextFormatter(logging.Formatter):
    """A line for a person."""

    def __init__(self, *, token: str | None) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self.token = token

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record), token=self.token)


class JsonFormatter(TextFormatter):
    """One JSON object: time (UTC), level, logger, message, request, and what the record adds in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage(), token=self.token),
        }
        if request := REQUEST.get():
            found["request"] = redacted(request, token=self.token)  # a client chose it
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["error"] = redacted(self.formatException(record.exc_info), token=self.token)
        return json.dumps(found, ensure_ascii=False)


def start_logging(form: str, *, token: str | None) -> None:
    """Write this process's log: as text to stderr, warnings and worse; as json to stdout, requests too."""
    handler = logging.StreamHandler(sys.stdout if form == "json" else sys.stderr)
    handler.setFormatter(JsonFormatter(token=token) if form == "json" else TextFormatter(token=token))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    requests.setLevel(logging.INFO if form == "json" else logging.WARNING)
    # uvicorn calls it an error where a socket is refused by an HTTP answer, as ASGI has it
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing handshake" not in record.msg)


def log_request(scope: Any, route: str, status: int, client: str, seconds: float) -> None:
    """One line about a request that is over; status 0: the client left before there was one."""
    method = scope.get("method", "WEBSOCKET")
    fields = {"method": method, "route": route, "status": status, "client": client, "seconds": round(seconds, 4)}
    requests.info("%s %s: %d", method, route, status, extra={"fields": fields})
