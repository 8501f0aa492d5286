"""Ordinary mistakes are told at their place, the page stays as it is; what cannot work is switched off. Over HTTP."""

from __future__ import annotations

import pytest

from tests.demo.visitor import Visitor
from videochat_online.demo.visits import MOST_POINTS, thinned

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio")
SAMPLE = {"kind": "sample"}
QUESTION, ASK, WISH, ADD = 1, 2, 3, 4
"""Places of the fields among the outputs of an event."""


@pytest.fixture
def visitor(demo) -> Visitor:
    return Visitor(demo.address)


def test_questions_that_cannot_be_answered(visitor, demo):
    ask = visitor.find("vco-question", "submit")
    assert "start a stream first" in visitor.fault(ask, "What?")
    visitor.act("watch", request=SAMPLE)
    for question in ("", "   ", None):
        assert visitor.fault(ask, question) == "Type a question first."
    assert "may have 4000 characters" in visitor.fault(ask, "x" * 5000)
    (session,) = demo.sessions._sessions.values()
    assert len(session.track.turns) == 0


@pytest.mark.parametrize("seed", [-5, 2**50])
def test_a_bad_seed(visitor, seed):
    world = visitor.find("vco-world", "click")
    assert "a seed must be from 0" in visitor.fault(world, seed, 2)
    said = visitor.do(world, 7, 3)
    assert said["source"] == "ShapeWorld, seed 7, level 3" and said["live"] is False
    seen = {
        visitor.do(world, None, 2)["source"],
        visitor.act("watch", request={"kind": "shapeworld"}, is_new=True)["source"],
    }
    assert len(seen) == 2, "an empty box is a world that nobody has seen"


def test_a_refused_upload_leaves_the_dialogue(visitor, demo, clips, tmp_path):
    (tmp_path / "letter.txt").write_text("no video")
    (tmp_path / "bad.mp4").write_bytes(b"")
    for path in (tmp_path / "letter.txt", tmp_path / "bad.mp4", clips.bad):
        said = visitor.fault("upload", file=visitor.upload(path))
        assert said.startswith(f"{path.name}: is") and "expected a video" in said
    assert not [path for path in demo.sessions.files.path.rglob("*") if path.is_file()]


def test_addresses_settings_and_a_stream_that_is_not_there(visitor):
    assert "expected an address such as" in visitor.fault(visitor.find("vco-connect", "click"), "ftp://example.org/a")
    settings = [2, "many", "pyramid", False, "", 24]
    assert "are written as 2/2/12" in visitor.fault(visitor.find("vco-apply", "click"), *settings)
    for action in ("play", "pause", "stop"):
        assert "start a stream first" in visitor.fault("control", action=action)
    for name, what in (("moment", {"turn": 0}), ("rule", {"key": "s1"}), ("drop", {"key": "s1"})):
        assert "start a stream first" in visitor.fault(name, **what)
    assert "start a stream first" in visitor.fault(visitor.find("vco-add", "click"), "it rains")


def test_values_of_other_types_are_mistakes_too(visitor, demo):
    """No page makes them."""
    events = [event for event in visitor.events if event["inputs"] and event["backend_fn"]]
    assert len(events) >= 5
    for event in events:
        for wrong in ({"a": 1}, [[1]], 0.5):
            visitor.do(event, *[wrong] * len(event["inputs"]))
    for name in ("watch", "upload", "camera", "control", "moment", "rule", "drop", "resume"):
        for what in ({}, {"x": 1}, {"request": 3, "file": "x", "frame": [], "key": 4, "action": "fly", "turn": "x"}):
            assert visitor.fault(name, **what)
    assert "no action 'visits'" in visitor.fault("visits")
    feed = visitor.find("vco-feed", "act")
    for wrong in (None, [], "words", {"do": ["watch"]}):
        assert set(visitor.do(feed, event_data=wrong)) == {"fault"}
    world = visitor.find("vco-world", "click")
    assert visitor.fault(world, "x", 2) == "1: Input should be a valid number, unable to parse string as a number"
    assert len(demo.sessions) == 0


def test_what_cannot_work_is_switched_off(visitor):
    props = {part["props"].get("elem_id"): part["props"] for part in visitor.config["components"]}
    assert not any(props[f"vco-{name}"]["interactive"] for name in ("question", "ask", "wish", "add"))
    visitor.act("watch", request=SAMPLE)
    assert all(visitor.values[place]["interactive"] for place in (QUESTION, ASK, WISH, ADD))
    assert visitor.act("control", action="pause")["state"] == "paused"
    assert visitor.act("control", action="stop")["state"] == "over"
    assert visitor.act("control", action="play")["state"] in ("waiting", "playing")


def test_instructions_and_their_rules(visitor, demo):
    visitor.act("watch", request=SAMPLE)
    add = visitor.find("vco-wish", "submit")
    (wish,) = visitor.do(add, "  two shapes touch. ")["wishes"]
    assert visitor.values[WISH]["value"] == "" and wish["text"] == "two shapes touch"
    (session,) = demo.sessions._sessions.values()
    (standing,) = session.session.standing
    assert standing.question == "Is it so now that two shapes touch?"
    assert "stands already" in visitor.fault(add, "two shapes touch.")
    assert visitor.fault(add, " ") == "Say what to look out for first."
    key = wish["key"]
    (wish,) = visitor.act("rule", key=key, threshold=0.9, once=True, paused=True)["wishes"]
    assert (wish["threshold"], wish["once"], wish["paused"]) == (0.9, True, True)
    assert not standing.is_unread(99)
    (wish,) = visitor.act("rule", key=key, paused=False)["wishes"]
    assert (wish["threshold"], wish["paused"]) == (0.9, False) and standing.is_unread(99)
    for wrong in (0, 1, -1, 2, float("nan")):
        visitor.fault("rule", key=key, threshold=wrong)
    assert "does not stand any more" in visitor.fault("rule", key="s9")
    assert visitor.act("drop", key=key)["wishes"] == []
    assert "no instruction" in visitor.fault("drop", key=key)
    for whole in ("Warn me if it rains", "Is the door open?"):
        visitor.do(add, whole)
    assert [one.text for one in session.session.standing] == ["Warn me if it rains", "Is the door open?"]


def test_a_curve_is_thinned_in_place():
    """Peaks stay, and what was shown once does not move while the stream goes on."""
    curve = [(k / 2, 0.9 if k == 333 else 0.1 + k / 10000) for k in range(600)]
    whole, part = thinned(curve), thinned(curve[:590])
    assert len(whole) <= MOST_POINTS + 2 and (166.5, 0.9) in whole and whole[-1] == (299.5, 0.16)
    assert whole == sorted(whole) and whole[: len(part) - 2] == part[:-2]
    assert thinned([]) == [] and thinned(curve[:3]) == [(0.0, 0.1), (0.5, 0.1), (1.0, 0.1)]
