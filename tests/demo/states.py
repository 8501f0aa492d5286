"""The page in each state of its design: how a visitor gets there. For pictures, and for what must hold in every state.

videochat-online demo --port 7860 &
PYTHONPATH=. python tests/demo/states.py FOLDER     a picture of each, to be held beside the design's
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.demo.steps import ask, at_speed, is_answered, pauses, plays, tell, until, watch_sample

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)
DESKTOP, PHONE = (1440, 900), (390, 844)
WISH = "the yellow square is at the top"
"""What the model that ships tells at the third second of the sample."""
KEEP_CAMERA = """() => {
    const media = navigator.mediaDevices, real = media.getUserMedia.bind(media);
    media.getUserMedia = async wanted => (window.film = await real(wanted));
}"""


def first(page: Any) -> None:
    page.locator(".v-go:enabled").wait_for()


def watch(page: Any) -> None:
    """Two instructions, of which one has spoken, and two questions."""
    watch_sample(page)
    pauses(page)
    tell(page, WISH)
    tell(page, "a red circle appears")
    at_speed(page, "0.5×")  # so that a busy machine, too, reads out each frame
    plays(page)
    page.locator(".v-unasked").first.wait_for(state="attached")
    until(page, 6)
    pauses(page)
    ask(page, "What is happening now?")
    is_answered(page, 1)
    plays(page)
    until(page, 10)
    pauses(page)
    ask(page, "Where is the object now?")
    is_answered(page, 2)
    at_speed(page, "1×")
    plays(page)
    until(page, 11)


def waiting(page: Any) -> None:
    """A question without an answer yet: the small model is too quick, so the page is shown one, and no more."""
    watch(page)
    page.route("**/run/predict", lambda route: None)  # ticks are held back
    one = "{turn: 99, t: vcoPage.state().position, q: 'What has moved?', a: '', done: false}"
    page.wait_for_function(
        f"vcoPage.show({{talk: [...vcoPage.state().talk, {one}]}}), document.querySelector('.v-wait')"
    )


def then(page: Any) -> None:
    watch(page)
    page.locator(".v-you").first.click()
    page.locator("#v-then:not([hidden])").wait_for()


def frame(page: Any) -> None:
    watch(page)
    page.locator(".v-held").first.focus()
    page.keyboard.press("Enter")
    page.locator(".v-card img").nth(1).wait_for()


def error(page: Any) -> None:
    """A camera that stops, and a question without words."""
    page.evaluate(KEEP_CAMERA)
    page.get_by_role("button", name="Your camera").click()
    page.locator("#vco-ask:not([disabled])").wait_for(state="attached")
    until(page, 4)
    tell(page, "somebody comes to the door")
    ask(page, "What is happening now?")
    is_answered(page, 1)
    ask(page, "")
    page.locator("#v-wrong", has_text="Type a question first").wait_for()
    page.evaluate("film.getTracks()[0].dispatchEvent(new Event('ended'))")  # as when somebody unplugs it
    page.locator("#v-lost", has_text="stopped sending").wait_for()


def file(page: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "holiday.avi"
        path.write_bytes(b"no video" * 100)
        page.locator("#v-pick").set_input_files(str(path))
        page.locator("#v-fault", has_text="holiday.avi").wait_for()


def tab(name: str) -> Callable[[Any], None]:
    def go(page: Any) -> None:
        watch(page)
        page.get_by_role("tab", name=name).click()

    return go


STATES: dict[str, tuple[Callable[[Any], None], tuple[int, int], bool]] = {
    "first": (first, DESKTOP, False),
    "watch": (watch, DESKTOP, False),
    "waiting": (waiting, DESKTOP, False),
    "then": (then, DESKTOP, False),
    "frame": (frame, DESKTOP, False),
    "error": (error, DESKTOP, False),
    "file": (file, DESKTOP, False),
    "dark": (watch, DESKTOP, True),
    "dark-first": (first, DESKTOP, True),
    "phone": (watch, PHONE, False),
    "phone-dark": (watch, PHONE, True),
    "phone-first": (first, PHONE, False),
    "phone-tell": (tab("Tell me when"), PHONE, False),
    "phone-memory": (tab("Memory"), PHONE, False),
    "phone-error": (error, PHONE, False),
}
"""Name -> how to get there, the window, whether it is dark."""


def context_of(browser: Any, size: tuple[int, int], dark: bool) -> Any:
    """A new visitor's browser."""
    width, height = size
    return browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
        permissions=["camera"], is_mobile=width < 600, has_touch=width < 600,
        device_scale_factor=2 if width < 600 else 1,
    )  # fmt: skip


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description="pictures of the page in each state of its design")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="of the states; all without")
    parser.add_argument("--address", default="http://127.0.0.1:7860/")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        for name in options.names or STATES:
            reach, size, dark = STATES[name]
            context = context_of(browser, size, dark)
            page = context.new_page()
            page.goto(options.address, wait_until="domcontentloaded")
            page.locator(".v-go:enabled").wait_for()
            reach(page)
            page.screenshot(path=str(options.folder / f"{name}.png"))
            context.close()
            print(name)
        browser.close()


if __name__ == "__main__":
    main()
