"""The page as visitors use it, in headless Chromium."""

from __future__ import annotations

import re
import threading

import pytest

from tests.demo.steps import (
    ask,
    frames,
    holds,
    is_answered,
    is_in_state,
    names,
    tell,
    until,
    upload,
    watch_sample,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:gradio")]


def the_session(demo):
    (session,) = demo.sessions._sessions.values()
    return session


def test_pause_play_seek_speed_stop_and_start_again(demo, visit, clips):
    page = visit()
    upload(page, clips.one)
    is_in_state(page, "playing")
    page.get_by_role("button", name="Pause").click()
    is_in_state(page, "paused")
    page.get_by_role("button", name="Play", exact=True).click()
    is_in_state(page, "playing")
    seek = page.get_by_role("slider", name="Position in the video")
    seek.focus()
    for key in ("PageUp", "ArrowRight"):  # the keyboard is enough: eleven seconds on
        page.keyboard.press(key)
    until(page, 11)
    page.wait_for_function("Number(document.querySelector('#v-seek').value) >= 11")  # the slider follows
    assert page.evaluate("document.activeElement.id") == "v-seek", "and keeps the focus"
    before = float(seek.input_value())
    page.wait_for_function("before => Number(document.querySelector('#v-seek').value) > before", arg=before)
    page.get_by_role("button", name="Pause").click()  # so that it cannot end meanwhile
    is_in_state(page, "paused")
    page.get_by_role("button", name="Speed, 1 times").click()
    page.get_by_role("button", name="Speed, 2 times").wait_for()
    page.get_by_role("button", name="Stop").click()
    is_in_state(page, "over")
    assert page.get_by_role("button", name="Stop").is_disabled() and seek.is_enabled()
    page.get_by_role("button", name="Play", exact=True).click()
    is_in_state(page, "playing")
    page.wait_for_function("vcoPage.state().position < 11")


def test_endless_shapes_are_stopped_and_started(demo, visit):
    page = visit()
    page.get_by_role("button", name="Endless shapes").click()
    names(page, "ShapeWorld")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Endless shapes: seed").fill("7")
    page.get_by_role("button", name="Watch endless shapes").click()
    names(page, "ShapeWorld, seed 7, level 2")
    page.locator("#v-truth", has_text="What is to be seen").wait_for()
    ask(page, "What do you see?")
    assert is_answered(page, 1)
    page.get_by_role("button", name="Stop").click()
    is_in_state(page, "over")
    ask(page, "And before?")  # it is still remembered
    assert is_answered(page, 2)
    page.get_by_role("button", name="Play", exact=True).click()
    is_in_state(page, "playing")
    page.wait_for_function("vcoPage.state().talk.length === 0")  # restarted: so has the dialogue
    assert page.locator(".v-you").count() == 0
    holds(page, 2)


def test_questions_during_an_answer(demo, visit):
    page = visit()
    watch_sample(page)
    wanted = ("What is happening now?", "What may happen next?", "Where is the object now?")
    for text in wanted:
        page.get_by_role("button", name=text).click()
    is_answered(page, 3)
    asked = [re.sub(r"^[\d:.]+\s*", "", text) for text in page.locator(".v-you").all_inner_texts()]
    assert asked == [turn.question for turn in the_session(demo).track.turns]
    assert sorted(asked) == sorted(wanted)


class Slow:
    """An answer whose second piece waits for `goes_on`."""

    goes_on = threading.Event()

    def __init__(self, pieces):
        self.pieces, self.question, self.num = pieces, pieces.question, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.num += 1
        if self.num == 2:
            self.goes_on.wait(30)
        return next(self.pieces)

    def close(self):
        self.pieces.close()


@pytest.fixture
def slow(monkeypatch):
    """slow(session): its answers wait from now on, until the event that is returned is set."""

    def slow_down(session):
        real, event = session.session.ask_stream, threading.Event()
        monkeypatch.setattr(Slow, "goes_on", event)
        monkeypatch.setattr(session.session, "ask_stream", lambda *a, **k: Slow(real(*a, **k)))
        return event

    return slow_down


def test_an_answer_is_cancelled(demo, visit, slow):
    """The answer stands where it was broken off, and the button asks again."""
    page = visit()
    watch_sample(page)
    session = the_session(demo)
    goes_on = slow(session)
    page.get_by_label("Your question").fill("What is happening now?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_function("vcoPage.state().talk?.length === 1")
    goes_on.set()
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    is_answered(page, 1)
    assert session.track.turns[0].is_done


def test_a_reload_in_the_middle_of_an_answer(demo, visit, slow):
    """The question and what was said are there again, it ends, and the next one is answered."""
    page = visit()
    watch_sample(page)
    goes_on = slow(the_session(demo))
    page.get_by_label("Your question").fill("What is happening now?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_function("vcoPage.state().talk?.length === 1")
    page.reload(wait_until="domcontentloaded")
    page.locator(".v-you", has_text="What is happening now?").wait_for()
    goes_on.set()
    is_answered(page, 1)
    ask(page, "And now?")
    assert is_answered(page, 2)


def test_several_pages_of_one_browser(demo, visit):
    """A browser keeps six connections to a server, whatever the number of its pages."""
    first = visit()
    pages = [first, *(first.context.new_page() for _ in range(2))]
    for page in pages[1:]:
        page.goto(demo.address, wait_until="domcontentloaded")
    for page in pages:
        watch_sample(page)
    for page in pages:
        holds(page, 3)
    assert len(demo.sessions) == 3, "each page has its own"


def test_a_camera(demo, visit):
    page = visit()
    page.get_by_role("button", name="Your camera").click()
    names(page, "Your camera")
    holds(page, 3)
    assert page.locator("video").count() == 0, "one preview: what the model sees"
    ask(page, "What do you see?")
    assert is_answered(page, 1)
    session = the_session(demo)
    assert session.state()["stats"]["frames_seen"] >= 3
    assert session.latest().image.shape[2] == 3 and session.latest().image.std() > 5
    assert page.get_by_role("button", name="Pause").is_disabled()
    assert page.get_by_role("slider", name="Position in the video").is_disabled()
    kept = [path for path in demo.uploads.rglob("*") if path.is_file()]
    assert len(kept) < 3, "a camera's frames do not fill the disk"
    page.get_by_role("button", name="Stop").click()
    is_in_state(page, "over")
    assert not page.locator("#v-lost .v-alert").count()
    page.get_by_role("button", name="Change video").click()
    watch_sample(page)
    names(page, "Sample: shapes")
    page.wait_for_function("vcoPage.state().seen >= 4")
    assert session.state()["source"] == "sample: shapes"
    assert page.locator(".v-you").count() == 0


def test_two_visitors_with_different_videos(demo, visit, clips):
    one, two = visit(), visit()
    upload(one, clips.one)
    upload(two, clips.two)
    for page, name in ((one, "One.mp4"), (two, "Two.mp4")):
        names(page, name)
        holds(page, 2)
    ask(one, "Who is first?")
    ask(two, "Who is second?")
    assert is_answered(one, 1) and is_answered(two, 1)
    assert "Who is second?" not in one.locator("#v-log").inner_text()
    assert "Who is first?" not in two.locator("#v-log").inner_text()
    shapes = {s.state()["source"]: s.latest().image.shape for s in demo.sessions._sessions.values()}
    assert shapes == {"one.mp4": (48, 64, 3), "two.mp4": (64, 96, 3)}
    for page in (one, two):  # every picture in sight is one of the visitor's own session
        sources = page.locator(".v-held img").evaluate_all("all => all.map(e => e.getAttribute('src'))")
        assert len({source.split("/")[1] for source in sources}) == 1


def test_told_unasked(demo, visit):
    """An instruction speaks: notice, dialogue, moment on the curve; what was in memory then; its threshold moves."""
    page = visit()
    watch_sample(page)
    tell(page, "the yellow square is at the top")
    page.locator("#v-toast b").wait_for()
    page.locator(".v-unasked", has_text="You said: tell me when the yellow square is at the top").wait_for()
    page.locator(".v-fired").wait_for()
    session = the_session(demo)
    (event, *_) = session.session.watchlist.events
    page.locator("#v-toast").get_by_role("button", name="Show").click()
    page.locator("#v-then", has_text="when it said").wait_for()
    then = session.track.moments[event.id]
    assert frames(page) == len(then) and max(one.timestamp for one in then) <= event.time
    page.get_by_role("button", name="Back to now").click()
    page.get_by_role("button", name="Speak less often").first.click()
    page.locator(".v-wish", has_text="above 55 %").wait_for()
    limit = page.get_by_role("slider", name="Speak above")
    limit.focus()
    page.keyboard.press("ArrowUp")
    page.locator(".v-wish", has_text="above 56 %").wait_for()
    assert session.session.standing[0].rule.threshold == pytest.approx(0.56)
    assert page.evaluate("document.activeElement.className") == "v-limit"
    for choice, words in (("Pause", "paused"), ("Go on", "above 56 %"), ("Only once", "only once")):
        page.get_by_role("button", name=re.compile("^More for")).click()
        page.locator(".v-menu").get_by_text(choice).click()
        page.locator(".v-wish", has_text=words).wait_for()
    page.get_by_role("button", name=re.compile("^More for")).click()
    page.get_by_role("menuitem", name="Remove").click()
    page.locator(".v-ideas").wait_for()
    page.locator(".v-ideas button").first.click()
    page.locator(".v-wish b").wait_for()


def test_it_is_found_again_after_a_reload(demo, visit):
    page = visit()
    watch_sample(page)
    tell(page, "two shapes touch")
    ask(page, "What is happening now?")
    said = is_answered(page, 1)
    session = the_session(demo)
    page.reload(wait_until="domcontentloaded")
    page.get_by_text("Your video and dialogue are still here.").wait_for()
    assert page.locator(".v-says").first.inner_text() == said
    page.locator(".v-wish b", has_text="two shapes touch").wait_for()
    assert the_session(demo) is session
    ask(page, "And now?")
    is_answered(page, 2)
    other = page.context.new_page()  # another tab of the same browser is another visitor
    other.goto(demo.address, wait_until="domcontentloaded")
    other.locator(".v-go:enabled").wait_for()
    other.wait_for_function("vcoPage.state().id === null")
    assert other.locator(".v-first").count() == 1


def test_settings_and_export(demo, visit, tmp_path):
    page = visit()
    watch_sample(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Frames each level holds, finest first").fill("many")
    page.get_by_role("button", name=re.compile("^Apply")).click()
    page.locator("#v-settings-wrong", has_text="are written as 2/2/12").wait_for()
    page.get_by_label("Frames each level holds, finest first").fill("1/1/4")
    page.get_by_role("button", name=re.compile("^Apply")).click()
    page.locator("#v-lanes", has_text=re.compile("[0-4] of 4")).wait_for()
    holds(page, 2)
    page.get_by_role("button", name="What may happen next?").click()  # an example question
    assert is_answered(page, 1)
    for kind, name in (("json", "Dialogue as json"), ("srt", "Dialogue as subtitles")):
        page.get_by_role("button", name="Save").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=name).click()
        download.value.save_as(tmp_path / f"dialogue.{kind}")
        assert "What may happen next?" in (tmp_path / f"dialogue.{kind}").read_text()
