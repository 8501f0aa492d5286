"""Which frames: recorded choices of the published implementation, our rules, and where the two part on purpose."""

from __future__ import annotations

import doctest
import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from videochat_online.media import sampling
from videochat_online.media.readers import open_video
from videochat_online.media.sampling import sample_fps, sample_pass, sample_uniform, sample_window

TENTHS = [i / 10 for i in range(100)]  # 10 fps, 0.0 .. 9.9 s
AVA_START = 900.0
"""Seconds: the published evaluation looks at AVA films from here on only, so the windows are made shorter here."""


def test_the_docstrings_examples():
    assert doctest.testmod(sampling).failed == 0


def recorded(golden: Path, name: str, part: str | None = None) -> list[dict]:
    rows = json.loads((golden / name).read_text("utf-8"))
    return rows[part] if part else rows


def test_fps_and_uniform_choose_the_recorded_frames(golden: Path):
    rows = recorded(golden, "frame_indices.json")
    for row in rows:
        if row["sample"] == "middle":
            chosen = sample_uniform(row["vlen"], row["num_frames"])
        else:
            most = row["max_num_frames"] if row["max_num_frames"] > 0 else None
            chosen = sample_fps(row["vlen"], row["input_fps"], float(row["sample"].removeprefix("fps")), most)
        assert chosen == row["out"], row
    assert len(rows) == 165


@cache
def clip(path: Path) -> tuple[np.ndarray, float]:
    """Timestamps and mean frames a second of a recorded clip."""
    with open_video(path) as video:
        return video.timestamps, video.fps


def is_boundary(times: np.ndarray, moment: float) -> bool:
    """Whether one display ends and the next begins at `moment`."""
    return bool((np.abs(times[1:] - moment) < 1e-6).any())


PAST_END = "past the end: the last window (published: the whole video)"
AT_QUESTION = "a frame starts at the question's moment: it is seen (published: rounded to just before it)"
AT_OPENING = "a display ends as the window opens: it is over (published: part of the window)"
AFTER_LAST = "the question comes after the last frame's start: the window ends there (published: at the question)"


def window_difference(times: np.ndarray, video_fps: float, end: float, seconds: float) -> str | None:
    """Why our window may have other frames than the recorded one; None where the rules agree.

    The published code works with the ends of display, in single precision: the question's frame is the first whose end
    is later than the question, the window takes every frame whose end is not before its opening.
    """
    opening = end - seconds
    if opening > times[-1] + 1 / video_fps:
        return PAST_END
    if is_boundary(times, end) and float(np.float32(end)) > end:
        return AT_QUESTION
    if end > times[-1]:
        return AFTER_LAST
    if is_boundary(times, opening):
        return AT_OPENING
    return None


def test_windows_choose_the_recorded_frames_wherever_the_rules_agree(golden: Path):
    rows = recorded(golden, "eval_frames.json", "sliding_encode_video")
    num_same, differing = 0, Counter()
    for row in rows:
        times, video_fps = clip(golden / "media" / row["video"])
        end, seconds = row["timestamp"], row["sliding_window"]
        if row["video"].startswith("AVA"):
            seconds = min(seconds, end - AVA_START)
        chosen = sample_window(times, end, seconds, row["fps"], row["max_num_frames"], video_fps=video_fps)
        assert times[chosen[-1]] <= end
        why = window_difference(times, video_fps, end, seconds)
        assert chosen == row["frame_idx"] or why is not None, row
        num_same += chosen == row["frame_idx"]
        differing[why] += chosen != row["frame_idx"]
    assert +differing == {PAST_END: 12, AT_QUESTION: 12, AT_OPENING: 16, AFTER_LAST: 2}
    assert (num_same, len(rows)) == (141, 183)


def test_streams_choose_the_recorded_frames_when_told_the_ends_of_display(golden: Path):
    rows = recorded(golden, "eval_frames.json", "stream_single_encode_video")
    for row in rows:
        times, video_fps = clip(golden / "media" / row["video"])
        ends = np.append(times[1:], times[-1] + 1 / video_fps)
        start, end = row["clip"]
        chosen = sample_pass(ends, row["sample_fps"], start, end, video_fps=video_fps)
        assert chosen == (row["frame_idx"] or []), row  # None: the published code crashed on an empty range
    assert len(rows) == 56


def test_streams_differ_from_the_recorded_only_where_start_and_end_of_display_do(golden: Path):
    rows = recorded(golden, "eval_frames.json", "stream_single_encode_video")
    num_same = 0
    for row in rows:
        times, video_fps = clip(golden / "media" / row["video"])
        start, end = row["clip"]
        chosen = sample_pass(times, row["sample_fps"], start, end, video_fps=video_fps)
        published = row["frame_idx"] or []
        assert all(start <= times[index] <= end for index in chosen)
        ends_after = bool(chosen) and chosen[-1] not in published and times[chosen[-1]] + 1 / video_fps > end - 1e-6
        starts_before = bool(published) and times[published[0]] < start
        assert chosen == published or ends_after or starts_before, row
        num_same += chosen == published
    assert (num_same, len(rows)) == (21, 56)


