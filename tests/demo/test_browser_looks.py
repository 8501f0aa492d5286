"""The page in headless Chromium: it fits every screen, and everybody can use it."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import pytest

from tests.demo.states import STATES, context_of
from tests.demo.steps import (
    holds,
    watch_sample,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:gradio")]


def test_frames_are_reached_with_the_keyboard(demo, visit):
    page = visit()
    watch_sample(page)
    holds(page, 4)
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement.closest('#vco-question')")
    page.locator(".v-lane").nth(3).locator(".v-held[tabindex='0']").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.locator(".v-card", has_text="As the model holds it").wait_for()
    page.keyboard.press("Escape")
    page.locator(".v-card").wait_for(state="detached")
    assert "v-held" in page.evaluate("document.activeElement.className")


@pytest.mark.parametrize(
    ("width", "height"), [(1440, 900), (1280, 800), (1100, 768), (390, 844), (360, 640), (844, 390)]
)
def test_it_fits(demo, visit, width, height):
    page = visit(width=width, height=height)
    watch_sample(page)
    holds(page, 4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width >= 1100:
        assert page.evaluate("document.querySelector('main').scrollHeight") <= height, "nothing scrolls"
        for part in (".v-stage", "#vco-chat", ".v-memory", "#vco-tell"):
            box = page.locator(part).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= height and box["x"] + box["width"] <= width, part
    else:
        for name in ("chat", "tell", "memory"):
            page.locator(f".v-tabs [data-tab={name}]").click()
            assert page.locator(".v-stage").bounding_box()["y"] == 0, "the video stays in sight"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def axe() -> str:
    """The source of axe-core: from the package axe-playwright-python, or the file that AXE names."""
    if named := os.environ.get("AXE"):
        return Path(named).read_text()
    pytest.importorskip(
        "axe_playwright_python", reason="needs axe-core: pip install axe-playwright-python, or AXE=FILE"
    )
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text()


@pytest.mark.parametrize("state", STATES)
def test_everybody_can_use_it_in_each_state(demo, browser, state):
    source = axe()
    reach, size, dark = STATES[state]
    context = context_of(browser, size, dark)
    page = context.new_page()
    page.goto(demo.address, wait_until="domcontentloaded")
    page.locator(".v-go:enabled").wait_for()
    reach(page)
    page.evaluate(source)
    found = page.evaluate("axe.run(document)")
    context.close()
    assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found["violations"]] == []


@pytest.mark.parametrize("sheet", ["about", "address", "settings"])
def test_everybody_can_use_the_sheets(demo, visit, sheet):
    source = axe()
    page = visit()
    page.evaluate("name => document.querySelector(`[data-do=${name}]`).click()", sheet)
    page.locator(f"#vco-{sheet}.v-open").wait_for()
    page.evaluate(source)
    found = page.evaluate("name => axe.run('#vco-' + name)", sheet)
    assert [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found["violations"]] == []
