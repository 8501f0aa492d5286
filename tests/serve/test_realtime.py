"""The realtime socket: the events of OpenAI's API in their order, errors that keep the connection, breaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

sync_client = pytest.importorskip("websockets.sync.client", reason="pip install websockets")
exceptions = pytest.importorskip("websockets.exceptions")

ANSWER = [
    "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "conversation.item.done", "response.done",
]  # fmt: skip


class Talk:
    """One connection, whose events all have an id of their own."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.ids = socket, set()

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def next(self) -> dict[str, Any]:
        event = json.loads(self.socket.recv(timeout=60))
        assert isinstance(event["event_id"], str) and event["event_id"] not in self.ids
        self.ids.add(event["event_id"])
        return event

    def until(self, kind: str) -> list[dict[str, Any]]:
        events = [self.next()]
        while events[-1]["type"] != kind:
            events.append(self.next())
        return events

    def say(self, text: str, **item: Any) -> list[dict[str, Any]]:
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, **item})
        return [self.next(), self.next()]

    def show(self, address: str, **item: Any) -> list[dict[str, Any]]:
        content = [{"type": "input_image", "image_url": address, "detail": "auto"}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, **item})
        return [self.next(), self.next()]

    def answer(self, **response: Any) -> tuple[str, list[dict[str, Any]]]:
        self.send("response.create", **({"response": response} if response else {}))
        events = self.until("response.done")
        return "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta"), events


@contextmanager
def connected(server: Any, path: str = "/v1/realtime?model=pocket", **options: Any) -> Iterator[Talk]:
    with sync_client.connect(server.address.replace("http", "ws") + path, **options) as socket:
        talk = Talk(socket)
        assert talk.next()["type"] == "session.created"
        yield talk


def error_of(talk: Talk) -> dict[str, Any]:
    event = talk.next()
    assert event["type"] == "error", event
    return event["error"]


