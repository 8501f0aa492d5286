"""Many who ask a server at once: their answers are made together, and each is what it is alone."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from videochat_online import StreamingSession
from videochat_online.serve.client import Client
from videochat_online.serve.turns import CLIENT, Turns
from videochat_online.streaming import together

from .test_completions import post, user


@pytest.fixture(autouse=True)
def nobody_is_late(monkeypatch):
    """A pass waits for every row that is being made, however slow this machine."""
    monkeypatch.setattr(together, "GATHER_SECONDS", 20)


def begun_at_once(monkeypatch, server, num, ask):
    """What `ask(number)` gives of each, none of which has its first token before all are being answered."""
    start, first_logits = threading.Barrier(num), together.AnswerRow.compute

    def compute(row, call):
        start.wait(60)
        return first_logits(row, call)

    monkeypatch.setattr(together.AnswerRow, "compute", compute)
    with ThreadPoolExecutor(num) as pool:
        found = list(pool.map(ask, range(num)))
    decoder = server.sessions.decoder
    assert not decoder._groups and not decoder._expected and decoder.num_bytes == 0
    return found, decoder


def test_sessions(serve, pocket, picture, png, monkeypatch):
    server = serve(answers_at_once=4)
    with ExitStack() as stack:
        there = [stack.enter_context(Client(server.address).session()) for _ in range(4)]
        alone = [StreamingSession(*pocket) for _ in range(4)]
        for number, (session, here) in enumerate(zip(there, alone, strict=True)):
            for k in range(number + 2):
                session.see(png(10 * number + k), k)
                here.see(picture(10 * number + k), k)
        expected = [here.ask("What is happening now?", max_new_tokens=12) for here in alone]
        ask = lambda number: "".join(there[number].ask("What is happening now?", max_new_tokens=12))  # noqa: E731
        found, decoder = begun_at_once(monkeypatch, server, 4, ask)
    assert found == expected and len(set(found)) > 1
    assert decoder.num_passes < decoder.num_tokens


def test_chat_completions_with_their_options(serve, data_uri, monkeypatch):
    server = serve(answers_at_once=3)
    options = [{}, {"temperature": 1.5, "seed": 7, "top_p": 0.9}, {"stop": "a"}]

    def ask(number):
        body = {"model": "pocket", "messages": [user(data_uri(number), "What is it?")], "max_tokens": 12}
        answer = json.loads(post(server, body | options[number]).text)
        return answer["choices"], number == 2 or answer["usage"]  # when a stop is noticed, others may have come

    one_by_one = [ask(number) for number in range(3)]
    found, _ = begun_at_once(monkeypatch, server, 3, ask)
    assert found == one_by_one


def test_who_leaves_ends_alone(serve, data_uri, monkeypatch):
    """A client that hangs up in the middle, beside one that listens to the end."""
    server = serve(answers_at_once=2)
    has_left = threading.Event()
    body = {"model": "pocket", "messages": [user(data_uri(1), "What is happening now?")], "max_tokens": 24}
    expected = json.loads(post(server, body).text)["choices"]

    def ask(number):
        if number == 0:
            with Client(server.address).open("POST", "/v1/chat/completions", {**body, "stream": True}) as answer:
                answer.readline()
            has_left.set()
            return None
        return json.loads(post(server, body).text)["choices"]

    found, _ = begun_at_once(monkeypatch, server, 2, ask)
    assert found[1] == expected and has_left.is_set()


def test_who_gives_way_stops_nobody_who_is_made_together_with_it():
    """A long answer waits for its place again, and says so to those that are decoded together with it."""
    turns = Turns(2, most_waiting=9, most_of_session=9, most_alone=9)
    decoder = together.SharedDecoder.__new__(together.SharedDecoder)
    decoder._changed, decoder._expected = threading.Condition(), set()
    CLIENT.set("greedy")
    mine, other = (turns.enter(name) for name in ("mine", "other"))
    for place in (mine, other):
        turns._wait(place, lambda: None)
        place.since -= 5  # it has had so much already
    CLIENT.set("polite")
    polite = turns.enter("polite")
    turns._wait(polite, lambda: None)
    row = together.AnswerRow(decoder, None, 0)
    decoder._expected.add(row)
    is_over = threading.Event()

    def answer():
        together._OF_THREAD.row = row
        mine.pause()
        is_over.set()

    thread = threading.Thread(target=answer)
    thread.start()
    with decoder._changed:
        assert decoder._changed.wait_for(lambda: row not in decoder._expected, 60)
    assert polite.state == "held" and not is_over.is_set()
    polite.release()
    thread.join(60)
    assert is_over.is_set() and row in decoder._expected
