"""Makes the pictures of docs/demo.md anew: the page on a desktop and a phone, light and dark, as small PNGs.

videochat-online demo --port 7860 &
python tests/demo/screenshots.py [http://127.0.0.1:7860/]
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
QUESTIONS = ("Where is the purple cross?", "How many objects are in the picture?")


def main(address: str = "http://127.0.0.1:7860/") -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, is_mobile=width < 600
                )
                page = context.new_page()
                page.goto(address, wait_until="domcontentloaded")
                talk(page)
                save(page, DOCS / f"demo-{name}-{scheme}.png")
                context.close()
        browser.close()


def talk(page: Any) -> None:
    """A generated world, watched for a while, and two questions about it."""
    page.get_by_role("tab", name="World").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Watch a generated world").click()
    page.locator(".vco-playing").wait_for()
    for question in QUESTIONS:
        time.sleep(9)
        page.get_by_label("Question").fill(question)
        page.get_by_label("Question").press("Enter")
    time.sleep(6)


def save(page: Any, path: Path) -> None:
    """The whole page, in its 256 most frequent colours."""
    page.screenshot(path=str(path), full_page=True)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
