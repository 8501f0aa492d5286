"""`data check`: everything that is wrong, in one report; nothing where nothing is."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.data.bad_ends import EndsBadly
from tests.odd_media import with_damaged_second_page, with_gbk_title, with_unknown_codec, write_video
from videochat_online.data import check, looking
from videochat_online.data.check import Report, box_problem, check_lists
from videochat_online.data.formats import read_row
from videochat_online.data.settings import DataSettings
from videochat_online.media import readers

from .conftest import at, talk

QUERY = {"from": "human", "value": "Follow <bbox>."}
NAMES = [f"img{number:05}.png" for number in range(30)]
TRACK: dict[str, Any] = {"video": "named", "all_image_files": NAMES, "fps": 5, "query_template": QUERY}
GOOD = [
    {"conversations": talk("Q", "A", "R", "B")},
    {"image": ["wide.png", "small.png"], "conversations": talk("<image><image>Q", "A")},
    {"video": "video", "clip": [2, 10.4], "conversations": [*at(3, "Q", "A"), *at(10.9, "R", "[0.1, 0.2, 0.3, 1.0]")]},
    {"video": "video.mp4", "clip": [2, 6], "need_reset_timestamp": True, "conversations": at(4, "Q", "A")},
    {"video": "frames", "fps": 2, "conversations": talk("<video>\nQ", "A")},
    {"video": "named", "fps": 5, "conversations": talk("Q", "A", image_file="img00004.png")},
    {**TRACK, "image_bboxes": [{"timestamp": n, "bbox": f"[0, 0.1, 0.{n + 1}, 1]"} for n in range(6)]},
    {**TRACK, "image_bboxes": [{"timestamp": 1, "bbox": [0, 2, 15, 16]}]},
]


def problems(report: Report, row: int) -> list[str]:
    return [problem.message for problem in report.problems if problem.row == row]


def test_good_data_has_no_problems(write_list: Any):
    report = check_lists([write_list({"good": GOOD}, repeat_time=2)], num_workers=1)
    assert report.problems == []
    (one,) = report.sets
    assert (one.rows, one.samples, one.questions, one.images, one.videos) == (8, 16, 10, 2, 5)
    assert one.kinds == {"text": 1, "image": 1, "video": 1, "online": 3, "tracking": 2}
    assert one.seconds == pytest.approx(10 + 10 + 6 + 6 + 6)  # each name that a row gives
    assert one.shown_seconds == pytest.approx(8 + 4 + 6 + 6 + 6 + 6)


def test_of_more_rows_than_asked_as_many_of_each_set_are_looked_at(write_list: Any):
    path = write_list({"good": GOOD * 3, "few": GOOD[:2]})
    report = check_lists([path], num_workers=1, most_rows=8)
    assert [one.rows for one in report.sets] == [24, 2]
    assert [sum(one.kinds.values()) for one in report.sets] == [4, 2]
    assert "6 of 26 rows were looked at, evenly spread (`videochat-online data check`" in report.as_table()
    whole = check_lists([path], num_workers=1, most_rows=26)
    assert whole == check_lists([path], num_workers=1) and "looked at" not in whole.as_table()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown format": ({"caption": "a"}, "unknown format: a row with 'caption'"),
    "missing video": ({"video": "gone", "QA": [{"q": "Q", "a": "A"}]}, "gone: does not exist"),
    "zero bytes": ({"video": "empty.mp4", "QA": [{"q": "Q", "a": "A"}]}, "empty.mp4: is empty"),
    "not a video": ({"video": "text.mp4", "QA": [{"q": "Q", "a": "A"}]}, "not a video"),
    "missing image": ({"image": "gone.png", "conversations": talk("Q", "A")}, "gone.png: does not exist"),
    "broken image": ({"image": ["small.png", "broken.png"], "conversations": talk("Q", "A")}, "broken.png: is broken"),
    "broken frame": ({"video": "torn", "conversations": talk("Q", "A")}, "2.png: is empty"),
    "missing frame": (
        {"video": ["frames/0.png", "frames/99.png"], "conversations": talk("Q", "A")},
        "99.png: does not exist",
    ),
    "clip": (
        {"video": "video", "clip": [5, 30], "QA": [{"q": "Q", "a": "A"}]},
        "clip 5 to 30 s goes past the end of the video, which lasts 10.0 s",
    ),
    "past the end": (
        {"video": "video", "conversations": at(12, "Q", "A")},
        "timestamp 12 s lies past the end of the part shown, at 10.0 s",
    ),
    "past the clip": (
        {"video": "video", "clip": [1, 4], "conversations": at(6, "Q", "A")},
        "timestamp 6 s lies past the end of the part shown, at 4.0 s",
    ),
    "past the reset clip": (
        {"video": "video", "clip": [5, 8], "need_reset_timestamp": True, "conversations": at(6, "Q", "A")},
        "timestamp 6 s lies past the end of the part shown, at 3.0 s",
    ),
    "before the clip": (
        {"video": "video", "clip": [5, 8], "conversations": at(2, "Q", "A")},
        "timestamp 2 s lies before the part shown, which starts at 5.0",
    ),
    "box time": (
        {**TRACK, "image_bboxes": [{"timestamp": 9, "bbox": "[0, 0, 1, 1]"}]},
        "timestamp 9 s lies past the end",
    ),
    "box outside": (
        {**TRACK, "image_bboxes": [{"timestamp": 1, "bbox": "[0.5, 0, 1.2, 1]"}]},
        r"the box at 1 s lies outside the frame \(0 to 1\)",
    ),
    "box in pixels": (
        {**TRACK, "image_bboxes": [{"timestamp": 1, "bbox": [0, 0, 17, 16]}]},
        "lies outside the frame of 16 x 16 pixels",
    ),
    "box in words": (
        {"video": "video", "conversations": at(2, "Q", "It is at [0.5, 0, 0.2, 1]")},
        "the box in turn 0 lies outside .* or is turned round",
    ),
    "named frame": (
        {"video": "named", "conversations": talk("Q", "A", image_file="x.png")},
        "image_file 'x.png' is none of the 30 frames",
    ),
    "image count": (
        {"image": "small.png", "conversations": talk("<image><image>", "A")},
        "2 <image> placeholders for 1 images",
    ),
    "video count": ({"video": "video", "conversations": talk("<video><video>", "A")}, "turn 0 holds 2 <video>"),
}


@pytest.fixture(scope="module")
def bad_media(media: Path) -> None:
    (media / "text.mp4").write_text("no video")
    (media / "broken.png").write_bytes((media / "small.png").read_bytes()[:40])
    (media / "torn").mkdir()
    (media / "torn/1.png").write_bytes((media / "small.png").read_bytes())
    (media / "torn/2.png").touch()


def test_every_problem_comes_in_one_report(write_list: Any, bad_media: None):
    import re

    rows = [row for row, _ in BAD.values()]
    report = check_lists([write_list({"bad": [*rows, *GOOD], "good": GOOD})], num_workers=1)
    for number, (case, (_, message)) in enumerate(BAD.items()):
        found = problems(report, number)
        assert any(re.search(message, text) for text in found), (case, found)
        assert len(found) == 1, (case, found)
    assert len(report.problems) == len(BAD)
    assert [one.problems for one in report.sets] == [len(BAD), 0]
    assert json.loads(json.dumps(report.to_dict()))["ok"] is False


def test_what_is_cut_off_is_a_problem_where_strict(write_list: Any, media: Path):
    write_video(media / "cut.avi")
    (media / "cut.avi").write_bytes((media / "cut.avi").read_bytes()[:-100])
    Image.effect_noise((64, 64), 50).save(media / "cut.jpg")
    (media / "cut.jpg").write_bytes((media / "cut.jpg").read_bytes()[:-9])
    media_of_rows = ({"video": "cut.avi"}, {"image": "cut.jpg"})
    rows = [{**named, "conversations": talk("Q", "A")} for named in media_of_rows]
    path = write_list({"cut": rows})
    report = check_lists([path], num_workers=1)
    assert report.problems == []
    assert report.warnings[0].row == 0 and "is cut off" in report.warnings[0].message
    report = check_lists([path], num_workers=1, strict=True)
    assert [any("cut" in text for text in problems(report, row)) for row in (0, 1)] == [True, True]


def test_lists_and_annotations_are_part_of_the_report(write_list: Any, tmp_path: Path):
    path = write_list({"good": GOOD})
    entries = json.loads(path.read_text())
    (tmp_path / "torn.json").write_text('[{"conversations": []},\n {"conv')
    for name, change in (
        ("gone", {"annotation": "gone.json"}),
        ("torn", {"annotation": "torn.json"}),
        ("typo", {"repeat": 1}),
    ):
        entries[name] = {**entries["good"], **change}
    path.write_text(json.dumps(entries))
    report = check_lists([path, str(tmp_path / "no.json")], num_workers=1)
    assert [one.name for one in report.sets] == ["good"]
    text = "\n".join(map(str, report.problems))
    for message in (
        "gone.json: cannot be read",
        "torn.json, line 2, column 3: not json",
        "unknown key 'repeat'",
        "no.json: cannot be read",
    ):
        assert message in text
    assert len(report.problems) == 4


def test_workers_find_the_same(write_list: Any, bad_media: None, monkeypatch: pytest.MonkeyPatch):
    path = write_list({"bad": [row for row, _ in BAD.values()]})
    alone = check_lists([path], num_workers=1)
    monkeypatch.setattr(looking, "ONE_PROCESS_FILES", 0)
    assert check_lists([path], num_workers=2) == alone


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("[0, 0, 1, 1]", True), ("At [0.5,0.5,0.5,0.5]", True), ("[0, 0, 64, 48]", True), ("[10, 10, 64.5, 20]", False),
        ("[-0.1, 0, 1, 1]", False), ("[0, 0, 1]", False), ("nowhere", False), ("[0.6, 0, 0.5, 1]", False),
    ],
)  # fmt: skip
def test_boxes_in_shares_and_in_pixels(text: str, is_good: bool):
    assert (box_problem(text, (64, 48)) is None) == is_good


def test_odd_files_are_listed_and_end_nothing(write_list: Any, media: Path):
    with_gbk_title(media / "gbk.avi")
    with_unknown_codec(media / "odd.mp4")
    with_damaged_second_page(media / "two.tif")
    names = ("gbk.avi", "odd.mp4", "two.tif", "x" * 300)
    path = write_list({"odd": [{"video": name, "QA": [{"q": "Q", "a": "A"}]} for name in names]})
    report = check_lists([path], num_workers=1)
    found = {problem.row: problem.message for problem in report.problems}
    assert set(found) == {1, 2, 3}
    assert "odd.mp4: its codec 'zz9z' is unknown to FFmpeg" in found[1]
    assert "two.tif: is broken (TypeError: Missing dimensions)" in found[2]


def test_our_own_mistakes_are_no_problem_of_a_file(write_list: Any, monkeypatch: pytest.MonkeyPatch):
    def mistake(*args: object, **options: object) -> None:
        raise AttributeError("a bug of ours")

    monkeypatch.setattr(readers.PyavReader, "_restart", mistake)
    with pytest.raises(AttributeError, match="a bug of ours"):
        check_lists([write_list({"good": GOOD})], num_workers=1)


# --- --decode


@pytest.fixture
def damaged(media: Path) -> dict[str, Path]:
    """Videos of 20 frames, 4 a second: whole, with its second half overwritten, and with its last third missing."""
    paths = {name: media / f"{name}.mp4" for name in ("whole", "spoilt", "cut")}
    data = write_video(paths["whole"]).read_bytes()
    start = data.index(b"mdat") + 4
    half, third = (start + (len(data) - start) * part // 6 for part in (3, 4))
    paths["spoilt"].write_bytes(data[:half] + bytes(byte ^ 0x5A for byte in data[half:]))
    paths["cut"].write_bytes(data[:third])
    return paths


def test_what_training_shows_is_decoded(write_list: Any, damaged: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """The frames of clip.py, each once, whatever number of rows shows it."""
    decoded: list[int] = []
    image = readers.PyavReader._image
    monkeypatch.setattr(readers.PyavReader, "_image", lambda self, n: decoded.append(n) or image(self, n))
    talks = {"conversations": talk("<video>\nQ", "A")}
    samples = {
        (0, n): read_row(row)
        for n, row in enumerate([{"video": "whole.mp4", **talks}, {"video": "whole.mp4", "clip": [2.2, 4], **talks}])
    }
    key = (damaged["whole"].parent, samples[0, 0].video)
    facts = looking.MediaCheck(settings=DataSettings(fps=1.0)).at(key, samples)
    assert (facts.problem, dict(facts.row_problems), facts.num_decoded) == (None, {}, len(decoded))
    assert decoded == [2, 6, 10, 14, 18]
    decoded.clear()
    looking.MediaCheck(settings=DataSettings(fps=1.0, num_frames=1)).at(key, samples)
    assert len(decoded) == 2


def test_damage_is_a_warning_or_a_problem(write_list: Any, damaged: dict[str, Path]):
    rows = [{"video": path.name, "conversations": talk("<video>\nQ", "A")} for path in damaged.values()]
    rows += [{"image": "small.png", "conversations": talk("Q", "A")}]
    rows += [{"video": "video", "clip": [1, 3], "conversations": at(0.2, "Q", "A")}]
    path = write_list({"set": rows})
    report = check_lists([path], num_workers=2, decode=DataSettings())
    assert {problem.row for problem in report.problems} == {4}
    assert "lies before the part shown" in problems(report, 4)[0] and "nothing has been seen" in problems(report, 4)[1]
    assert {warning.row for warning in report.warnings} == {1, 2}
    strict = check_lists([path], num_workers=2, decode=DataSettings(), strict=True)
    assert {problem.row for problem in strict.problems} == {1, 2, 4} and not strict.warnings


def test_a_file_that_ends_its_process_is_a_line_of_the_report(write_list: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "MediaCheck", EndsBadly)
    monkeypatch.setattr(looking, "LONGEST_SILENCE", 0.5)
    names = ("a.png", "crash.png", "b.png", "hang.png", "c.png", "crash2.png")
    path = write_list({"set": [{"image": name, "conversations": talk("Q", "A")} for name in names]})
    report = check_lists([path], num_workers=2, decode=DataSettings())
    assert [str(problem) for problem in report.problems] == [
        "set, row 1: crash.png: ends the process that reads it (signal SIGSEGV); expected a file that can be read",
        "set, row 3: hang.png: hangs: nothing came of it in 0.5 s; expected a file that can be read",
        "set, row 5: crash2.png: ends the process that reads it (signal SIGSEGV); expected a file that can be read",
    ]
    assert not multiprocessing.active_children()
    path = write_list({"set": [{"image": "bug.png", "conversations": talk("Q", "A")}]})
    with pytest.raises(AttributeError, match="a bug of ours"):
        check_lists([path], num_workers=2, decode=DataSettings())
    assert not multiprocessing.active_children()
