"""Sessions in files: what is saved goes on alike, and what is no session is refused."""

from __future__ import annotations

import pytest

from videochat_online import StreamingSession, load_model

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
