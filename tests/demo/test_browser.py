"""The page as visitors use it, in headless Chromium."""

from __future__ import annotations

import re
import time

import pytest

from tests.demo.steps import answer, ask, counter, frames, upload, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:gradio")]


def stands_still(page) -> bool:
    """Whether nothing new was seen for a while; a frame that was on its way is still counted."""
    seen = counter(page, "frames seen")
    time.sleep(1.5)
    return counter(page, "frames seen") == seen


def test_pause_play_seek_stop_and_start_again(demo, visit, clips):
    page = visit()
    upload(page, clips.one)
    page.locator(".vco-playing").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.locator(".vco-paused").wait_for()
    wait_for(lambda: stands_still(page))
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".vco-playing").wait_for()
    box = page.get_by_label(re.compile("number input for Go to second"))
    box.fill("20")
    box.press("Enter")
    page.get_by_role("slider", name=re.compile("Go to second")).press("ArrowRight")  # the keyboard is enough
    (session,) = demo.sessions._sessions.values()
    wait_for(lambda: session.state()["position"] >= 20)
    page.get_by_role("button", name="Stop").click()
    page.locator(".vco-status .vco-over").wait_for()
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".vco-playing").wait_for()
    wait_for(lambda: session.state()["position"] < 20)


def test_a_generated_world_is_stopped_and_started(demo, visit):
    page = visit()
    page.get_by_role("tab", name="World").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Watch a generated world").click()
    page.locator(".vco-name", has_text="ShapeWorld, seed 7, level 2").wait_for()
    page.locator(".vco-truth", has_text="What is to be seen").wait_for()
    ask(page, "What do you see?")
    assert answer(page)
    page.get_by_role("button", name="Stop").click()
    page.locator(".vco-status .vco-over").wait_for()
    ask(page, "And before?")  # it is still remembered
    assert answer(page, 1)
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".vco-playing").wait_for()
    wait_for(lambda: page.locator("#vco-chat .message").count() == 0)  # restarted: so has the dialogue
    wait_for(lambda: frames(page) >= 2)


def test_questions_during_an_answer(demo, visit):
    page = visit()
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-playing").wait_for()
    for text in ("What is happening now?", "What may happen next?", "Where is the object now?"):
        page.get_by_role("button", name=text).click()
    (session,) = demo.sessions._sessions.values()
    wait_for(lambda: [m.is_done for m in session.track.turns] == [True] * 3)
    wait_for(lambda: page.locator("#vco-chat .user.message").count() == 3)
    asked = page.locator("#vco-chat .user.message").all_inner_texts()
    wanted = [moment.question for moment in session.track.turns]
    assert [text.split(" ", 1)[-1] for text in asked] == wanted
    assert sorted(wanted) == sorted({"What is happening now?", "What may happen next?", "Where is the object now?"})


def test_several_pages_of_one_browser(demo, visit):
    """A browser keeps six connections to a server, whatever the number of its pages."""
    first = visit()
    pages = [first, *(first.context.new_page() for _ in range(2))]
    for page in pages[1:]:
        page.goto(demo.address, wait_until="domcontentloaded")
    for page in pages:
        page.get_by_role("button", name="Watch the sample").click()
        page.locator(".vco-playing").wait_for()
    for page in pages:
        wait_for(lambda page=page: frames(page) >= 3)


def test_a_camera(demo, visit):
    page = visit()
    page.get_by_role("tab", name="Camera").click()
    page.locator("#vco-camera").get_by_text("Click to Access Webcam").click()
    page.locator("#vco-camera button", has_text=re.compile("Record|Start", re.I)).first.click()
    wait_for(lambda: len(demo.sessions) == 1)
    page.locator(".vco-name", has_text="your camera").wait_for()
    wait_for(lambda: frames(page) >= 3)
    ask(page, "What do you see?")
    assert answer(page)
    (session,) = demo.sessions._sessions.values()
    assert session.state()["stats"]["frames_seen"] >= 3
    assert session.latest().image.shape[2] == 3 and session.latest().image.std() > 5
    kept = [path for path in demo.uploads.rglob("*") if path.is_file()]
    assert len(kept) < 3, "a camera's frames do not fill the disk"
    page.get_by_role("tab", name="Sample").click()  # the camera keeps sending, and is not listened to
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-name", has_text="sample: shapes").wait_for()
    wait_for(lambda: session.state()["stats"]["frames_seen"] >= 4)
    assert session.state()["source"] == "sample: shapes"
    assert page.locator("#vco-chat .message").count() == 0


