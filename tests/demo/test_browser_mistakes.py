"""The page in headless Chromium: mistakes and limits are told at their place, and what was there stays."""

from __future__ import annotations

import pytest

from tests.demo.steps import (
    ask,
    is_answered,
    is_in_state,
    names,
    pauses,
    tell,
    until,
    upload,
    watch_sample,
)

from .test_browser import the_session

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:gradio")]


def test_mistakes_are_told_and_the_dialogue_stays(demo, visit, clips, tmp_path):
    page = visit()
    for name in ("Play", "Stop", "Ask", "Add"):
        assert page.get_by_role("button", name=name, exact=True).is_disabled(), name
    watch_sample(page)
    ask(page, "What?")
    said = is_answered(page, 1)
    ask(page, "")
    page.locator("#v-wrong", has_text="Type a question first.").wait_for()
    assert page.get_by_label("Your question").get_attribute("aria-invalid") == "true"
    page.get_by_role("button", name="Change video").click()
    upload(page, clips.bad)
    page.locator("#v-fault", has_text="bad.mp4: is not a video").wait_for()
    page.locator("#v-file", has_text="the last one failed").wait_for()
    (tmp_path / "letter.txt").write_text("no video")
    upload(page, tmp_path / "letter.txt")
    page.locator("#v-fault", has_text="letter.txt: ").wait_for()
    (tmp_path / "big.mp4").write_bytes(b"0" * (demo.sessions.limits.max_upload_bytes + 1))
    upload(page, tmp_path / "big.mp4")
    page.locator("#v-fault", has_text="at most 1,048,576 are taken").wait_for()
    page.get_by_role("button", name="A web address").click()
    page.get_by_label("RTSP, HTTP, HLS or UDP address").fill("ftp://example.org/<b>a")
    page.get_by_role("button", name="Connect").click()
    page.locator("#v-address-wrong", has_text="'ftp://example.org/<b>a': expected an address such as").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Back to the video").click()
    assert page.locator(".v-says").inner_text() == said and page.locator("#v-source").is_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Endless shapes: seed").fill("-5")
    page.get_by_role("button", name="Watch endless shapes").click()
    page.locator("#v-settings-wrong", has_text="a seed must be from 0").wait_for()
    page.keyboard.press("Escape")
    assert not page.locator(".toast-body").count(), "no notice of gradio's over the page"
    page.get_by_role("button", name="Change video").click()
    page.get_by_role("button", name="A web address").click()
    page.get_by_label("RTSP, HTTP, HLS or UDP address").fill("rtsp://127.0.0.1:9/live")
    page.get_by_role("button", name="Connect").click()
    page.locator("#v-lost", has_text="Connection refused").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Change video").click()
    watch_sample(page)  # and all is well again
    is_in_state(page, "playing")
    assert page.locator("#v-lost .v-alert").count() == 0


def test_a_mistake_stays_until_it_is_mended(demo, visit, clips, tmp_path):
    """Neither the next tick nor what is said unasked takes it away."""
    page = visit()
    (tmp_path / "letter.txt").write_text("no video")
    for path in (clips.bad, tmp_path / "letter.txt"):
        upload(page, path)
        page.locator("#v-fault", has_text=path.name).wait_for()
        page.wait_for_function("vcoPage.state().id")  # a tick came since: there is a session, which watches nothing
        assert page.locator("#v-fault").is_visible(), path
    watch_sample(page)
    assert not page.locator("#v-fault").is_visible()
    pauses(page)
    ask(page, "")
    page.locator("#v-wrong", has_text="Type a question first").wait_for()
    page.evaluate("vcoPage.show({...vcoPage.state(), talk: [{event: 1, t: 0, key: 'a', wish: 'b', a: 'c'}]})")
    assert page.locator("#v-wrong").is_visible()
    ask(page, "What?")
    is_answered(page, 1)
    page.locator("#v-wrong").wait_for(state="hidden")


def test_what_a_visitor_writes_is_words(demo, visit, clips, tmp_path):
    """Markup in a file's name, a question or an instruction is shown, never run; long words stay in their boxes."""
    page, evil = visit(), "<img src=x onerror='window.ran=1'>"
    path = tmp_path / "<img src=x onerror=ran=1>.mp4"
    path.write_bytes(clips.one.read_bytes())
    upload(page, path)
    names(page, "<img src=x onerror=ran=1>.mp4")
    ask(page, evil)
    is_answered(page, 1)
    tell(page, evil)
    page.locator(".v-you").click()
    page.locator("#v-then", has_text=evil).wait_for()
    page.get_by_role("button", name="Back to now").click()
    wish = page.locator("#vco-wish input")
    wish.fill("w" * 600)
    wish.press("Enter")
    page.locator(".v-wish").nth(1).wait_for()  # as long as the field takes it, an instruction may be
    ask(page, "q" * 600)
    is_answered(page, 2)
    assert page.locator("img[src=x]").count() == 0 and page.evaluate("window.ran") is None
    for part in ("html", "#v-log", "#v-wishes"):
        assert page.evaluate("p => (e => e.scrollWidth - e.clientWidth)(document.querySelector(p))", part) <= 0, part


def test_a_server_that_is_gone_says_so(demo, visit):
    page = visit()
    watch_sample(page)
    until(page, 1)
    page.context.set_offline(True)
    page.locator("#v-lost", has_text="The server does not answer").wait_for()
    page.locator("#v-source", has_text="no picture").wait_for()
    page.context.set_offline(False)
    page.wait_for_function("!document.querySelector('#v-lost .v-alert')")
    demo.sessions.end(the_session(demo).key)  # as when the server was started again meanwhile
    page.reload(wait_until="domcontentloaded")
    page.locator("#v-fault", has_text="not here any more").wait_for()


def test_places_end_with_the_page_and_take_the_files_with_them(demo, visit, clips, monkeypatch, wait_until):
    monkeypatch.setattr("videochat_online.demo.visits.BACK_SECONDS", 0.2)
    pages = [visit() for _ in range(4)]
    for page in pages[:3]:
        upload(page, clips.one)
        names(page, "One.mp4")
    pages[3].get_by_role("button", name="Watch the sample").click()
    pages[3].locator("#v-fault", has_text="all 3 places are taken").wait_for()
    folders = [session.folder for session in demo.sessions._sessions.values()]
    assert all(list(folder.iterdir()) for folder in folders)
    assert not list(demo.uploads.rglob("*.mp4")), "what the browser sent is kept in the session's folder only"
    pages[0].close()
    wait_until(lambda: sum(folder.exists() for folder in folders) == 2)  # the place is free before its files are gone
    watch_sample(pages[3])


def test_an_idle_session_says_so(demo, visit):
    page = visit()
    watch_sample(page)
    demo.sessions.end(the_session(demo).key)  # as the idle watch does
    page.locator("#v-fault", has_text="was not used for a while and has ended").wait_for()
    watch_sample(page)
    page.wait_for_function("['playing', 'over'].includes(vcoPage.state().state)")  # where the page is slow, over
