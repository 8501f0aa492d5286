"""A small client of the server API; the standard library is all it needs.

client = Client("http://127.0.0.1:8000")
with client.session(fps=2) as session:
    session.watch("shapeworld", seed=3)
    for piece in session.ask("What is happening now?"):
        print(piece, end="", flush=True)
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class ServerError(ValueError):
    """What the server said went wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status


class Client:
    """Speaks to one server. `timeout` in seconds, between two pieces of an answer as well."""

    def __init__(self, address: str, *, token: str | None = None, timeout: float = 60.0) -> None:
        self.address, self.timeout = address.rstrip("/"), timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @contextmanager
    def session(self, **settings: Any) -> Iterator[RemoteSession]:
        """A new session, ended when the block is left."""
        session = RemoteSession(self, self.call("POST", "/v1/sessions", settings)["id"])
        try:
            yield session
        finally:
            session.end()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send json or bytes; the json that comes back, None for nothing."""
        with self.open(method, path, body) as response:
            data = response.read()
        return json.loads(data) if data else None

    def open(self, method: str, path: str, body: Any = None) -> Any:
        """The open response; ServerError for a refusal, ConnectionError where no server is."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode("utf-8", "replace")
            try:
                text = json.loads(text)["error"]["message"]
            except (ValueError, KeyError, TypeError):  # another server's words
                text = text[:300]
            raise ServerError(error.code, text) from None
        except urllib.error.URLError as error:
            raise ConnectionError(f"no server answers at {self.address}: {error.reason}") from None


class RemoteSession:
    """One session on the server."""

    def __init__(self, client: Client, key: str) -> None:
        self.client, self.key = client, key
        self._path = f"/v1/sessions/{key}"

    def watch(self, kind: str, **details: Any) -> dict[str, Any]:
        """kind: "sample", "shapeworld" (seed, level), "url" (address), "camera" (number) or "push"."""
        return self.client.call("PUT", f"{self._path}/source", {"kind": kind, **details})

    def upload(self, path: str | Path) -> dict[str, Any]:
        """Watch a video file of this machine."""
        return self.client.call("PUT", f"{self._path}/video", Path(path).read_bytes())

    def see(self, picture: bytes, timestamp: float | None = None) -> dict[str, Any]:
        """Show one picture, given as the bytes of a JPEG, PNG, ...; its number and seconds."""
        query = "" if timestamp is None else f"?timestamp={timestamp}"
        return self.client.call("POST", f"{self._path}/frames{query}", picture)

    def control(self, action: str, value: float | None = None) -> dict[str, Any]:
        """action: "play", "pause", "stop", "seek" (seconds) or "speed" (factor)."""
        return self.client.call("POST", f"{self._path}/control", {"action": action, "value": value})

    def ask(self, question: str, *, max_new_tokens: int | None = None) -> Iterator[str]:
        """The answer, piece by piece; ServerError where it breaks off."""
        body = {"question": question, "max_new_tokens": max_new_tokens, "stream": True}
        with self.client.open("POST", f"{self._path}/questions", body) as response:
            event = ""
            for line in response:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = value
                elif name == "data" and event == "piece":
                    yield json.loads(value)["text"]
                elif name == "data" and event == "error":
                    raise ServerError(200, json.loads(value)["error"]["message"])

    def state(self) -> dict[str, Any]:
        """Stream, memory and counters now."""
        return self.client.call("GET", self._path)

    def end(self) -> None:
        self.client.call("DELETE", self._path)
