"""A share of a data set is held out by whole files, the same rows however the data lies, never shown in training."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from videochat_online.training.evaluating import by_digest, in_both, media_of, split


def text_row(number: int) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": f"{number}?"}, {"from": "gpt", "value": f"number {number}"}]}


def video_row(video: str, number: int) -> dict[str, Any]:
    return {"video": video, **text_row(number)}


def words(dataset: Any) -> list[str]:
    return sorted(json.dumps(dataset.annotations[one][row]) for one, row in dataset.rows.tolist())


def test_the_same_rows_in_any_order_and_layout(make_dataset: Any):
    rows = [text_row(number) for number in range(200)]
    rest, held = split(make_dataset(rows), 0.1, 1000)
    assert (len(held), len(rest)) == (20, 180)
    assert sorted(words(rest) + words(held)) == sorted(map(json.dumps, rows))
    mixed = [dict(reversed(row.items())) for row in random.Random(0).sample(rows, len(rows))]
    assert words(split(make_dataset(mixed), 0.1, 1000)[1]) == words(held)
    assert words(split(make_dataset(rows), 0.05, 1000)[1]) == words(by_digest(held, 10))
    assert len(split(make_dataset(rows), 0.1, 8)[1]) == 8


def test_a_clip_is_on_one_side_and_repeats_with_it(make_dataset: Any):
    """Four rows about each of ten videos, named with and without suffix; each row is shown twice in training."""
    rows = [video_row(f"v{number % 10}" + ".mp4" * (number % 3 > 0), number) for number in range(40)]
    rest, held = split(make_dataset(rows, entry={"repeat_time": 2}), 0.2, 1000)
    assert len(held) == 8 and len(rest) == 64

    def videos(part: Any) -> set[str]:
        return {
            row["video"].removesuffix(".mp4") for row in (part.annotations[0][row] for _, row in part.rows.tolist())
        }

    assert len(videos(held)) == 2 and not videos(held) & videos(rest)
    assert set(rest.usable[0]).isdisjoint(held.usable[0])


@pytest.mark.parametrize(("files", "share", "number"), [(1, 0.5, 0), (2, 0.1, 0), (6, 0.1, 5), (30, 0.01, 0)])
def test_none_where_it_would_be_too_many(make_dataset: Any, files: int, share: float, number: int):
    rows = [video_row(f"v{number % files}.mp4", number) for number in range(30)]
    rest, held = split(make_dataset(rows), share, 1000)
    assert (len(held), len(rest)) == (number, 30 - number)


def test_a_held_out_row_replaces_no_other(make_dataset: Any):
    """Of 20 rows half cannot be read; none of the replacements is held out."""
    rows = [text_row(number) if number % 2 else video_row("none.mp4", number) for number in range(20)]
    rest, held = split(make_dataset(rows, max_failed_share=1.0), 0.3, 1000)
    hidden = {row for _, row in held.rows.tolist()}
    assert hidden and not {rest[index].source[1] for index in range(len(rest))} & hidden


def test_what_a_row_is_about(make_dataset: Any):
    def about(**row: Any) -> set[str]:
        return media_of(make_dataset([{**text_row(0), **row}], entry={"data_root": "/data"}), (0, 0))

    assert about(video="a/b.mp4") == about(video="./a/b") == {"/data/a/b"}
    assert about(image=["x.jpg", "y.jpg"]) == {"/data/x", "/data/y"}
    assert about(video=["f/1.jpg", "f/2.jpg"], fps=1) == about(video="f", fps=1) == {"/data/f"}
    assert about() == about(conversations=[]) == set()


def test_rows_that_share_a_file_over_others_stay_together(make_dataset: Any):
    """Forty rows of two pictures each, in chains of four."""
    rows = [{"image": [f"{n}.jpg", f"{n + (n % 4 < 3)}.jpg"], **text_row(n)} for n in range(40)]
    rest, held = split(make_dataset(rows), 0.2, 1000)
    chains = {row // 4 for _, row in held.rows.tolist()}
    assert (len(held), len(chains)) == (8, 2) and not {row // 4 for _, row in rest.rows.tolist()} & chains


def test_rows_that_stand_in_both_are_named(make_dataset: Any):
    rows = [text_row(number) for number in range(6)]
    (line,) = in_both(make_dataset([*rows[4:], text_row(9)]), make_dataset(rows))
    assert line.startswith("2 rows of the set 'set' of --eval-data stand in the training set 'set' too")
    assert in_both(make_dataset([text_row(9)]), make_dataset(rows)) == []