def test_two_visitors_with_different_videos(demo, visit, clips):
    one, two = visit(), visit()
    upload(one, clips.one)
    upload(two, clips.two)
    for page, name in ((one, "one.mp4"), (two, "two.mp4")):
        page.locator(".vco-name", has_text=name).wait_for()
        wait_for(lambda page=page: frames(page) >= 2)
    ask(one, "Who is first?")
    ask(two, "Who is second?")
    assert answer(one) and answer(two)
    assert "Who is second?" not in one.locator("#vco-chat").inner_text()
    assert "Who is first?" not in two.locator("#vco-chat").inner_text()
    shapes = {s.state()["source"]: s.latest().image.shape for s in demo.sessions._sessions.values()}
    assert shapes == {"one.mp4": (48, 64, 3), "two.mp4": (64, 96, 3)}
    for page in (one, two):  # every picture in sight is one of the visitor's own session
        keys = {src.split("/")[1] for src in page.locator("#vco-memory img").evaluate_all(
            "all => all.map(e => e.getAttribute('src'))")}  # fmt: skip
        assert len(keys) == 1


def test_mistakes_are_told_and_the_dialogue_stays(demo, visit, clips, tmp_path):
    page = visit()
    toast = page.locator(".toast-wrap, .toast-body").first
    for name in ("Play", "Pause", "Stop", "Ask"):
        assert page.get_by_role("button", name=name, exact=True).is_disabled(), name
    ask(page, "What?")
    toast.get_by_text("start a stream first").wait_for()
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-playing").wait_for()
    page.locator("#vco-pause:not([disabled])").wait_for()
    page.get_by_label("Question").press("Enter")  # the words that were refused are still there
    said = answer(page)
    page.locator("#vco-ask[disabled]").wait_for()
    page.get_by_label("Question").press("Enter")
    toast.get_by_text("not empty").wait_for()
    upload(page, clips.bad)
    page.get_by_text("bad.mp4: is not a video").first.wait_for()
    page.locator("#vco-upload input[type=file]").wait_for(state="attached")
    assert "bad.mp4" not in page.locator("#vco-upload").inner_text()
    (tmp_path / "letter.txt").write_text("no video")
    upload(page, tmp_path / "letter.txt")
    page.get_by_text("letter.txt").or_(page.get_by_text("Invalid file type")).first.wait_for()
    page.locator("#vco-upload input[type=file]").wait_for(state="attached")
    (tmp_path / "big.mp4").write_bytes(b"0" * (demo.sessions.limits.max_upload_bytes + 1))
    upload(page, tmp_path / "big.mp4")
    page.get_by_text("exceed the maximum allowed size").first.wait_for()
    page.locator("#vco-upload .error").wait_for(state="attached")
    assert not page.locator("#vco-upload .error").is_visible(), "the drop zone can be used again"
    page.get_by_role("tab", name="World").click()
    page.get_by_label("Seed").fill("-5")
    page.get_by_role("button", name="Watch a generated world").click()
    page.get_by_text("a seed must be from 0").first.wait_for()
    page.get_by_role("tab", name="Address").click()
    page.get_by_label("RTSP, HTTP, HLS or UDP address").fill("ftp://example.org/<b>a")
    page.get_by_role("button", name="Connect").click()
    page.get_by_text("'ftp://example.org/<b>a': expected an address such as").first.wait_for()
    page.screenshot(path=str(tmp_path / "mistakes.png"))
    assert page.locator("#vco-chat .bot.message").inner_text() == said
    assert page.locator(".vco-name", has_text="sample: shapes").is_visible()
    assert not page.locator(".wrap .error").locator("visible=true").count(), "an error in the place of a part"
    page.get_by_label("RTSP, HTTP, HLS or UDP address").fill("rtsp://127.0.0.1:9/live")
    page.get_by_role("button", name="Connect").click()
    page.locator(".vco-problem", has_text="Connection refused").wait_for()
    page.get_by_role("tab", name="Sample").click()
    page.get_by_role("button", name="Watch the sample").click()  # and all is well again
    page.locator(".vco-playing").wait_for()
    assert page.locator(".vco-problem").count() == 0


