"""Ordinary mistakes are notices: the page stays as it is, and what cannot work now is switched off. Over HTTP."""

from __future__ import annotations

import pytest

from tests.demo.visitor import Visitor
from videochat_online.demo.view import possible

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio")
PLAY, PAUSE, STOP = -3, -2, -1


@pytest.fixture
def visitor(demo) -> Visitor:
    return Visitor(demo.address)


def mistake(visitor: Visitor, event: dict, *data) -> str:
    """The one notice about an event that changes nothing on the page."""
    values, notices = visitor.do(event, *data)
    for value in values:  # an update that changes nothing
        assert value["__type__"] == "update" and set(value) <= {"__type__", "props"}, values
    assert len(notices) == 1
    return notices[0]


def test_questions_that_cannot_be_answered(visitor, demo):
    ask = visitor.find("vco-ask", "click")
    assert "start a stream first" in mistake(visitor, ask, "What?")
    visitor.do(visitor.find("Watch the sample", "click"), "shapes")
    for question in ("", "   "):
        assert "not empty" in mistake(visitor, ask, question)
    assert "may have 4000 characters" in mistake(visitor, ask, "x" * 5000)
    (session,) = demo.sessions._sessions.values()
    assert len(session.track.turns) == 0


@pytest.mark.parametrize("seed", [-5, 2**50, -0.7])
def test_a_bad_seed(visitor, seed):
    world = visitor.find("Watch a generated world", "click")
    assert "a seed must be from 0" in mistake(visitor, world, seed, 2)
    assert visitor.do(world, None, 2)[1] == [], "an empty box is seed 0"


def test_a_refused_upload_leaves_the_drop_zone_and_the_dialogue(visitor, demo, clips, tmp_path):
    upload = visitor.find("vco-upload", "upload")
    (tmp_path / "letter.txt").write_text("no video")
    (tmp_path / "bad.mp4").write_bytes(b"")
    for path in (tmp_path / "letter.txt", tmp_path / "bad.mp4", clips.bad):
        said = mistake(visitor, upload, visitor.upload(path))
        assert said.startswith(f"{path.name}: is") and "expected a video" in said
    assert "<" not in mistake(visitor, upload, visitor.upload(clips.bad, "<img src=x>.mp4"))
    after = next(event for event in visitor.events if event["trigger_after"] == upload["id"])
    assert visitor.do(after)[0] == [None] and after["outputs"] == upload["inputs"]
    assert not after["trigger_only_on_success"]
    assert not [path for path in demo.sessions.files.path.rglob("*") if path.is_file()]


def test_addresses_settings_and_a_stream_that_is_not_there(visitor):
    assert "expected an address such as" in mistake(visitor, visitor.find("Connect", "click"), "ftp://example.org/a")
    settings = [2, "many", "pyramid", False, "", 24]
    apply = visitor.find("Apply (the stream restarts)", "click")
    assert "are written as 2/2/12" in mistake(visitor, apply, *settings)
    for button in ("play", "pause", "stop"):
        assert "start a stream first" in mistake(visitor, visitor.find(f"vco-{button}", "click"), -1)


def test_values_of_other_types_are_mistakes_too(visitor, demo):
    """No page makes them. What describes a file is read by gradio itself, and is left out here."""
    files = [visitor.find(*name)["id"] for name in (("vco-upload", "upload"), ("vco-camera", "stream"))]
    events = [event for event in visitor.events if event["inputs"] and event["backend_fn"] and event["id"] not in files]
    assert len(events) > 12
    for event in events:
        for wrong in ({"a": 1}, [[1]], "words", 0.5):
            visitor.do(event, *[wrong] * len(event["inputs"]))
    world = visitor.find("Watch a generated world", "click")
    assert mistake(visitor, world, "x", 2) == "1: Input should be a valid number, unable to parse string as a number"
    assert len(demo.sessions) == 0


def test_what_cannot_work_is_switched_off(visitor):
    props = {part["props"].get("elem_id"): part["props"] for part in visitor.config["components"]}
    assert not any(props[f"vco-{name}"]["interactive"] for name in ("play", "pause", "stop", "ask"))
    values, _ = visitor.do(visitor.find("Watch the sample", "click"), "shapes")
    assert [values[place]["interactive"] for place in (PLAY, PAUSE, STOP)] == [False, True, True]
    values, _ = visitor.do(visitor.find("vco-pause", "click"), -1)
    assert [values[place]["interactive"] for place in (PLAY, PAUSE, STOP)] == [True, False, True]
    values, _ = visitor.do(visitor.find("vco-stop", "click"), -1)
    assert [values[place]["interactive"] for place in (PLAY, PAUSE, STOP)] == [True, False, False]


def test_what_is_possible():
    assert possible(None) == possible({"state": "none", "speed": None}) == (False, False, False)
    assert possible({"state": "playing", "speed": None}) == (False, False, True), "a camera cannot be paused"
    assert possible({"state": "reconnecting", "speed": None}) == (False, False, True)
    assert possible({"state": "over", "speed": None}) == (True, False, False)
