"""A server whose language model runs at an engine: answers, statuses of its faults, and sessions that live on."""

from __future__ import annotations

import json

import pytest

from tests.stand_in_engine import StandIn, running
from videochat_online import StreamingSession, load_model
from videochat_online.model.engine import Engine
from videochat_online.serve.client import Client, ServerError
from videochat_online.streaming.together import SharedDecoder

from .test_completions import post, user


@pytest.fixture
def engine(pocket):
    with running(StandIn(pocket[0])) as server:
        yield server


@pytest.fixture
def there(serve, engine, monkeypatch):
    """A server at the engine."""
    model, processor = load_model("pocket", device="cpu", engine=Engine(engine.address))
    server = serve()
    for name, value in (("model", model), ("processor", processor)):
        monkeypatch.setattr(server.sessions, name, value)
    monkeypatch.setattr(server.sessions, "decoder", SharedDecoder(model))
    return server


def asked(server, **options):
    return post(server, {"model": "pocket", "messages": [user("What is happening?")], "max_tokens": 8, **options})


def test_chat_completions_are_those_of_a_server_without_engine(serve, there, engine):
    here = json.loads(asked(serve()).text)
    answer = json.loads(asked(there).text)
    assert answer["choices"] == here["choices"] and answer["usage"]["prompt_tokens"] == here["usage"]["prompt_tokens"]
    assert len(engine.bodies) == 1
    asked(there, temperature=0.5, top_p=0.8, seed=7)
    sent = engine.bodies[-1]
    assert (sent["temperature"], sent["top_p"], sent["seed"], sent["max_tokens"]) == (0.5, 0.8, 7, 8)


def test_a_stop_text_ends_it(there):
    text = json.loads(asked(there).text)["choices"][0]["message"]["content"]
    stop = text.split()[-1]
    assert json.loads(asked(there, stop=stop).text)["choices"][0]["message"]["content"] == text[: text.find(stop)]


@pytest.mark.parametrize(("fault", "status"), [("500", 502), ("400", 502), ("dies", 502), ("mute", 504)])
def test_a_fault_has_its_status_and_the_session_lives(there, engine, pocket, picture, png, fault, status):
    here = StreamingSession(*pocket)
    here.see(picture(1), 1.0)
    with Client(there.address).session() as session:
        session.see(png(1), 1.0)
        assert "".join(session.ask("What is it?", max_new_tokens=8)) == here.ask("What is it?", max_new_tokens=8)
        engine.fault = fault
        there.sessions.model.engine.silence = 0.4 if status == 504 else 60
        answer = asked(there)
        error = json.loads(answer.text)["error"]
        assert answer.status == status and error["type"] == "server_error" and engine.address in error["message"]
        streamed = asked(there, stream=True)
        assert streamed.status == 200 and '"server_error"' in streamed.text and "[DONE]" in streamed.text
        with pytest.raises(ServerError, match="the engine at"):
            list(session.ask("And now?"))
        engine.fault, there.sessions.model.engine.silence = "", 60
        assert "".join(session.ask("And now?", max_new_tokens=8)) == here.ask("And now?", max_new_tokens=8)
        assert session.state()["stats"]["questions"] == 2


def test_a_standing_instruction_is_refused_at_once_and_the_server_goes_on(serve, there, png):
    with Client(there.address).session() as session:
        session.see(png(1), 1.0)
        path = f"/v1/sessions/{session.key}/standing"
        answer = post(there, {"text": "Tell me when a square appears"}, path)
        assert answer.status == 400 and "an engine gives" in json.loads(answer.text)["error"]["message"]
        session.see(png(2), 2.0)
        assert there.sessions._idle._error is None and there.sessions.all()[0].session.standing == ()
        assert "".join(session.ask("And now?", max_new_tokens=8))
