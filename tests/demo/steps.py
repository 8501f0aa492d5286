"""What visitors do on the page, and what they see there: for the tests in Chromium."""

from __future__ import annotations

import time


def frames(page) -> int:
    """Pictures in the memory's rows."""
    return page.locator("#vco-memory .vco-frames .vco-frame").count()


def counter(page, name: str) -> str:
    return page.locator(".vco-counters div", has_text=name).locator("dd").inner_text()


def upload(page, path) -> None:
    page.get_by_role("tab", name="Upload").click()
    page.locator("#vco-upload input[type=file]").set_input_files(str(path))


def ask(page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def answer(page, number: int = 0) -> str:
    """The answer number `number`, when it is complete."""
    bot = page.locator("#vco-chat .bot.message").nth(number)
    bot.wait_for()
    before = ""
    for _ in range(150):
        text = bot.inner_text()
        if text.strip() not in ("", "…") and text == before:
            return text
        before = text
        time.sleep(0.4)
    raise AssertionError(f"no answer came to an end, last seen: {before!r}")


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
