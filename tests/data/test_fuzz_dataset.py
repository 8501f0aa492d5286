"""Rows that are a little, or quite, wrong, over real media that are whole, missing or damaged: through the data set.

Each gives an example, or the error that training counts and replaces.
"""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.data.test_fuzz_rows import spoiled
from tests.odd_media import mutated, with_damaged_second_page, with_unknown_codec
from videochat_online.data import check
from videochat_online.data.dataset import ConversationDataset
from videochat_online.data.looking import MediaCheck
from videochat_online.data.sample import SampleError
from videochat_online.files import write_json
from videochat_online.media.source import MediaError, MediaWarning

from .conftest import at, talk

BOXES = [{"timestamp": n, "bbox": f"[0.{n}, 0, 1, 1]"} for n in range(5)]
NAMES = [f"img{number:05}.png" for number in range(0, 30, 3)]
ROWS: tuple[dict[str, Any], ...] = (
    {"conversations": talk("Q", "A", "R", "B")},
    {"image": ["wide.png", "small.png"], "conversations": talk("<image> or <image>?", "The first")},
    {"video": "video", "clip": [1, 8.5], "conversations": talk("<video>\nQ", "A")},
    {"video": "video.mp4", "start": 2, "end": 7, "QA": [{"i": "Do.", "q": "Q", "a": "A"}]},
    {"video": "video.mp4", "clip": [2, 9], "conversations": [*at(3, "Q", "A"), *at(5.5, "<video>\nR", "B")]},
    {"video": "frames", "fps": 2, "need_reset_timestamp": True, "clip": [1, 5], "conversations": at(3, "Q", "A")},
    {"video": "named", "fps": 5, "conversations": talk("Q", "A", image_file="img00004.png")},
    {
        "video": "named", "all_image_files": NAMES, "fps": 2, "image_bboxes": BOXES,
        "query_template": {"from": "human", "value": "Follow <bbox>."},
    },
)  # fmt: skip
WHOLE = ["video.mp4", "video", "frames", "named", "small.png", "wide.png", "still.gif"]
ODD = ["gone.mp4", "", ".", "..", "/", "~nobody/x", "a\0b", "x" * 300, "empty.mp4", "text.mp4", "nothing", "codec.mp4"]
ODD += ["pages.tif", "mixed", "\ud800.mp4", "video.mp4/video.mp4", *(f"damaged{n}.mp4" for n in range(12))]
ODD += [f"damaged{n}.png" for n in range(6)]


@pytest.fixture(scope="module")
def odd_media(media: Path) -> Path:
    """Beside the whole media: empty, damaged and mislabelled ones."""
    from PIL import Image

    (media / "text.mp4").write_text("no video")
    (media / "nothing").mkdir()
    (media / "mixed").mkdir()
    (media / "mixed/1.png").write_bytes((media / "small.png").read_bytes())
    (media / "mixed/2.png").write_bytes((media / "wide.png").read_bytes()[:50])
    Image.open(media / "small.png").save(media / "still.gif")
    with_unknown_codec(media / "codec.mp4")
    with_damaged_second_page(media / "pages.tif")
    for suffix, original, count in (("mp4", "video.mp4", 12), ("png", "wide.png", 6)):
        data = (media / original).read_bytes()
        for number in range(count):
            (media / f"damaged{number}.{suffix}").write_bytes(mutated(data, random.Random(f"17 {suffix} {number}")))
    return media


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row whose values are spoiled, whose media are other ones, or both."""
    row = copy.deepcopy(draw(st.sampled_from(ROWS)))
    how = draw(st.sampled_from(["values", "media", "both"]))
    if how != "values":
        names = st.sampled_from(5 * WHOLE + ODD)
        fields = [name for name in ("image", "video", "all_image_files") if name in row]
        field = draw(st.sampled_from(fields or ["image"]))
        row[field] = draw(names | st.lists(names, min_size=1, max_size=3))
    return draw(spoiled((row,))) if how != "media" else row


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_to_spoil_give_examples(row: dict[str, Any], make_dataset: Any):
    dataset = make_dataset([row])
    assert dataset[0].source == ("set", 0) and not dataset.failures.failed


def in_this_process(keys: list[Any], samples_of: Any, look: MediaCheck, *, num_workers: int) -> dict[Any, Any]:
    return {key: look.at(key, samples_of(key)) for key in keys}


@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(row=rows())
def test_a_row_gives_an_example_or_is_counted(
    row: dict[str, Any], make_dataset: Any, odd_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # 1. training: an example, or what is wrong
    dataset: ConversationDataset = make_dataset([row], max_length=2000)
    assert 0 < dataset.lengths[0] <= 2000
    problem = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MediaWarning)
        try:
            with dataset.prepare(0, 0) as (layout, rendered):
                example = dataset.example(layout, rendered, ("set", 0))
            assert example.pixel_values.isfinite().all() and len(example.input_ids) <= 2000
        except (SampleError, MediaError) as error:
            problem = str(error)
            problem.encode()  # it goes to the log
    event("refused" if problem else "an example")
    # 2. the check of the same row sees it
    monkeypatch.setattr(check, "look_at_all", in_this_process)
    report = check.check_lists([tmp_path / "list.json"], num_workers=1, decode=dataset.settings)
    report.as_table().encode()
    write_json(tmp_path / "report.json", report.to_dict())
    assert problem is None or "max_length=" in problem or report.problems
