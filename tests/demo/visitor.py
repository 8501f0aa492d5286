"""A visitor of the page without a browser: speaks to gradio's queue over HTTP, as its own clients do."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FILE = {"meta": {"_type": "gradio.FileData"}}


class Visitor:
    def __init__(self, address: str) -> None:
        self.place = urlsplit(address).netloc
        self.session = secrets.token_hex(6)
        page = self.request("GET", "/")[1].decode()
        start = page.index("window.gradio_config = ") + len("window.gradio_config = ")
        self.config = json.JSONDecoder().raw_decode(page[start:])[0]
        self.values: list[Any] = []
        """Of the outputs, of the last event."""
        self.events: list[dict[str, Any]] = self.config["dependencies"]

    def request(self, method: str, path: str, body: Any = None, headers: dict | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.place, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def upload(self, path: Path, name: str | None = None) -> dict[str, Any]:
        """Send a file; how an event names it."""
        head = f'--cut\r\nContent-Disposition: form-data; name="files"; filename="{name or path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + b"\r\n--cut--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=cut"}
        status, answer = self.request("POST", "/gradio_api/upload?upload_id=x", body, headers)
        assert status == 200, answer
        return {**FILE, "path": json.loads(answer)[0], "orig_name": name or path.name}

    def find(self, elem_id: str, trigger: str) -> dict[str, Any]:
        """The event of the part with that id or label."""
        names = ("elem_id", "label", "value")
        parts = self.config["components"]
        ids = [part["id"] for part in parts if elem_id in [part["props"].get(name) for name in names]]
        targets = [[number, trigger] for number in ids]
        return next(event for event in self.events if any(target in targets for target in event["targets"]))

    def act(self, name: str, **what: Any) -> dict[str, Any]:
        """One of the page's named actions; what the feed says then."""
        return self.do(self.find("vco-feed", "act"), event_data={"do": name, **what})

    def fault(self, *event: Any, **what: Any) -> str:
        """The mistake that is told about an event (with its values) or an action, which changes nothing else."""
        said = self.act(*event, **what) if isinstance(event[0], str) else self.do(*event)
        assert set(said) == {"fault"}, said
        return str(said["fault"]["text"])

    def join(self, event: dict[str, Any], data: list[Any], **more: Any) -> tuple[int, bytes]:
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": None, **more}
        return self.request("POST", "/gradio_api/queue/join", body)

    def do(self, event: dict[str, Any], *data: Any, **more: Any) -> dict[str, Any]:
        """What the feed says when the event is complete (of a stream: at first); {} where it says nothing new."""
        self.values = []
        status, answer = self.join(event, list(data), **more)
        assert status == 200, answer
        for message in self.messages():
            assert message.get("success", True), message
            assert message["msg"] != "log", "a notice of gradio's own"
            self.values = message["output"]["data"] if "data" in message.get("output", {}) else self.values
            if message["msg"] == "process_completed" or (message["msg"] == "process_streaming" and self.values):
                break
        feed = self.values[0] if self.values else {}
        return {} if feed.get("__type__") == "update" else dict(feed)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the queue says about this visitor's events."""
        connection = http.client.HTTPConnection(self.place, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
        connection.close()
