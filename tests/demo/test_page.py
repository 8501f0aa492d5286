"""The page in headless Chromium, once through; the test_browser files have the rest."""

from __future__ import annotations

import re

import pytest

from tests.demo.steps import ask, frames, holds, is_answered, names, upload

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio")


def test_upload_play_ask_and_look_at_the_memory(demo, visit, clips):
    page = visit()
    page.locator("#v-note button").click()
    assert demo.sessions.model.config.note in page.get_by_role("dialog", name="The model").inner_text()
    page.keyboard.press("Escape")
    upload(page, clips.one)
    names(page, "One.mp4")
    holds(page, 2)
    page.wait_for_function("document.querySelector('#v-screen').naturalWidth > 0")
    ask(page, "What is happening now?")
    page.locator(".v-you", has_text=re.compile(r"0:\d\d\.\d\s*What is happening now\?")).wait_for()
    said = is_answered(page, 1)
    (session,) = demo.sessions._sessions.values()
    assert session.track.turns[0].answer.split()[0][:8] in said
    held_then = len(session.track.turns[0].held)
    holds(page, held_then + 1)
    page.locator(".v-you").click()  # what was in memory then
    page.locator("#v-then", has_text="when you asked “What is happening now?”").wait_for()
    assert frames(page) == held_then
    page.get_by_role("button", name="Back to now").click()
    holds(page, held_then + 1)
    page.locator(".v-model").click()
    numbers = page.get_by_label("Counters")
    numbers.get_by_text(re.compile(r"^[\d.]+ s$")).first.wait_for()
    assert "MiB" in numbers.inner_text() and re.search(r"dropped\s+0", numbers.inner_text())
