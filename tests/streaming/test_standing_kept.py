"""What a session keeps of its standing instructions, and which it refuses."""

from __future__ import annotations

import pytest

from tests.streaming.test_standing import SMALL
from videochat_online import StreamingSession
from videochat_online.streaming.standing import MOST_CHARACTERS, MOST_STANDING

from .sessions import pictures, watching
from .test_cache import tiny  # noqa: F401 (a fixture)


def rounded(value):
    """(The cache began empty again: the last bits differ.)"""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def test_a_restored_session_goes_on_with_its_instructions(pocket, tmp_path):
    session = StreamingSession(*pocket, memory=SMALL)
    session.watch_for("Is it dark?", threshold=0.001, refractory=4.5, quiet_hours="1:00-2:00")
    session.drop_standing(session.watch_for("Gone?").key)
    session.watch_for("Is it red?", question="Is there a ring?", expect="No", threshold=0.3, once=True)
    session.see_many(pictures(7), list(range(7)))
    session.save(tmp_path / "one.session")
    restored = StreamingSession.restore(*pocket, tmp_path / "one.session")
    for each in (session, restored):
        each.see_many(pictures(7, 1), list(range(7, 14)))
        each.watch_for("New?")
    ours, theirs = (rounded(each.watchlist.state_dict()) for each in (session, restored))
    assert ours == theirs
    assert [event.id for event in restored.watchlist.events] == list(range(1, len(restored.watchlist.events) + 1))
    assert len(restored.watchlist.events) > 1


def test_a_moment_saved_before_its_words_is_not_lost(pocket, tmp_path):
    session = watching(pocket, 3)
    session.watch_for("Is it dark?", threshold=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_say_what_is_due", lambda: True)  # as where a question holds it up
        session.read_standing()
    session.save(tmp_path / "one.session")
    (event,) = StreamingSession.restore(*pocket, tmp_path / "one.session").watchlist.events
    assert (event.id, event.time, event.text) == (1, 1.0, "") and not session.watchlist.events


def test_a_reset_forgets_instructions(pocket):
    session = watching(pocket, 3)
    session.watch_for("Is it dark?")
    session.reset()
    assert session.standing == () and not session.needs_reading and session.read_standing() == 0


BAD = {
    "empty": (["  "], {}, "an instruction must be a text that is not empty, got '  '"),
    "no text": ([None], {}, "an instruction must be a text that is not empty, got None"),
    "not Unicode": (["\ud800"], {}, "an instruction holds text that is not Unicode"),
    "too long": (["x" * (MOST_CHARACTERS + 1)], {}, "an instruction may have 500 characters, got 501"),
    "empty question": (["x"], {"question": ""}, "the question of an instruction must be a text that is not empty"),
    "threshold 0": (["x"], {"threshold": 0}, "the threshold must be a probability between 0 and 1, got 0"),
    "threshold 1": (["x"], {"threshold": 1.0}, "the threshold must be a probability between 0 and 1, got 1.0"),
    "threshold nan": (["x"], {"threshold": float("nan")}, "the threshold must be .*, got nan"),
    "threshold text": (["x"], {"threshold": "0.5"}, "the threshold must be .*, got '0.5'"),
    "refractory": (["x"], {"refractory": -1}, "the refractory must be seconds >= 0, got -1"),
    "once": (["x"], {"once": 1}, "once must be true or false, got 1"),
    "hours": (["x"], {"quiet_hours": "25:00-7:00"}, "quiet hours are two different times .*, got '25:00-7:00'"),
    "no hours": (["x"], {"quiet_hours": "7:00-7:00"}, "quiet hours are two different times"),
    "expect": (["x"], {"expect": "Maybe"}, "an instruction expects the answer 'Yes' or 'No', got 'Maybe'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_followed_is_refused(pocket, name):
    session = StreamingSession(*pocket)
    words, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        session.watch_for(*words, **options)
    assert session.standing == ()


def test_too_many_twice_and_unknown(pocket):
    session = StreamingSession(*pocket)
    for number in range(MOST_STANDING):
        session.watch_for(f"Is it {number}?")
    with pytest.raises(ValueError, match="16 instructions may stand at a time: remove one first"):
        session.watch_for("One more?")
    with pytest.raises(ValueError, match="the instruction 'Is it 3\\?' stands already"):
        session.watch_for(" Is it 3? ")
    with pytest.raises(ValueError, match="no instruction 's99' stands here; those that do: s1, s2"):
        session.drop_standing("s99")
    assert session.drop_standing("s4").text == "Is it 3?" and len(session.standing) == MOST_STANDING - 1
    with pytest.raises(ValueError, match="no instruction 's4' stands"):
        session.drop_standing("s4")


def test_a_prompt_without_room_is_said_once(pocket, caplog):
    session = StreamingSession(*pocket, max_prompt_tokens=60)
    session.watch_for("Is it dark?", threshold=0.001)
    session.see_many(pictures(6), list(range(6)))
    assert len([r for r in caplog.records if "standing instructions cannot be read out" in r.message]) == 1
    assert not session.needs_reading


def test_a_moment_without_room_for_words_is_an_event_all_the_same(pocket, caplog):
    session = StreamingSession(*pocket, max_prompt_tokens=90)
    session.watch_for("Is it dark?", threshold=0.001)
    session.see(pictures(1)[0], 0.0)
    assert [(event.time, event.text) for event in session.watchlist.events] == [(0.0, "")]
    assert "no words for 'Is it dark?' at 0.0 s" in caplog.text
