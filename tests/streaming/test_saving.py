"""Sessions in files: what is saved continues alike, and a file that is not a session is refused."""

from __future__ import annotations

import re
from inspect import signature

import pytest
from safetensors.torch import save_file

from videochat_online import MemoryConfig, StreamingSession, load_model
from videochat_online.streaming.state import read_session, write_session

from .sessions import pictures, watching


def test_save_and_restore_go_on_alike(pocket, tmp_path):
    session = watching(pocket, 25, timestamps=False, system_prompt="Look closely.")
    session.ask("What now?", max_new_tokens=6)
    session.save(tmp_path / "one.session")
    restored = StreamingSession.restore(*pocket, tmp_path / "one.session")
    for each in (session, restored):
        each.see_many(pictures(9, 3), [20.0 + k for k in range(9)])
    assert restored.turns == session.turns
    assert restored.ask("And then?", max_new_tokens=10) == session.ask("And then?", max_new_tokens=10)
    kept = ("frames_seen", "frames_held", "tokens", "bytes", "last_timestamp", "questions")
    assert {key: restored.stats()[key] for key in kept} == {key: session.stats()[key] for key in kept}


def test_a_session_goes_on_in_another_precision(pocket, tmp_path):
    watching(pocket, 20).save(tmp_path / "one.session")
    restored = StreamingSession.restore(*load_model("pocket", device="cpu", dtype="bfloat16"), tmp_path / "one.session")
    restored.see_many(pictures(9, 3), [20.0 + k for k in range(9)])
    assert restored.stats()["frames_seen"] == 29 and isinstance(restored.ask("And then?", max_new_tokens=2), str)


def test_a_session_that_cannot_be_written(pocket, tmp_path):
    with pytest.raises(ValueError, match=r"the session cannot be written to .*nowhere.one\.session"):
        watching(pocket, 2).save(tmp_path / "nowhere" / "one.session")


def test_a_file_that_is_no_session(pocket, tmp_path, golden):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="is not a session"):
        StreamingSession.restore(*pocket, tmp_path / "text")
    with pytest.raises(ValueError, match="is not a session"):
        StreamingSession.restore(*pocket, tmp_path / "missing")
    with pytest.raises(ValueError, match="expected format"):
        StreamingSession.restore(*pocket, golden / "frames40.safetensors")


def test_a_header_that_was_changed_is_one_clear_error(pocket, tmp_path):
    session = watching(pocket, 20, recall="time")
    session.ask("What now?", max_new_tokens=2)
    session.watch_for("Tell me when it rains.", threshold=0.01)
    session.see_many(pictures(1, 3), [20.0])
    session.save(tmp_path / "one")
    about, tensors = read_session(tmp_path / "one")
    turn, (standing,) = about["turns"][0], about["watchlist"]["standing"]
    assert standing["last"] and about["watchlist"]["events"]
    changes = [
        *({"picture_size": size} for size in (True, "64", [64], [0, 64], [64.0, 64.0], ["a", "b"], {"a": 1}, [])),
        *({"recall": recall} for recall in (["time"], True, "tim", {}, 1.5)),
        *({name: ["x"]} for name in about if name not in ("format", "picture_size", "recall", "turns")),
        *({name: None} for name in ("memory", "turns", "watchlist", "num_skipped", "encode_seconds")),
        *({"turns": [{**turn, name: ["x"]}]} for name in turn),
        {"turns": [{"question": "x"}]},
        {"turns": [3]},
        *({"watchlist": {**about["watchlist"], "standing": [{**standing, name: ["x"]}]}}
          for name in standing.keys() - {"readouts", "readout"}),
        {"watchlist": {**about["watchlist"], "standing": [{**standing, "rule": {**standing["rule"], "once": None}}]}},
        {"watchlist": {**about["watchlist"], "events": [{"id": 1}]}},
        {"watchlist": {**about["watchlist"], "num_given": "x"}},
        *({"encode_seconds": seconds} for seconds in (float("nan"), 10**400)),
        {"system_prompt": "\ud800"},
    ]  # fmt: skip
    for change in changes:
        write_session(tmp_path / "two", tensors, {**about, **change})
        with pytest.raises(ValueError) as refused:
            StreamingSession.restore(*pocket, tmp_path / "two")
        assert next(iter(change)) in str(refused.value), change
        assert re.search("must be|it has no (turns|watchlist)", str(refused.value)), refused.value
    for header in ("no json", "3", "[]", "null", "[" * 100_000):
        save_file(tensors, tmp_path / "two", metadata={"session": header})
        with pytest.raises(ValueError, match="is not a session written by"):
            StreamingSession.restore(*pocket, tmp_path / "two")


@pytest.mark.parametrize("capacity", [10**12, 10**18, 10**30])
def test_a_memory_that_no_machine_holds_is_one_clear_error(pocket, tmp_path, capacity):
    watching(pocket, 20).save(tmp_path / "one")
    about, tensors = read_session(tmp_path / "one")
    about["memory"]["levels"][2]["capacity"] = capacity
    write_session(tmp_path / "two", tensors, about)
    with pytest.raises(ValueError, match=rf"^memory\.levels\[2\]\.capacity is {capacity}: there is no room"):
        StreamingSession.restore(*pocket, tmp_path / "two")


def test_every_option_is_saved(pocket, tmp_path):
    options = {
        "memory": MemoryConfig.pyramid(capacities=(1, 2, 3), grids=(4, 2, 1), cascade=True), "timestamps": False,
        "system_prompt": "Be short.", "encode_batch_size": 3, "skip_below": 1.5, "reuse_cache": False,
        "max_cache_bytes": 10**6, "max_prompt_tokens": 300, "recall": "time",
    }  # fmt: skip
    known = {name: value.default for name, value in signature(StreamingSession).parameters.items()}
    assert options.keys() == known.keys() - {"model", "processor", "encoder", "decoder"}
    assert not {name for name in options if options[name] == known[name]}
    StreamingSession(*pocket, **options).save(tmp_path / "one.session")
    restored = StreamingSession.restore(*pocket, tmp_path / "one.session")
    assert restored.memory.config == options.pop("memory")
    assert {name: getattr(restored, name) for name in options} == options


def test_an_older_file_without_an_option_gives_its_default(pocket, tmp_path):
    session = StreamingSession(*pocket, max_prompt_tokens=300)
    session.watch_for("Tell me when it rains.")
    session.save(tmp_path / "new")
    about, tensors = read_session(tmp_path / "new")
    assert about.pop("max_prompt_tokens") == 300
    (standing,) = about["watchlist"]["standing"]
    assert not standing.pop("is_paused") and standing.pop("webhook") is None
    write_session(tmp_path / "old", tensors, about)
    restored = StreamingSession.restore(*pocket, tmp_path / "old")
    assert restored.max_prompt_tokens is None and not restored.standing[0].is_paused


def test_an_unknown_option_is_refused(pocket):
    with pytest.raises(TypeError, match="max_prompt_token"):
        StreamingSession(*pocket, max_prompt_token=300)