def test_a_question_never_sees_a_later_frame():
    random = np.random.default_rng(0)
    for _ in range(300):
        times = np.cumsum(random.uniform(0.01, 0.5, size=random.integers(1, 80)))
        times -= times[0]
        end, seconds, fps = random.uniform(0, 20), random.uniform(0, 10), random.uniform(0.2, 20)
        chosen = sample_window(times, end, seconds, fps, int(random.integers(1, 10)), video_fps=4.0)
        assert chosen
        assert chosen == sorted(set(chosen))
        assert times[chosen[-1]] == times[times <= end][-1]  # the newest is on screen at the question


def test_a_window_does_not_depend_on_what_comes_after_the_question():
    random = np.random.default_rng(1)
    for _ in range(300):
        times = np.cumsum(random.uniform(0.01, 0.5, size=80))
        end, seconds = random.uniform(times[0], times[-1]), random.uniform(0, 10)
        whole = sample_window(times, end, seconds, 2.0, 16, video_fps=4.0)
        assert whole == sample_window(times[times <= end], end, seconds, 2.0, 16, video_fps=4.0)


def test_windows_at_the_edges():
    assert sample_window(TENTHS, end=0.0, seconds=5, fps=2, video_fps=10) == [0]
    assert sample_window(TENTHS, end=-0.1, seconds=5, fps=2, video_fps=10) == []
    assert sample_window(TENTHS, end=4.4, seconds=0, fps=2, video_fps=10) == [44]
    last = sample_window(TENTHS, end=9.9, seconds=1, fps=5, video_fps=10)
    assert sample_window(TENTHS, end=1000, seconds=1, fps=5, video_fps=10) == last
    assert sample_window(TENTHS, end=10.0, seconds=1, fps=5, video_fps=10) == [89, 91, 93, 95, 97, 99]
    assert sample_window(TENTHS, end=9.9, seconds=9, fps=10, max_frames=1, video_fps=10) == [99]
    assert sample_window([0.0], end=3.0, seconds=1, fps=2, video_fps=10) == [0]


def test_rates_above_the_videos_take_every_frame():
    assert sample_window(TENTHS, end=0.55, seconds=0.3, fps=1000, video_fps=10) == [2, 3, 4, 5]
    assert sample_pass(TENTHS, fps=1000, start=9.65, video_fps=10) == [97, 98, 99]


def test_a_half_step_is_rounded_to_even_whatever_the_noise():
    """25 fps seen at 2 fps: every 12th frame, though the mean rate comes out as 24.999999999999996 or so."""
    for num_frames in range(2, 2000, 7):
        times = [i / 25 for i in range(num_frames)]
        assert sample_pass(times, fps=2, video_fps=(num_frames - 1) / times[-1])[:2] in ([0], [0, 12])


def test_streams_at_the_edges():
    assert sample_pass(TENTHS, fps=2, video_fps=10) == list(range(0, 100, 5))
    assert sample_pass(TENTHS, fps=1, start=9.9, end=9.9, video_fps=10) == [99]
    assert sample_pass(TENTHS, fps=1, start=50, end=60, video_fps=10) == []
    assert sample_pass(TENTHS, fps=1, start=3, end=2, video_fps=10) == []


def test_sampling_fewer_frames_than_asked_for():
    assert sample_uniform(3, 8) == [0, 1, 2]
    assert sample_uniform(1, 1) == [0]
    assert sample_fps(1, video_fps=30, fps=1) == []  # shorter than half a period


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_fps(0, 25, 1), "num_frames must be a number > 0, got 0"),
        (lambda: sample_fps(10, 25, 0), "fps must be a number > 0, got 0"),
        (lambda: sample_fps(10, float("nan"), 1), "video_fps must be a number > 0, got nan"),
        (lambda: sample_fps(10, 25, 1, 0), "max_frames must be a number > 0, got 0"),
        (lambda: sample_uniform(10, 0), "n must be a number > 0, got 0"),
        (lambda: sample_window(TENTHS, 1, -1, 1, video_fps=10), "seconds >= 0, got end=1, seconds=-1"),
        (lambda: sample_window(TENTHS, float("nan"), 1, 1, video_fps=10), "finite end"),
        (lambda: sample_window(TENTHS, 1, 1, -2, video_fps=10), "fps must be a number > 0, got -2"),
        (lambda: sample_window([], 1, 1, 1, video_fps=10), "ascending seconds, got shape"),
        (lambda: sample_pass([0.0, 2.0, 1.0], 1, video_fps=10), "ascending seconds, got shape"),
        (lambda: sample_pass([0.0, float("nan")], 1, video_fps=10), "ascending seconds, got shape"),
        (lambda: sample_pass(TENTHS, 1, float("nan"), video_fps=10), "start and end must be seconds"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(call, message: str):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        call()
