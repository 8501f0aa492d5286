"""The realtime socket: what is wrong with an event is told and the connection stays; who may come in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .test_realtime import connected, error_of, exceptions, sync_client

BAD = [
    (b"\x00\x01", "text frame"),
    ("{broken", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[]", "JSON object"),
    ({"type": "nothing.known"}, "unknown event type"),
    ({"type": ["a"]}, "unknown event type"),
    ({"type": "session.update"}, "session must be an object"),
    ({"type": "session.update", "session": {"instructions": 5}}, "instructions"),
    ({"type": "session.update", "session": {"instructions": "x" * 5000}}, "characters of the system prompt"),
    ({"type": "session.update", "session": {"max_output_tokens": -1}}, "max_output_tokens"),
    ({"type": "conversation.item.create"}, "item must be an object"),
    ({"type": "conversation.item.create", "item": {"type": "function_call_output"}}, "a message of"),
    ({"type": "conversation.item.create", "item": {"role": "user", "content": "text"}}, "list of parts"),
    ({"type": "conversation.item.create", "item": {"role": "user", "content": [{"type": "video"}]}}, "a part is"),
    ({"type": "conversation.item.create", "item": {"role": "user", "id": 7}}, "an item's id"),
    ({"type": "response.create", "response": []}, "response must be an object"),
    ({"type": "response.create", "response": {"metadata": {"a": float("nan")}}}, "not JSON"),
    ({"type": "response.create", "response": {"conversation": "none"}}, "cannot be honoured"),
    ({"type": "response.create", "response": {"input": [{"type": "message"}]}}, "cannot be honoured"),
    ({"type": "response.create", "response": {"metadata": "x"}}, "metadata must be an object"),
    ({"type": "response.create", "response": {"metadata": {"a": "x" * 10_001}}}, "metadata may have 10000"),
    ({"type": "session.update", "session": {"instructions": "\ud800"}}, "not Unicode"),
    (
        {"type": "conversation.item.create", "item": {"role": "user", "content": [{"type": "text", "text": "\ud800"}]}},
        "not Unicode",
    ),
]


def test_what_is_wrong_with_one_event_is_told_and_the_connection_stays(serve, data_uri):
    with connected(serve()) as talk:
        talk.say("Hello", id="x")
        for message, words in BAD:
            text = json.dumps({**message, "event_id": "e"}) if isinstance(message, dict) else message
            talk.socket.send(text)
            error = error_of(talk)
            assert words in error["message"] and error["type"] and error["code"], message
            is_json = isinstance(message, dict) and "NaN" not in text
            assert error["event_id"] == ("e" if is_json else None)
        for address in ("data:image/png;base64,AAAA", "data:image/png;base64,!!", "http://a/b.png", "x"):
            content = [{"type": "input_image", "image_url": address}]
            talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
            assert error_of(talk)["message"]
        talk.say("a strange id", id="\ud800")
        talk.say("Hello")
        talk.send("conversation.item.create", item={"type": "message", "role": "user", "id": "x", "content": []})
        assert error_of(talk)["code"] == "item_create_duplicate_item_id"
        assert talk.answer()[1][-1]["response"]["status"] == "completed"


def test_who_may_come_in(serve):
    server = serve(token="open", max_sessions=1)
    address = server.address.replace("http", "ws")

    def refused(path: str = "/v1/realtime", **options: Any) -> tuple[int, str]:
        with pytest.raises(exceptions.InvalidStatus) as caught:
            sync_client.connect(address + path, **options)
        response = caught.value.response
        return response.status_code, json.loads(response.body)["error"]["code"]

    key = {"additional_headers": {"Authorization": "Bearer open"}}
    assert refused() == (401, "invalid_api_key")
    for headers in ({"Authorization": "Bearer"}, {"Authorization": "Basic open"}, {"Authorization": "Bearer \xe9"}):
        assert refused(additional_headers=headers) == (401, "invalid_api_key")
    assert refused("/v1/realtime?model=gpt", **key) == (404, "model_not_found")
    assert refused(origin="https://evil.example", **key) == (403, "forbidden")
    assert refused("/s/a%20b/v1", **key) == (400, "invalid_value")
    with connected(server, **key) as talk:
        assert talk.socket.subprotocol is None
        assert refused(**key) == (429, "rate_limit_exceeded")
    names = ["realtime", "openai-insecure-api-key.open", "openai-beta.realtime-v1"]
    own = server.address
    with connected(server, subprotocols=names, origin=own) as talk:
        assert talk.socket.subprotocol == "realtime"
