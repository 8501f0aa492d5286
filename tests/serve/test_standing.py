"""Standing instructions over HTTP: given, looked at, heard as they come and after a break, and removed."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import pytest

from videochat_online.serve.client import Client, ServerError


class Ear:
    """Reads the events of a session in a thread, as a client does."""

    def __init__(self, session, **headers):
        address = f"{session.client.address}/v1/sessions/{session.key}/events"
        self.response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60)
        self.told, self.is_over = [], threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.response:
            if line.startswith(b"data:"):
                self.told.append(json.loads(line[5:]))
        self.is_over.set()


def post(session, **fields):
    return session.client.call("POST", f"/v1/sessions/{session.key}/standing", fields)


def test_given_heard_looked_at_and_removed(serve, png, wait_until):
    server = serve()
    with Client(server.address).session() as session:
        ear = Ear(session)
        given = post(session, text="Is it dark?", threshold=0.001, refractory=0)
        assert given["key"] == "s1" and given["rule"]["threshold"] == 0.001 and given["probability"] is None
        post(session, text="Tell me when it rains.", threshold=0.999)
        session.see(png(1), 0.0)
        wait_until(lambda: ear.told)
        (event,) = ear.told
        assert (event["id"], event["instruction"], event["time"]) == (1, "Is it dark?", 0.0) and event["text"]
        path = f"/v1/sessions/{session.key}/standing"
        wait_until(lambda: all(one["curve"] for one in session.client.call("GET", path)))
        dark, rain = session.client.call("GET", path)
        assert dark["last"] == event and dark["probability"] == event["probability"] and rain["last"] is None
        assert rain["question"] == "Is it so now that it rains?"
        session.client.call("DELETE", f"{path}/s1")
        assert [one["key"] for one in session.client.call("GET", path)] == ["s2"]
        with pytest.raises(ServerError, match=r"no instruction 's1' stands here; those that do: s2 \(HTTP 404\)"):
            session.client.call("DELETE", f"{path}/s1")
        assert session.state()["questions"] == 0  # nothing became a turn
    wait_until(ear.is_over.is_set)
    assert ear.told[1:] == [{"session": session.key}]


def test_a_client_that_comes_again_has_missed_nothing(serve, png, wait_until):
    server = serve()
    with Client(server.address).session() as session:
        for number in range(3):
            post(session, text=f"Is it {number}?", threshold=0.001, once=True)
        session.see(png(1), 0.0)
        found = server.sessions.get(session.key)
        wait_until(lambda: found.session.watchlist.num_events == 3)
        ears = [Ear(session, **{"Last-Event-ID": "1"}), Ear(session)]
        wait_until(lambda: len(ears[0].told) == 2)
        assert [event["id"] for event in ears[0].told] == [2, 3] and ears[1].told == []
        stranger = Ear(session, **{"Last-Event-ID": "99"})  # of a session that was before this one
        wait_until(lambda: len(stranger.told) == 3)
        with pytest.raises(urllib.error.HTTPError) as refused:
            Ear(session, **{"Last-Event-ID": "x"})
        assert refused.value.code == 400 and b"Last-Event-ID is the id of an event, got 'x'" in refused.value.read()


def test_instructions_outlive_a_stream_and_ids_go_on(serve, clip, wait_until):
    server = serve()
    with Client(server.address).session() as session:
        ear = Ear(session)
        post(session, text="Is it dark?", threshold=0.001)
        for number in (1, 2):
            session.upload(clip)
            wait_until(lambda number=number: len(ear.told) >= number)
        assert [event["id"] for event in ear.told[:2]] == [1, 2] and server.sessions.get(session.key)._run == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": " "}, "an instruction must be a text that is not empty"),
        ({"text": "x" * 501}, "an instruction may have 500 characters"),
        ({"text": "x", "threshold": 1.5}, "the threshold must be a probability between 0 and 1, got 1.5"),
        ({"text": "x", "quiet_hours": "9-5"}, "quiet hours are two different times"),
        ({"text": "x", "volume": 3}, "volume: "),
        ({}, "text: "),
    ],
)
def test_mistakes(serve, fields, message):
    with (
        Client(serve().address).session() as session,
        pytest.raises(ServerError, match=rf"{message}.*\(HTTP 400\)"),
    ):
        post(session, **fields)


def test_the_token_guards_them(serve):
    server = serve(token="open-sesame")
    key = server.sessions.create().key
    for method, path in (("GET", "standing"), ("POST", "standing"), ("DELETE", "standing/s1"), ("GET", "events")):
        with pytest.raises(ServerError, match=r"\(HTTP 401\)"):
            Client(server.address).call(method, f"/v1/sessions/{key}/{path}")