def test_places_end_with_the_page_and_take_the_files_with_them(demo, visit, clips):
    pages = [visit() for _ in range(4)]
    for page in pages[:3]:
        upload(page, clips.one)
        page.locator(".vco-playing").wait_for()
    pages[3].get_by_role("button", name="Watch the sample").click()
    pages[3].get_by_text("all 3 places are taken").first.wait_for()
    folders = [session.folder for session in demo.sessions._sessions.values()]
    assert all(list(folder.iterdir()) for folder in folders)
    pages[0].close()
    wait_for(lambda: len(demo.sessions) == 2)
    assert sum(folder.exists() for folder in folders) == 2
    assert not list(demo.uploads.rglob("*.mp4")), "what the browser sent is kept in the session's folder only"
    pages[3].get_by_role("button", name="Watch the sample").click()
    pages[3].locator(".vco-playing").wait_for()


def test_an_idle_session_says_so(demo, visit):
    page = visit()
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-playing").wait_for()
    (key,) = demo.sessions._sessions
    demo.sessions.end(key)  # as the idle watch does
    page.get_by_text("was not used for a while and has ended").wait_for()
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-playing").wait_for()


def test_settings_and_export(demo, visit, clips, tmp_path):
    page = visit()
    page.get_by_role("button", name="Watch the sample").click()
    page.locator(".vco-playing").wait_for()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Frames each level holds, finest first").fill("1/1/4")
    page.get_by_role("button", name=re.compile("^Apply")).click()
    page.get_by_text("0 of 4 held").or_(page.get_by_text(re.compile("[1-4] of 4 held"))).first.wait_for()
    wait_for(lambda: frames(page) >= 2)
    page.get_by_role("button", name="What may happen next?").click()  # an example question
    assert answer(page)
    for kind in ("json", "srt"):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Dialogue as {'json' if kind == 'json' else 'subtitles'}").click()
        download.value.save_as(tmp_path / f"dialogue.{kind}")
        assert "What may happen next?" in (tmp_path / f"dialogue.{kind}").read_text()
    page.get_by_label("Frames each level holds, finest first").fill("many")
    page.get_by_role("button", name=re.compile("^Apply")).click()
    page.get_by_text("are written as 2/2/12").first.wait_for()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_it_fits_and_can_be_read(demo, visit, width, dark):
    page = visit(width=width, height=844, dark=dark)
    page.get_by_role("button", name="Watch the sample").click()
    wait_for(lambda: frames(page) >= 4)
    for name in ("World", "Upload", "Camera", "Address", "Sample"):
        page.get_by_role("tab", name=name).click()
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        for button in page.locator("#vco-sources button.primary:visible").all():
            box = button.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
    pictures = page.locator("#vco-memory img:not(.vco-coarse), #vco-screen img")
    words = pictures.evaluate_all("all => all.map(e => e.getAttribute('alt'))")
    assert words and all(words), "every picture says in words what it is"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button')].filter(e => e.offsetParent && !e.innerText.trim()"
        " && !e.ariaLabel && !e.title && !e.querySelector('[aria-label]')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert unnamed == []
