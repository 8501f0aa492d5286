"""The page in headless Chromium, once through; test_browser.py has the rest."""

from __future__ import annotations

import re

import pytest

from tests.demo.steps import answer, ask, counter, frames, upload, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio")


def test_upload_play_ask_and_look_at_the_memory(demo, visit, clips):
    page = visit()
    if note := demo.sessions.model.config.note:
        assert note in page.locator(".vco-note").inner_text()
    upload(page, clips.one)
    page.locator(".vco-playing").wait_for()
    wait_for(lambda: frames(page) >= 2)
    page.wait_for_function("document.querySelector('#vco-screen img')?.naturalWidth > 0")
    ask(page, "What is happening now?")
    page.locator("#vco-chat .user.message", has_text=re.compile(r"0:\d\d\.\d What is happening now\?")).wait_for()
    said = answer(page)
    (session,) = demo.sessions._sessions.values()
    assert session.track.turns[0].answer.split()[0][:8] in said
    held_then = len(session.track.turns[0].held)
    before = frames(page)
    wait_for(lambda: frames(page) > before)
    page.locator("#vco-moments label", has_text="What is happening").click()  # what was in memory then
    page.locator(".vco-then", has_text="What is happening now?").wait_for()
    assert frames(page) == held_then
    page.locator("#vco-moments label", has_text="now").first.click()
    wait_for(lambda: frames(page) > held_then)
    page.locator("#vco-chat .user.message").click()  # the same by a click on the question
    page.locator(".vco-then", has_text="What is happening now?").wait_for()
    wait_for(lambda: counter(page, "first token").endswith("s"))
    assert "MiB" in counter(page, "memory") and counter(page, "dropped") == "0"
