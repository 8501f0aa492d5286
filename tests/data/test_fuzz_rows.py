"""Rows, annotation files and data-set lists that are a little, or quite, wrong: read, or refused in our own words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from videochat_online.data.formats import format_of, read_row
from videochat_online.data.registry import Annotations, collect_lists
from videochat_online.data.sample import Sample, SampleError

SEEDED = settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HUMAN, GPT = {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat."}
ROWS: tuple[dict[str, Any], ...] = (
    {"conversations": [{"from": "human", "value": "What is 2 + 2?"}, GPT]},
    {"image": "a.jpg", "conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT, HUMAN, GPT]},
    {"image": ["a.jpg", "b.jpg"], "conversations": [{"from": "human", "value": "<image> or <image>?"}, GPT]},
    {"video": "a.mp4", "conversations": [HUMAN, GPT], "clip": [1.0, 4.5], "fps": 2},
    {"video": "a.mp4", "QA": [{"i": "Look.", "q": "What?", "a": "A cat."}], "start": 0, "end": 3},
    {"video": "a.mp4", "conversations": [HUMAN | {"timestamps": 1.5}, GPT], "need_reset_timestamp": True},
    {"video": "frames", "all_image_files": ["1.jpg", "2.jpg"], "conversations": [HUMAN | {"image_file": "1.jpg"}, GPT]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What?"}],
            },
            {"role": "assistant", "content": "A cat.", "loss": True},
        ]
    },
    {"conversations": [HUMAN, GPT], "videos": ["a.mp4"], "system": "Be brief."},
    {
        "video": "a.mp4",
        "query_template": {"from": "human", "value": "Where does <bbox> go?"},
        "image_bboxes": [{"timestamp": 0.0, "bbox": [0, 0.5, 1, 1]}, {"timestamp": 1, "bbox": "[0, 0, 1, 1]"}],
    },
)
LIST = {
    "set": {"annotation": "a.json", "data_root": ".", "data_augment": False, "repeat_time": 0.5, "max_dynamic_patch": 6}
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["", "human", "gpt", "\ud800", "<image>", "<bbox>", 10**400, -1, 0, float("nan"), float("inf")])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside of `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in inner for found in [(*way, key), *places(child, (*way, key))]]


@st.composite
def spoiled(draw: st.DrawFn, originals: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One of `originals`, with up to three values replaced, missing or doubled."""
    row = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        if not (ways := places(row)):
            break
        *way, key = draw(st.sampled_from(ways))
        holder = row
        for step in way:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "remove", "double"]))
        if change == "replace":
            holder[key] = draw(values)
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
    return row


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_to_spoil_are_right(row: dict[str, Any]):
    assert isinstance(read_row(row), Sample)


@SEEDED
@given(row=spoiled(ROWS))
def test_a_row(row: dict[str, Any]):
    before = repr(row)
    assert format_of(row)
    try:
        assert isinstance(read_row(row), Sample)
    except SampleError as error:
        assert str(error)
    assert repr(row) == before, "reading changes nothing"


@SEEDED
@given(
    rows=st.lists(spoiled(ROWS), max_size=3),
    is_list=st.booleans(),
    noise=st.binary(max_size=6),
    place=st.integers(0, 400),
    is_cut=st.booleans(),
)
@example(rows=[], is_list=False, noise=b"\xff", place=0, is_cut=False)
def test_an_annotation_file(
    rows: list[dict[str, Any]], is_list: bool, noise: bytes, place: int, is_cut: bool, tmp_path: Path
):
    written = json.dumps(rows) if is_list else "\n".join(map(json.dumps, rows))
    data = written.encode("utf-8", "surrogatepass")
    path = tmp_path / "rows.json"
    path.write_bytes(data[:place] + noise + (b"" if is_cut else data[place:]))
    try:
        assert all(isinstance(row, dict) for row in Annotations(path))
    except ValueError as error:
        assert type(error) is ValueError, "not json's own"
        assert str(path) in str(error)


@SEEDED
@given(entries=spoiled((LIST,)))
def test_a_list_of_data_sets(entries: dict[str, Any], tmp_path: Path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries))
    sets, problems = collect_lists([path], {})
    assert sets or problems
    assert all(isinstance(problem, str) and problem for problem in problems)
