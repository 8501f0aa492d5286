"""Makes the pictures of the docs from the real page: still ones, light and dark, and an animation of a question.

videochat-online demo --port 7860 &
PYTHONPATH=. python tests/demo/screenshots.py                 docs/demo-*.png: the page on a desktop and a phone
PYTHONPATH=. python tests/demo/screenshots.py --animation     docs/page.webp: the model speaks unasked, and is asked
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from tests.demo.states import DESKTOP, FLAGS, PHONE, WISH, context_of, watch
from tests.demo.steps import is_answered, pauses, plays, tell, watch_sample

DOCS = Path(__file__).parents[2] / "docs"
SIZES = {"desktop": DESKTOP, "phone": PHONE}
ANIMATED_WIDTH = 1000
"""Pixels of the animation, of a page as wide as the desktop's."""
LAST_SECONDS, MOST_FRAMES_A_SECOND = 2.0, 8
QUESTION = "What is happening now?"
KEYS_AT_ONCE, KEY_SECONDS = 3, 0.1


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:7860/")
    parser.add_argument("--animation", action="store_true")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        (animation if options.animation else still_pictures)(browser, options.address)
        browser.close()


def opened_page(context: Any, address: str) -> Any:
    page = context.new_page()
    page.goto(address, wait_until="domcontentloaded")
    page.locator(".v-go:enabled").wait_for()
    return page


def still_pictures(browser: Any, address: str) -> None:
    for name, size in SIZES.items():
        for scheme in ("light", "dark"):
            context = context_of(browser, size, scheme == "dark")
            page = opened_page(context, address)
            watch(page)
            save(page, DOCS / f"demo-{name}-{scheme}.png")
            context.close()


def save(page: Any, path: Path) -> None:
    """The page, in 256 colours."""
    page.screenshot(path=str(path))
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


def animation(browser: Any, address: str) -> None:
    """Each picture is shown for as long as it was on screen."""
    context = context_of(browser, DESKTOP, False)
    page = opened_page(context, address)
    watch_sample(page)
    pauses(page)
    tell(page, WISH)
    shown = record(page, ANIMATED_WIDTH)
    context.close()
    times = [second for second, _ in shown]
    durations = [round(1000 * (after - before)) for before, after in pairwise(times)]
    path = DOCS / "page.webp"
    first, *others = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in shown]
    options = {"duration": [*durations, round(1000 * LAST_SECONDS)], "loop": 0, "quality": 70, "method": 4}
    first.save(path, save_all=True, append_images=others, **options)
    print(f"{path.name}: {len(shown)} pictures of {first.size}, {path.stat().st_size / 1024:.0f} KiB")


def record(page: Any, width: int) -> list[tuple[float, bytes]]:
    """What Chromium shows until the model has spoken unasked and answered: seconds, and the picture as file."""
    shown: list[tuple[float, bytes]] = []
    chromium = page.context.new_cdp_session(page)

    def keep(event: dict[str, Any]) -> None:
        second = event["metadata"]["timestamp"]
        if not shown or second - shown[-1][0] >= 1 / MOST_FRAMES_A_SECOND:
            shown.append((second, base64.b64decode(event["data"])))
        chromium.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    chromium.on("Page.screencastFrame", keep)
    chromium.send("Page.startScreencast", {"format": "jpeg", "quality": 92, "maxWidth": width, "maxHeight": 4 * width})
    plays(page)
    page.locator(".v-unasked").first.wait_for()
    page.get_by_label("Your question").click()
    for place in range(0, len(QUESTION), KEYS_AT_ONCE):
        page.keyboard.type(QUESTION[place : place + KEYS_AT_ONCE])
        page.wait_for_timeout(1000 * KEY_SECONDS)
    page.keyboard.press("Enter")
    is_answered(page, 1)
    page.wait_for_timeout(1000 * LAST_SECONDS)
    chromium.send("Page.stopScreencast")
    return shown


if __name__ == "__main__":
    main()