def test_frames_question_answer_and_a_second_one(serve, data_uri, wait_until):
    server = serve()
    with connected(server) as talk:
        added, done = talk.show(data_uri(1), id="f1")
        assert (added["type"], added["previous_item_id"]) == ("conversation.item.added", None)
        assert done["type"] == "conversation.item.done" and done["item"]["status"] == "completed"
        assert done["item"]["content"] == [{"type": "input_image", "detail": "auto"}]  # never the picture itself
        assert talk.say("What is happening?")[0]["previous_item_id"] == "f1"
        text, events = talk.answer(metadata={"client_event_id": "e7"}, output_modalities=["audio"])
        kinds = [event["type"] for event in events]
        assert list(dict.fromkeys(kinds)) == ANSWER and kinds.count("response.output_text.delta") > 1
        done = events[-1]["response"]
        assert done["status"] == "completed" and done["metadata"] == {"client_event_id": "e7"}
        assert done["output_modalities"] == ["text"] and done["output"][0]["content"][0]["text"] == text
        usage = done["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
        assert usage["input_token_details"]["image_tokens"] > 0
        (session,) = server.sessions._sessions.values()
        assert [turn.answer for turn in session.session.turns] == [text]
        talk.say("And before?")
        assert talk.answer()[1][-1]["response"]["usage"]["input_token_details"]["cached_tokens"] > 0
        assert len(session.session.turns) == 2
    wait_until(lambda: len(server.sessions) == 0)  # an unnamed session ends with its connection


def test_a_named_session_keeps_what_it_saw_and_knows_what_is_replayed(serve, data_uri):
    server, path = serve(), "/s/door/v1?model=pocket"
    with connected(server, path) as talk:
        talk.show(data_uri(1), id="f1")
        talk.say("What is happening?", id="q1")
        text, events = talk.answer()
        answer_id = events[-1]["response"]["output"][0]["id"]
    session = server.sessions.named("door").session
    with connected(server, "/s/door/v1/realtime") as talk:
        assert talk.say("What is happening?", id="q1")[0]["item"]["id"] == "q1"
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
        talk.send("conversation.item.create", item={**said, "id": answer_id})
        assert talk.until("conversation.item.done")[-1]["item"]["id"] == answer_id
        assert len(session.turns) == 1, "what is replayed enters the memory once"
        talk.say("And now?")
        talk.answer()
    assert len(session.turns) == 2 and session.stats()["frames_seen"] == 1


def test_a_replayed_dialogue_in_a_new_session(serve):
    server = serve()
    with connected(server) as talk:
        talk.say("Who is there?", id="a")
        said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Nobody."}]}
        talk.send("conversation.item.create", item={**said, "id": "b"})
        talk.until("conversation.item.done")
        (session,) = server.sessions._sessions.values()
        assert [(turn.question, turn.answer) for turn in session.session.turns] == [("Who is there?", "Nobody.")]


def test_the_session_is_updated_in_parts(serve):
    with connected(serve()) as talk:
        talk.send(
            "session.update", session={"instructions": "Be brief.", "tools": None, "output_modalities": ["audio"]}
        )
        assert talk.next()["session"]["instructions"] == "Be brief."
        talk.send("session.update", session={"max_output_tokens": 1, "audio": {"input": {"turn_detection": None}}})
        updated = talk.next()
        assert updated["type"] == "session.updated"
        assert (updated["session"]["instructions"], updated["session"]["max_output_tokens"]) == ("Be brief.", 1)
        assert updated["session"]["output_modalities"] == ["text"]
        talk.say("What?")
        done = talk.answer()[1][-1]["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


def test_sound_is_ignored_and_items_come_and_go(serve):
    with connected(serve()) as talk:
        for kind in ("append", "commit"):
            talk.send(f"input_audio_buffer.{kind}", audio="AAAA")
        talk.send("input_audio_buffer.clear")
        assert talk.next()["type"] == "input_audio_buffer.cleared"
        talk.say("Hello", id="x", previous_item_id="root")
        talk.send("conversation.item.retrieve", item_id="x")
        assert talk.next()["item"]["content"] == [{"type": "input_text", "text": "Hello"}]
        talk.send("conversation.item.delete", item_id="x")
        assert talk.next() | {"event_id": ""} == {"type": "conversation.item.deleted", "event_id": "", "item_id": "x"}
        for kind, code in (("delete", "item_delete_invalid_item_id"), ("retrieve", "item_retrieve_invalid_item_id")):
            talk.send(f"conversation.item.{kind}", item_id="x", event_id="mine")
            error = error_of(talk)
            assert (error["code"], error["event_id"]) == (code, "mine")


def test_a_cancelled_answer_is_closed(serve, data_uri, monkeypatch):
    said = []

    def endless(run: Any) -> Iterator[str]:
        while True:
            said.append("and ")
            yield said[-1]

    server = serve()
    with connected(server) as talk:
        talk.send("response.cancel", event_id="c")
        assert error_of(talk)["code"] == "response_cancel_not_active"
        talk.show(data_uri(1))
        talk.say("What?")
        monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", endless)
        talk.send("response.create")
        events = talk.until("response.output_text.delta")
        talk.send("response.create", event_id="again")
        assert error_of_until(talk)["code"] == "conversation_already_has_active_response"
        talk.send("response.cancel", response_id=events[0]["response"]["id"])
        done = talk.until("response.done")[-1]["response"]
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        assert done["output"][0]["status"] == "incomplete"
        monkeypatch.undo()
        talk.say("And now?")
        assert talk.answer()[1][-1]["response"]["status"] == "completed"


def error_of_until(talk: Talk) -> dict[str, Any]:
    return talk.until("error")[-1]["error"]


def test_a_failure_ends_the_answer_and_not_the_conversation(serve, data_uri, monkeypatch):
    def breaks(run: Any) -> Iterator[str]:
        yield "half "
        raise RuntimeError("out of memory")

    with connected(serve()) as talk:
        done = talk.answer()[1][-1]["response"]  # nothing was asked
        assert done["status"] == "failed" and "question" in done["status_details"]["error"]["message"]
        talk.say("What?")
        monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", breaks)
        done = talk.answer()[1][-1]["response"]
        assert done["status"] == "failed" and done["status_details"]["error"]["message"] == "out of memory"
        monkeypatch.undo()
        talk.say("What?")
        assert talk.answer()[1][-1]["response"]["status"] == "completed"


def test_what_is_told_back_is_small(serve):
    """Some clients close a socket that says more than 1 MiB at once."""
    with connected(serve(), max_size=2**16) as talk:
        parts = [{"type": "input_text", "text": "Hello", "detail": "auto", "more": "x" * 2**20}]
        talk.send("conversation.item.create", item={"type": "message", "role": "user", "content": parts})
        item = talk.until("conversation.item.done")[-1]["item"]
        assert item["content"] == [{"type": "input_text", "text": "Hello", "detail": "auto"}]
        talk.send("nothing.known", event_id=["x" * 2**20])
        assert error_of(talk)["event_id"] is None


def test_an_answer_that_was_cancelled_tells_what_it_cost(serve, data_uri, monkeypatch):
    server, goes_on = serve(), threading.Event()
    with connected(server, "/s/door/v1/realtime") as talk:
        session = server.sessions.named("door").session
        original = session.language.answer

        def cancelled(question, *, emit, **named):
            while not named["stop"].wait(0.01):
                emit("and ")
            assert goes_on.wait(60)
            return original(question, emit=lambda piece: None, **named)

        monkeypatch.setattr(session.language, "answer", cancelled)
        talk.show(data_uri(1))
        talk.say("What?")
        talk.send("response.create")
        talk.until("response.output_text.delta")
        for _ in range(2):  # a client that is in a hurry
            talk.send("response.cancel")
            talk.send("input_audio_buffer.clear")
            talk.until("input_audio_buffer.cleared")
        goes_on.set()
        usage = talk.until("response.done")[-1]["response"]["usage"]
        assert usage["input_token_details"]["image_tokens"] > 0 and usage["output_tokens"] == 1


def test_a_session_that_has_ended_closes_its_connection(serve):
    server = serve()
    with connected(server, "/s/door/v1/realtime") as talk:
        session = server.sessions.named("door")
        session.last_used = 0.0
        talk.send("input_audio_buffer.clear")
        assert talk.next()["type"] == "input_audio_buffer.cleared"
        assert session.last_used > 0, "who speaks is there, also one who asks nothing"
        server.sessions.end(session.key)
        talk.send("session.update", session={})
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            talk.next()
        assert caught.value.rcvd.code == 1001
    with connected(server, "/s/door/v1/realtime") as talk:
        talk.say("Hello")
        assert talk.answer()[1][-1]["response"]["status"] == "completed"


def test_a_client_that_vanishes_in_the_middle(serve, data_uri, monkeypatch, wait_until):
    left = []

    def endless(run: Any) -> Iterator[str]:
        try:
            while True:
                yield "and so on "
        finally:
            left.append(True)

    server = serve()
    with connected(server) as talk:
        talk.show(data_uri(1))
        talk.say("What?")
        monkeypatch.setattr("videochat_online.streaming.session.stream_pieces", endless)
        talk.send("response.create")
        talk.until("response.output_text.delta")
        talk.socket.socket.close()
    wait_until(lambda: left and len(server.sessions) == 0)


def test_what_is_said_unasked_is_a_whole_response_that_nobody_created(serve, data_uri):
    server = serve()
    with connected(server) as talk:
        (session,) = server.sessions._sessions.values()
        session.session.watch_for("Is it dark?", threshold=0.001, once=True)
        talk.show(data_uri(1), id="f1")
        events = talk.until("response.done")
        assert [event["type"] for event in events] == ANSWER
        response = events[-1]["response"]
        assert response["status"] == "completed" and response["metadata"] is None
        assert response["output"][0]["content"][0]["text"] == session.session.watchlist.events[0].text
        talk.say("What is happening?")
        assert list(dict.fromkeys(event["type"] for event in talk.answer()[1])) == ANSWER
        assert len(session.session.turns) == 1


def test_a_response_that_is_asked_for_is_not_refused_for_an_unasked_one(serve, data_uri, wait_until):
    """Two at the same moment: both come, whole, one behind the other."""
    server = serve()
    with connected(server) as talk:
        (session,) = server.sessions._sessions.values()
        talk.show(data_uri(1), id="f1")
        talk.say("What is happening?")
        session.session.watch_for("Is it dark?", threshold=0.001)
        wait_until(lambda: session.session.watchlist.num_events == 1)
        talk.send("response.create", response={"metadata": {"of": "me"}})
        events = [*talk.until("response.done"), *talk.until("response.done")]
        ids = [event.get("response_id") or event.get("response", {}).get("id") for event in events]
        order = [one for one in ids if one]
        assert len(set(order)) == 2 and order == sorted(order, key=order.index)  # never one within the other
        done = [event["response"] for event in events if event["type"] == "response.done"]
        assert {str(one["metadata"]) for one in done} == {"None", "{'of': 'me'}"}
        assert all(one["status"] == "completed" for one in done)
