"""Makes the pictures of the docs from the real page: still ones, light and dark, and an animation of a question.

videochat-online demo --port 7860 &
python tests/demo/screenshots.py                 docs/demo-*.png: the page on a desktop and a phone
python tests/demo/screenshots.py --animation     docs/page.webp: a question is asked while a stream runs
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
QUESTIONS = ("What is happening now?", "Where is the cyan cross?")
SEED = 4
"""Of the generated world in which they are asked."""
ANIMATED = (1280, 1640, 0.78)
"""Width and height in CSS pixels, and the picture's pixels for each of them."""
ANIMATED_SECONDS, LAST_SECONDS, MOST_FRAMES_A_SECOND = 10.0, 2.0, 8
ANIMATION_STARTS = 9.0
"""Second of the stream; the memory is full by then."""
TYPED = dict(zip((0.8, 5.0), QUESTIONS, strict=True))
"""Second of the animation at which somebody begins to type a question."""
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


@contextmanager
def opened_page(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The page, on which a generated world is running."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_role("tab", name="World").click()
    page.get_by_label("Seed").fill(str(SEED))
    page.get_by_role("button", name="Watch a generated world").click()
    page.locator(".vco-playing").wait_for()
    yield page
    context.close()


def still_pictures(browser: Any, address: str) -> None:
    for name, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            size = {"width": width, "height": height}
            options = {"viewport": size, "color_scheme": scheme, "is_mobile": width < 600}
            with opened_page(browser, address, **options) as page:
                for question in QUESTIONS:
                    time.sleep(9)
                    page.get_by_label("Question").fill(question)
                    page.get_by_label("Question").press("Enter")
                time.sleep(6)
                save(page, DOCS / f"demo-{name}-{scheme}.png")


def save(page: Any, path: Path) -> None:
    """The whole page, in 256 colours."""
    page.screenshot(path=str(path), full_page=True)
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


def animation(browser: Any, address: str) -> None:
    """Each picture is shown for as long as it was on screen."""
    width, height, scale = ANIMATED
    size = {"width": width, "height": height}
    with opened_page(browser, address, viewport=size, color_scheme="light") as page:
        page.get_by_label("Question").click()
        seconds = "Number(document.querySelector('.vco-time').innerText.split(':')[1])"
        page.wait_for_function(f"{seconds} >= {ANIMATION_STARTS}")
        shown = record(page, round(width * scale))
    times = [second for second, _ in shown]
    durations = [round(1000 * (after - before)) for before, after in pairwise(times)]
    path = DOCS / "page.webp"
    first, *others = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in shown]
    options = {"duration": [*durations, round(1000 * LAST_SECONDS)], "loop": 0, "quality": 70, "method": 4}
    first.save(path, save_all=True, append_images=others, **options)
    print(f"{path.name}: {len(shown)} pictures of {first.size}, {path.stat().st_size / 1024:.0f} KiB")


def record(page: Any, width: int) -> list[tuple[float, bytes]]:
    """What Chromium shows while the questions are typed and answered: seconds, and the picture as file."""
    shown: list[tuple[float, bytes]] = []
    chromium = page.context.new_cdp_session(page)

    def keep(event: dict[str, Any]) -> None:
        second = event["metadata"]["timestamp"]
        if not shown or second - shown[-1][0] >= 1 / MOST_FRAMES_A_SECOND:
            shown.append((second, base64.b64decode(event["data"])))
        chromium.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    chromium.on("Page.screencastFrame", keep)
    chromium.send("Page.startScreencast", {"format": "jpeg", "quality": 92, "maxWidth": width, "maxHeight": 4 * width})
    started = time.monotonic()
    for second, question in TYPED.items():
        page.wait_for_timeout(max(0.0, 1000 * (second - (time.monotonic() - started))))
        for place in range(0, len(question), KEYS_AT_ONCE):
            page.keyboard.type(question[place : place + KEYS_AT_ONCE])
            page.wait_for_timeout(1000 * KEY_SECONDS)
        page.keyboard.press("Enter")
    page.wait_for_timeout(max(0.0, 1000 * (ANIMATED_SECONDS - (time.monotonic() - started))))
    chromium.send("Page.stopScreencast")
    return shown


if __name__ == "__main__":
    main()
