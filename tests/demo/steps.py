"""What visitors do on the page, and what they see there, for the tests in Chromium: the browser waits, none sleeps."""

from __future__ import annotations

from typing import Any

SECONDS = "vcoPage.state().position"
"""Of the stream, as the page shows them."""


def frames(page: Any) -> int:
    """Pictures in the memory's rows."""
    return page.locator(".v-held").count()


def holds(page: Any, number: int) -> None:
    """Wait for so many pictures."""
    page.locator(".v-held").nth(number - 1).wait_for(state="attached")


def watch_sample(page: Any) -> None:
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".v-watching").wait_for(state="attached")
    page.locator("#vco-ask:not([disabled])").wait_for(state="attached")


def upload(page: Any, path: Any) -> None:
    page.locator("#v-pick").set_input_files(str(path))


def names(page: Any, words: str) -> None:
    """Wait until this is what is watched."""
    page.locator("#v-source", has_text=words).wait_for(state="attached")


def in_tab(page: Any, name: str) -> None:
    tab = page.locator(f".v-tabs button[data-tab={name}]")
    if tab.is_visible():
        tab.click()


def ask(page: Any, question: str) -> None:
    in_tab(page, "chat")
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    page.get_by_label("Your question").blur()


def tell(page: Any, words: str) -> None:
    """Give an instruction; it stands when this returns."""
    in_tab(page, "tell")
    page.locator("#vco-wish input").fill(words)
    page.locator("#vco-wish input").press("Enter")
    page.locator("#vco-wish input").blur()
    page.locator(".v-wish b", has_text=words).wait_for()
    in_tab(page, "chat")


def is_answered(page: Any, number: int) -> str:
    """The answer number `number`, from 1, when it is complete."""
    page.wait_for_function(
        "n => (vcoPage.state().talk ?? []).filter(one => one.q)[n - 1]?.done",
        arg=number,
    )
    return str(page.locator(".v-says").nth(number - 1).inner_text())


def until(page: Any, seconds: float) -> None:
    """Wait until the stream has come so far."""
    page.wait_for_function(f"s => {SECONDS} >= s", arg=seconds)


def is_in_state(page: Any, state: str) -> None:
    page.wait_for_function("s => vcoPage.state().state === s", arg=state)


def pauses(page: Any) -> None:
    """Stop the clock: what is done next does not depend on how fast this machine is."""
    page.get_by_role("button", name="Pause", exact=True).click()
    is_in_state(page, "paused")


def plays(page: Any) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    is_in_state(page, "playing")


def at_speed(page: Any, speed: str) -> None:
    """Press the button, which a phone has in a menu, until it says so."""
    page.wait_for_function(
        "wanted => { const one = document.querySelector('#v-speed'), is = one.textContent === wanted;"
        " if (!is && one.dataset.seen !== one.textContent) { one.dataset.seen = one.textContent; one.click() }"
        " return is }",
        arg=speed,
    )
