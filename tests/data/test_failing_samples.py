"""Samples that do not fit or cannot be read: shown with less, replaced and named once, or the end of the run."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_dataset import MISSING, ROWS, same
from tests.odd_media import with_damaged_second_page, with_gbk_title, with_unknown_codec
from videochat_online.data.dataset import TooManyFailures
from videochat_online.data.settings import DataSettings
from videochat_online.processing import Processor

from .conftest import talk


def test_a_sample_too_long_is_shown_fewer_frames(make_dataset: Any, caplog: pytest.LogCaptureFixture):
    full = make_dataset([ROWS["online"]])
    max_length = len(full[0].input_ids) - 1
    dataset = make_dataset([ROWS["online"]], max_length=max_length)
    with caplog.at_level(logging.WARNING):
        example, again = dataset[0], dataset[0]
    assert same(example, again)
    assert len(example.input_ids) <= max_length
    assert 1 <= len(example.image_grids) < 6
    spoken = [[id_ for id_ in one.labels if id_ != -100] for one in (full[0], example)]
    assert spoken[0] == spoken[1]  # no word is cut
    assert dataset.failures.shortened == {("set", 0)}
    assert [record.getMessage() for record in caplog.records] == [
        f"set, row 0 is longer than {max_length} tokens: shown with {len(example.image_grids)} pictures instead of 6 "
        "(1 such so far)"
    ]


def test_an_image_too_large_is_shown_in_fewer_tiles(make_dataset: Any):
    row = ROWS["image"] | {"image": "wide.png"}
    full = len(make_dataset([row], max_dynamic_patch=8)[0].input_ids)
    dataset = make_dataset([row], max_dynamic_patch=8, max_length=full - 1)
    assert len(dataset[0].image_grids) < 9
    assert dataset.failures.shortened == {("set", 0)}


def test_text_too_long_fails(make_dataset: Any):
    rows = [
        {"conversations": talk("Q", "word " * 400)},
        ROWS["text"],
        ROWS["video"] | {"conversations": talk("Q " * 400, "A")},
    ]
    dataset = make_dataset(rows, max_length=300, max_failed_share=1)
    assert dataset[0].source[1] == dataset[2].source[1] == 1
    assert "tokens with 0 pictures, expected at most max_length=300" in dataset.failures.failed["set", 0]
    assert "tokens with 1 pictures" in dataset.failures.failed["set", 2]


def test_a_failing_sample_is_replaced_counted_and_named_once(make_dataset: Any, caplog: pytest.LogCaptureFixture):
    rows = [*(ROWS["text"] for _ in range(3)), MISSING, ROWS["image"]]
    dataset = make_dataset(rows)
    with caplog.at_level(logging.WARNING):
        first, again = dataset[3], dataset[3]
    assert same(first, again)
    assert first.source[1] != 3
    assert (dataset.failures.num_failed, dataset.failures.num_read) == (2, 4)
    (record,) = caplog.records
    assert "set, row 3 cannot be used and is replaced" in record.getMessage()
    assert "gone.mp4" in record.getMessage()
    assert make_dataset(rows)[3].source == first.source


def test_odd_files_are_replaced_and_counted(make_dataset: Any, media: Path):
    """Whatever their library raises; a title that is not UTF-8 is no reason."""
    with_unknown_codec(media / "unknown.mp4")
    with_damaged_second_page(media / "pages.tif")
    with_gbk_title(media / "titled.mp4")
    odd = [{"video": name, "conversations": talk("Q", "A")} for name in ("unknown.mp4", "pages.tif", "titled.mp4")]
    dataset = make_dataset([*odd, ROWS["text"], ROWS["image"]], max_failed_share=0.2)
    sources = [dataset[index].source[1] for index in range(5)]
    assert sources[2:] == [2, 3, 4] and not {0, 1} & set(sources[:2])
    assert {row for _, row in dataset.failures.failed} == {0, 1}
    assert dataset.failures.num_failed >= 2


def test_too_many_failing_samples_stop_the_run(make_dataset: Any):
    rows = [ROWS["text"], *({**MISSING, "video": f"gone{n}.mp4"} for n in range(9))]
    dataset = make_dataset(rows, max_failed_share=0.03)
    with pytest.raises(TooManyFailures) as caught:
        for index in range(len(dataset)):
            dataset[index]
    message = str(caught.value)
    assert "--max-failed-share 0.03" in message
    assert message.count("gone") >= 2
    assert re.match(r"4 of \d+ samples could not be used", message)
    assert "data check" in message


def test_a_set_without_a_readable_sample_is_an_error(make_dataset: Any):
    with pytest.raises(TooManyFailures, match="nor could 10 replacements of sample 0"):
        make_dataset([MISSING], max_failed_share=1)[0]


def test_our_own_mistakes_are_not_a_samples_fault(make_dataset: Any, monkeypatch: pytest.MonkeyPatch):
    dataset = make_dataset([ROWS["image"]])
    monkeypatch.setattr(Processor, "render", lambda *_: {}["a bug"])
    with pytest.raises(KeyError, match="a bug"):
        dataset[0]


def test_indices_and_settings_are_checked(make_dataset: Any):
    dataset = make_dataset([ROWS["text"]])
    for index in (-1, 1):
        with pytest.raises(IndexError, match="expected 0 <= index < 1"):
            dataset[index]
    for wrong, message in (
        ({"fps": 0}, "--fps must be above 0, got 0"),
        ({"num_frames": 0}, "--num-frames must be at least 1, got 0"),
        ({"mixing": "cube"}, "--mixing must be one of proportional, sqrt, got 'cube'"),
        ({"max_failed_share": 2}, "--max-failed-share must be from 0 to 1, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            DataSettings(**wrong)  # type: ignore[arg-type]
