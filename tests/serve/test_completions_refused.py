"""Chat completions that cannot be answered: which status, which place in the request, in which words, and when."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from videochat_online.serve import turns
from videochat_online.serve.turns import CLIENT, Refusals

from .test_completions import CHAT, post, said, user


def chat(*content: dict | str, role: str = "user") -> dict:
    return {"messages": [{"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}]}


def shown(address: str, kind: str = "image_url") -> dict:
    return chat({"type": kind, kind: {"url": address}}, {"type": "text", "text": "What?"})


PART, INVALID, UNSUPPORTED = "messages.[0].content[0]", "invalid_value", "unsupported_value"
ANSWERED = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
BAD = [
    ({"model": "gpt-4o"}, 404, "model", "model_not_found", "this server runs 'pocket', not 'gpt-4o'"),
    ({"messages": []}, 400, "messages.[0]", INVALID, "must be the user's"),
    ({"messages": None}, 400, "messages.[0]", INVALID, "must be the user's"),
    ({"messages": {}}, 400, "messages", None, "valid list"),
    (chat("\ud800"), 400, "messages.[0].content", INVALID, "not Unicode"),
    (chat({"type": "text", "text": "a\udc00"}), 400, PART, INVALID, "not Unicode, at character 1"),
    (ANSWERED, 400, "messages.[1]", INVALID, "must be the user's, with a text"),
    (chat("x", role="tool"), 400, "messages.[0].role", None, "Input should be"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.[0].content.str", None, "valid string"),
    (shown("data:image/png;base64,xx"), 400, f"{PART}.image_url", INVALID, "base64"),
    (shown("data:image/png;base64,AAAA"), 400, f"{PART}.image_url", INVALID, "picture"),
    (shown("data:video/mp4;base64,AAAA", "video_url"), 400, f"{PART}.video_url", INVALID, "the video"),
    (shown("http://nobody.invalid/a.png"), 403, None, None, "allow-urls"),
    (chat({"type": "input_audio", "input_audio": {}}), 400, PART, INVALID, "input_audio"),
    (chat({"type": "image_url"}), 400, f"{PART}.image_url", INVALID, "data URI"),
    ({"session": "nobody"}, 404, None, "not_found", "there is no session"),
    ({"max_tokens": 0}, 400, "max_tokens", INVALID, "between 1 and 32"),
    ({"max_tokens": 9999}, 400, "max_tokens", INVALID, "between 1 and 32 (this"),
    ({"max_completion_tokens": 33}, 400, "max_completion_tokens", INVALID, "max_completion_tokens must lie"),
    ({"max_tokens": "many"}, 400, "max_tokens", None, "valid integer"),
    ({"temperature": 3}, 400, "temperature", INVALID, "between 0 and 2"),
    ({"top_p": -1}, 400, "top_p", INVALID, "between 0 and 1"),
    ({"stop": [""]}, 400, "stop", INVALID, "none of them empty"),
    ({"n": 2}, 400, "n", UNSUPPORTED, "n=2"),
    ({"logprobs": True}, 400, "logprobs", UNSUPPORTED, "logprobs"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", UNSUPPORTED, "presence_penalty"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", UNSUPPORTED, "response_format"),
    ({"tools": [{}]}, 400, "tools", UNSUPPORTED, "tools"),
    ({"stream_options": {"x": 1}}, 400, "stream_options", INVALID, "'x'"),
    ({"top_k": 5}, 400, "top_k", None, "Unexpected keyword"),
]


@pytest.fixture(scope="module")
def one_server(pocket):
    """For requests that change nothing."""
    uvicorn = pytest.importorskip("uvicorn")
    from videochat_online.serve.api import create_app
    from videochat_online.serve.limits import Limits
    from videochat_online.serve.sessions import Sessions

    with Sessions(*pocket, limits=Limits(max_new_tokens=32)) as sessions:
        server = uvicorn.Server(uvicorn.Config(create_app(sessions), port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            pass
        port = server.servers[0].sockets[0].getsockname()[1]
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}", sessions=sessions)
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(("change", "status", "param", "code", "message"), BAD, ids=[str(row[4]) for row in BAD])
def test_what_cannot_be_answered(change, status, param, code, message, one_server):
    body = {"model": "pocket", "messages": [{"role": "user", "content": "What?"}]}
    answer = post(one_server, {**body, **change})
    error = json.loads(answer.text)["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code), answer.text
    assert message in error["message"] and set(error) == {"message", "type", "param", "code"}


def test_other_errors_have_the_same_shape(serve):
    server = serve(token="open", max_request_bytes=2000)
    key = {"Authorization": "Bearer open"}
    for body, headers, path, status, code in (
        ({}, {}, CHAT, 401, "invalid_api_key"),
        (b"{broken", key, CHAT, 400, None),
        ({"model": "x" * 3000}, key, CHAT, 413, "too_large"),
        ({}, key, "/v1/nothing", 404, "not_found"),
    ):
        answer = post(server, body, path, **headers)
        error = json.loads(answer.text)["error"]
        assert (answer.status, error["code"]) == (status, code) and set(error) == {"message", "type", "param", "code"}


def test_too_many_at_once_are_told_to_wait(serve, data_uri, monkeypatch):
    server = serve(max_sessions=1)
    place = server.sessions.turns.enter()
    body = {"model": "pocket", "messages": [user(data_uri(1), "What?")], "max_tokens": 1}
    answer = post(server, body)
    assert answer.status == 429 and int(answer.headers["Retry-After"]) >= 1
    place.release()
    for _ in range(3):  # each gives its place back: answered, streamed, refused
        assert post(server, body).status == 200
        assert post(server, body | {"stream": True}).status == 200
        assert post(server, body | {"messages": [user(*["word " * 6000] * 8)]}).status == 400


def test_a_refused_request_begins_and_changes_no_session(serve, data_uri):
    server, path = serve(max_sessions=2, max_question_chars=100), "/s/door/v1/chat/completions"
    system = lambda text: {"role": "system", "content": text}  # noqa: E731
    for change in ({"model": "gpt"}, {"n": 2}, {"messages": []}, {"max_tokens": 99}, {"messages": [user("\ud800")]}):
        body = {"model": "pocket", "messages": [user("What?")], **change}
        assert post(server, body, "/s/other/v1/chat/completions").status in (400, 404)
    assert len(server.sessions) == 0
    said(server, system("Be brief."), user(data_uri(1), "What?"), path=path)
    for messages in (
        [system("\ud800"), user(data_uri(2), "What?")],
        [system("x" * 101), user(data_uri(2), "What?")],
        [system("Be long."), user(data_uri(2), "What?" * 30)],
    ):
        assert post(server, {"model": "pocket", "messages": messages}, path).status == 400
    session = server.sessions.named("door").session
    assert session.system_prompt == "Be brief." and session.stats()["frames_seen"] == 1
    assert said(server, user("And now?"), path=path)
    for text in ("\ud800", "x" * 101):
        bad = post(server, {"system_prompt": text}, "/v1/sessions")
        assert bad.status == 400 and "system prompt" in bad.text


def test_refusals_of_one_client_come_one_after_another(monkeypatch):
    waited = []
    monkeypatch.setattr(turns.time, "monotonic", lambda: 1000.0)

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 3))

    monkeypatch.setattr(turns.asyncio, "sleep", sleep)

    async def run() -> None:
        refusals = Refusals()
        for client in ("rude", "rude", "rude", "polite"):
            CLIENT.set(client)
            await refusals.moment()

    asyncio.run(run())
    assert waited == [0.5, 0.7, 0.9, 0.5]
