"""Live VLM WebUI 0.4.0 at /s/NAME/v1: what it posts for every frame it takes of a camera, replayed as it stands.

`shell/test_clients.sh` tries the package itself; this needs neither it nor an environment of its own.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .test_completions import post

BASE = "/s/webcam/v1"
PROMPT = "Describe what you see in this image in one sentence."
HEADERS = {
    "Authorization": "Bearer EMPTY",
    "Accept": "application/json",
    "User-Agent": "AsyncOpenAI/Python 3.57.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Async": "async:asyncio",
    "X-Stainless-Retry-Count": "0",
    "X-Stainless-Read-Timeout": "600",
}


@pytest.fixture
def camera(picture) -> Callable[[int], dict[str, Any]]:
    """camera(k): the body posted for the picture k, 640x480: the words first, no history, never a stream."""

    def body(k: int) -> dict[str, Any]:
        data = io.BytesIO()
        Image.fromarray(np.kron(picture(k), np.ones((10, 10, 1), np.uint8))).save(data, "JPEG")
        address = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": address}}]
        messages = [{"role": "user", "content": content}]
        return {"messages": messages, "model": "pocket", "max_tokens": 512, "temperature": 0.7}

    return body


def watched(server: SimpleNamespace, body: dict[str, Any]) -> dict[str, Any]:
    answer = post(server, body, f"{BASE}/chat/completions", **HEADERS)
    assert answer.status == 200, answer.text
    document = json.loads(answer.text)
    (choice,) = document["choices"]
    assert isinstance(choice["message"]["content"], str) and choice["finish_reason"] in ("stop", "length")
    return document


def test_it_finds_the_model_and_remembers_picture_after_picture(serve, camera):
    server = serve(max_new_tokens=512)
    with urllib.request.urlopen(urllib.request.Request(server.address + BASE + "/models", headers=HEADERS)) as answer:
        models = json.load(answer)["data"]
    assert [model["id"] for model in models] == ["pocket"]
    documents = [watched(server, camera(k)) for k in range(4)]
    session = server.sessions.named("webcam").session
    assert session.stats()["frames_seen"] == len(session.turns) == 4
    assert [turn.question for turn in session.turns] == [PROMPT] * 4
    assert [turn.answer for turn in session.turns] == [one["choices"][0]["message"]["content"] for one in documents]
    used = [one["usage"]["prompt_tokens"] for one in documents]
    assert used == sorted(used) and used[0] < used[-1], "what it saw and said before is in the prompt"
    assert all(one["usage"]["prompt_tokens_details"]["cached_tokens"] > 0 for one in documents[1:])
    assert len(server.sessions) == 1


def test_its_dialogue_stays_bounded(serve, camera):
    most = 1200
    server = serve(max_new_tokens=512, max_prompt_tokens=most)
    session = server.sessions.named("webcam").session
    used = []
    while session.stats()["turns_forgotten"] < 3:
        used.append(watched(server, camera(len(used)))["usage"]["prompt_tokens"])
        assert len(used) < 60, "the oldest turns were never let go"
    assert max(used) + 512 <= most and session.stats()["frames_seen"] == len(used)


def test_a_key_that_is_not_the_servers_is_told_in_words_it_shows(serve, camera):
    answer = post(serve(token="open"), camera(1), f"{BASE}/chat/completions", **HEADERS)
    error = json.loads(answer.text)["error"]
    assert (answer.status, error["code"]) == (401, "invalid_api_key") and "Bearer TOKEN" in error["message"]
