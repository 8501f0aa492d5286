"""Answers of a language model that runs at an engine: ours, word for word; and every way in which one can fail."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stand_in_engine import StandIn, running
from videochat_online import StreamingSession, load_model
from videochat_online.cli import main
from videochat_online.model.engine import Engine, EngineError
from videochat_online.streaming.language import sampling

from .sessions import pictures, watching

QUESTIONS = ("What is happening now?", "Where is the red circle?", "What happened before that?", "How many are there?")


@pytest.fixture
def engine(pocket):
    with running(StandIn(pocket[0])) as server:
        yield server


@pytest.fixture
def at_engine(engine):
    """The model and processor of a session whose language model runs at the stand-in."""
    return load_model("pocket", device="cpu", engine=Engine(engine.address, silence=20))


def test_answers_are_ours(pocket, at_engine):
    """Frame by frame, so that frames leave their levels between the questions; whole and piece by piece."""
    here, there = StreamingSession(*pocket), StreamingSession(*at_engine)
    for number, picture in enumerate(pictures(60, seed=2)):
        for session in (here, there):
            session.see(picture, number / 2)
        if number % 6 == 5:
            question = QUESTIONS[number // 6 % len(QUESTIONS)]
            answer = here.ask(question, max_new_tokens=24)
            if number % 12 == 5:
                assert there.ask(question, max_new_tokens=24) == answer
            else:
                assert "".join(there.ask_stream(question, max_new_tokens=24)) == answer
            assert there._last_answer.ids == here._last_answer.ids
    assert [turn.answer for turn in there.turns] == [turn.answer for turn in here.turns]
    assert len({turn.answer for turn in here.turns}) > 1


def test_a_named_time_is_recalled_there_too(pocket, at_engine):
    here, there = (watching(model, 40, recall="time") for model in (pocket, at_engine))
    assert here.ask("What was it at 3.0s?", max_new_tokens=6) == there.ask("What was it at 3.0s?", max_new_tokens=6)


def test_no_layer_of_the_language_model_is_here(pocket, at_engine):
    names = [name for name, _ in at_engine[0].named_parameters()]
    assert not any(".layers." in name and name.startswith("language_model") for name in names)
    assert "language_model.lm_head.weight" not in names and "language_model.model.embed_tokens.weight" in names
    assert any(name.startswith("vision_model") for name in names) and any(name.startswith("mlp1") for name in names)
    assert at_engine[0].config.llm_config.num_hidden_layers == pocket[0].config.llm_config.num_hidden_layers


def test_what_the_engine_had_cached_is_counted(at_engine):
    session = watching(at_engine)
    session.ask("What is it?", keep=False)
    assert session.stats()["cached_tokens"] == 0 and session.stats()["time_to_first_token"] > 0
    session.ask("What was it?", keep=False)
    stats = session.stats()
    assert 0 < stats["cached_tokens"] < stats["prompt_tokens"]
    assert not session.needs_prefill and session.language.max_bytes == 0


def test_options_reach_the_engine(engine, at_engine):
    session = watching(at_engine)
    session.ask("What is it?", max_new_tokens=5, **sampling(0.7, top_p=0.9, seed=3))
    session.ask("What is it?", max_new_tokens=6, do_sample=True, temperature=0.5, top_k=4)
    session.ask("What is it?", max_new_tokens=7)
    drawn, sampled, greedy = engine.bodies
    assert (drawn["temperature"], drawn["top_p"], drawn["seed"], drawn["max_tokens"]) == (0.7, 0.9, 3, 5)
    assert (sampled["temperature"], sampled["top_k"], sampled["max_tokens"]) == (0.5, 4, 6)
    assert (greedy["temperature"], greedy["max_tokens"]) == (0, 7) and "seed" not in greedy
    assert greedy["stop_token_ids"] == at_engine[1].end_token_ids and greedy["ignore_eos"]


@pytest.mark.parametrize("option", [{"num_beams": 3}, {"no_repeat_ngram_size": 2}, {"logits_processor": []}])
def test_an_option_that_cannot_be_honoured_is_refused(engine, at_engine, option):
    session = watching(at_engine)
    with pytest.raises(ValueError, match=f"{next(iter(option))}.*(engine|language model)|engine.*{next(iter(option))}"):
        session.ask("What is it?", **option)
    assert engine.bodies == [] and session.turns == ()


FAULTS = {
    "400": ("refuses .HTTP 400.: not like this", 502),
    "500": ("refuses .HTTP 500.: not like this", 502),
    "page": ("refuses .HTTP 502.: <html>Bad", 502),
    "dies": ("broke its answer off", 502),
    "ends early": ("broke its answer off", 502),
    "fails": ("failed: EngineCore is dead", 502),
    "no json": ("cannot be spoken to", 502),
    "no ids": ("gives no ids", 502),
    "mute": ("said nothing for 0.3 s", 504),
    "stalls": ("said nothing for 0.3 s", 504),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error_and_the_session_lives(pocket, engine, fault):
    words, status = FAULTS[fault]
    session = watching(load_model("pocket", device="cpu", engine=Engine(engine.address)))
    first = session.ask("What is it?")
    engine.fault = fault
    session.model.engine.silence = 0.3 if status == 504 else 60
    for ask in (session.ask, lambda question: "".join(session.ask_stream(question))):
        with pytest.raises(EngineError, match=words) as raised:
            ask("And now?")
        assert raised.value.status == status and engine.address in str(raised.value)
    engine.fault, session.model.engine.silence = "", 60
    session.see(pictures(1, seed=9)[0], 99.0)
    here = watching(pocket)
    assert here.ask("What is it?") == first
    here.see(pictures(1, seed=9)[0], 99.0)
    assert session.ask("And now?") == here.ask("And now?")
    assert len(session.turns) == 2


def test_an_instruction_is_refused_at_an_engine(at_engine):
    session = StreamingSession(*at_engine)
    with pytest.raises(ValueError, match="standing instructions need probabilities, and an engine gives answers only"):
        session.watch_for("Is it dark?")
    assert session.standing == ()


def test_a_session_with_instructions_goes_on_at_an_engine_where_they_rest(at_engine, pocket, tmp_path, caplog):
    here, first, second = watching(pocket), tmp_path / "first.session", tmp_path / "second.session"
    here.watch_for("Is it dark?", threshold=0.001, refractory=0.0)
    here.save(first)
    there = StreamingSession.restore(*at_engine, first)
    assert f"the standing instructions in {first} need probabilities" in caplog.text
    for session in (here, there):
        session.see(pictures(1, seed=9)[0], 99.0)
    assert not there.needs_reading and there.read_standing() == 0 and there.watchlist.num_events == 0
    assert there.ask("What is it?") == here.ask("What is it?")
    there.save(second)
    again = StreamingSession.restore(*pocket, second)
    again.see(pictures(1, seed=10)[0], 100.0)
    assert [one.text for one in again.standing] == ["Is it dark?"] and again.watchlist.num_events == 1


def test_an_engine_that_is_gone_and_comes_back(pocket):
    with running(StandIn(pocket[0])) as server:
        session, port = watching(load_model("pocket", device="cpu", engine=Engine(server.address))), server.server_port
    with pytest.raises(EngineError, match=f"no engine answers at http://127.0.0.1:{port} .*export-llm") as raised:
        session.ask("What is it?")
    assert raised.value.status == 503
    with running(StandIn(pocket[0])) as again:
        session.model.engine.address = again.address
        assert session.ask("What is it?") == watching(pocket).ask("What is it?")


@pytest.mark.parametrize("fault", ["", "stalls"])
def test_leaving_an_answer_ends_the_request(engine, at_engine, fault):
    engine.fault = fault
    session = watching(at_engine)
    pieces = session.ask_stream("What is it?", max_new_tokens=200)
    said = next(pieces)
    pieces.close()
    if fault:  # else it may have been whole by then
        assert engine.left.wait(10)
    assert session.turns[-1].answer.startswith(said)
    engine.fault = ""
    assert session.ask("And now?")


def test_many_sessions_at_once_each_get_their_own(pocket, at_engine):
    alone = [watching(pocket, seed=k).ask(QUESTIONS[k % 4], max_new_tokens=8) for k in range(6)]
    sessions = [watching(at_engine, seed=k) for k in range(6)]
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(one.ask, QUESTIONS[k % 4], max_new_tokens=8) for k, one in enumerate(sessions)]
        assert [one.result() for one in asked] == alone


def test_scores_are_refused(at_engine):
    with pytest.raises(EngineError, match=r"no probabilities.*--answer generate"):
        watching(at_engine).score_options("What is it?", ["red", "blue"])


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"data": [{"id": "another", "max_model_len": 512}]}, "serves 'another', not 'videochat-llm-.*export-llm"),
        ({"data": []}, "serves nothing, not"),
        ({"data": [{"id": "gpt"}]}, "is no vLLM server"),
        ([1], "is no vLLM server"),
        ("<html>", "cannot be spoken to"),
    ],
)
def test_another_model_or_server_is_refused_at_the_start(engine, models, words):
    engine.models = models
    with pytest.raises(EngineError, match=words):
        load_model("pocket", device="cpu", engine=Engine(engine.address))


def test_the_key_goes_along(engine, at_engine, monkeypatch):
    assert engine.keys == {None}
    monkeypatch.setenv("VLLM_API_KEY", "open sesame")
    watching(at_engine, num_frames=2).ask("What is it?", max_new_tokens=2)
    assert engine.keys == {None, "Bearer open sesame"}


def test_the_shorter_of_both_lengths_counts(pocket):
    with running(StandIn(pocket[0], positions=160)) as server:
        session = watching(load_model("pocket", device="cpu", engine=Engine(server.address)), num_frames=4)
        for _ in range(12):  # turns that would outgrow it
            session.ask("What is it?", max_new_tokens=8)
        assert session.model.max_positions == 160 and session.stats()["turns_forgotten"] > 0


# ---- the commands ---------------------------------------------------------------------------------------------------


def test_chat_at_an_engine(engine, capsys):
    from videochat_online.files import SHIPPED_MODELS

    clip = str(SHIPPED_MODELS["pocket"] / "sample.mp4")
    asked = ["chat", clip, "--fps", "1", "--json", "-q", "Where is the yellow square?", "--at", "12", "-q", "And now?"]
    assert main(asked) == 0
    here = json.loads(capsys.readouterr().out)
    assert main([*asked, "--engine", "vllm", "--engine-url", engine.address]) == 0
    there = json.loads(capsys.readouterr().out)
    assert [one["answer"] for one in there["answers"]] == [one["answer"] for one in here["answers"]]
    assert len(engine.bodies) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engine-url", "http://127.0.0.1:1"], "go with --engine vllm"),
        (["--engine", "vllm", "--engine-url", "127.0.0.1:8000"], "expected an address such as"),
        (["--engine", "vllm", "--engine-url", "http://127.0.0.1:port"], "cannot be spoken to"),
        (["--engine", "vllm", "--engine-url", "http://127.0.0.1:1"], "no engine answers at http://127.0.0.1:1"),
        (
            ["--engine", "vllm", "--engine-url", "http://me:secret@127.0.0.1:1"],
            "key in VLLM_API_KEY, got '127.0.0.1:1'",
        ),
        (["--engine", "vllm", "--engine-timeout", "0"], "must lie above 0"),
        (["--engine", "vllm", "--engine-timeout", "inf"], "must lie above 0"),
        (["--engine", "vlm"], "did you mean vllm"),
    ],
)
def test_wrong_flags(flags, words, capsys):
    from videochat_online.files import SHIPPED_MODELS

    clip = str(SHIPPED_MODELS["pocket"] / "sample.mp4")
    try:
        status = main(["chat", clip, "-q", "What?", *flags])
    except SystemExit as end:
        status = end.code
    err = capsys.readouterr().err
    assert status == 2 and words in err and "Traceback" not in err and "secret" not in err
