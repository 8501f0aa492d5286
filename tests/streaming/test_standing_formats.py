"""Rows of Streamo and JoyAI, and a turn a second, as rows with instructions; the two forms of one set say the same."""

from __future__ import annotations

import copy
import json

import pytest

from videochat_online.cli import main
from videochat_online.streaming.reading import read_standing_rows
from videochat_online.streaming.standing_formats import is_foreign, own_rows, seconds_of

STREAMO = {
    "video_name": "a.mp4", "video_path": "sub/a.mp4", "task_type": "event", "source": "x",
    "question": [{"content": "Tell me when somebody comes.", "time": "3"}, {"content": "Who is it?", "time": 20}],
    "response": [{"content": "A man walks in", "st_time": 5.0, "end_time": "7", "time": ""},
                 {"content": "Another one", "time": "0:12"}, {"content": "Ann", "time": 22.5},
                 {"content": "before anybody asked", "time": 1}],
}  # fmt: skip
JOYAI = {
    "video_name": "b.mp4", "video_path": "", "task_type": "chat", "source": "y",
    "question": [{"content": "Warn me of smoke", "time": "4"}], "response": [{"content": "Smoke!", "time": "7"}],
}  # fmt: skip


def turn(second: str, answer: str, text: str = "") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{text}\n{second}\n<stream>"}, {"role": "assistant", "content": answer}]


TURNS = {
    "messages": [
        {"role": "system", "content": "You watch."},
        *turn("<0s-1s>", "</Silence>"),
        *turn("<1s-2s>", "</Standby>", "Tell me when it rains."),
        *turn("<2s-3s>", "</Silence>"),
        *turn("<3s-4s>", "</Standby>"),
        *turn("<4s-5s>", "</Standby>"),
        *turn("<5s-6s>", "</Response> It rains."),
        *turn("<6.0 seconds>", "</response> Still."),
    ],
    "videos": ["c.mp4"],
}


def test_rows_with_questions_and_responses():
    before = copy.deepcopy(STREAMO)
    first, second = own_rows(STREAMO)
    assert first == {
        "video": "sub/a.mp4",
        "kind": "event",
        "standing": {
            "text": "Tell me when somebody comes.", "from": 3.0, "until": 20.0,
            "events": [{"start": 5.0, "time": 7.0, "say": "A man walks in"},
                       {"start": 12.0, "time": 12.0, "say": "Another one"}],
        },
    }  # fmt: skip
    assert second["standing"]["events"] == [{"start": 22.5, "time": 22.5, "say": "Ann"}]
    assert second["standing"]["question"].startswith(
        "Can this question be answered from what is seen by now: Who is it?"
    )
    (joyai,) = own_rows(JOYAI)
    assert joyai["video"] == "b.mp4" and joyai["standing"]["events"] == [{"start": 7.0, "time": 7.0, "say": "Smoke!"}]
    assert before == STREAMO and is_foreign(STREAMO) and not is_foreign({"video": "x", "standing": {}})


def test_a_turn_a_second():
    (row,) = own_rows(TURNS)
    assert row["video"] == "c.mp4" and row["standing"]["text"] == "Tell me when it rains."
    rains, still = row["standing"]["events"]
    assert rains == {"start": 3.0, "time": 6.0, "say": "It rains."}
    assert still == {"start": 6.0, "time": 6.0, "say": "Still."}


def test_seconds():
    assert [seconds_of(one) for one in ("7", 7.5, "1:07", "0:01:07.5")] == [7.0, 7.5, 67.0, 67.5]
    with pytest.raises(ValueError, match="could not convert"):
        seconds_of("soon")


def test_what_cannot_be_followed_is_left_out_and_counted(tmp_path):
    bad = [
        {**JOYAI, "question": [{"content": "x" * 600, "time": 0}]},
        {**JOYAI, "response": [{"content": "y", "time": "later"}]},
        {**TURNS, "messages": [{"role": "assistant", "content": "Hello"}]},
        {**TURNS, "messages": [{"role": "user", "content": "no second"}]},
        {"messages": 3},
        {**JOYAI, "question": []},
        JOYAI,  # once more
        {"video": "o.mp4", "standing": {"text": "Tell me when it snows.", "events": []}},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([STREAMO, JOYAI, TURNS, *bad]))
    with pytest.warns(
        UserWarning, match=r"^7 rows are left out, such as .*row 3: an instruction may have 500 characters"
    ):
        rows = read_standing_rows(path)
    assert [(row.video, row.begin, row.until) for row in rows] == [
        ("b.mp4", 4.0, float("inf")),
        ("c.mp4", 1.0, float("inf")),
        ("o.mp4", 0.0, float("inf")),
        ("sub/a.mp4", 3.0, 20.0),
        ("sub/a.mp4", 20.0, float("inf")),
    ]
    path.write_text(json.dumps([{"video": "o.mp4", "standing": {"text": "x"}}]))
    with pytest.raises(ValueError, match="row 0 cannot be read"):  # of our own rows, each must be right
        read_standing_rows(path)


@pytest.mark.parametrize("odd", [{"time": float("nan")}, {"time": "inf"}, {"time": 7, "content": 3}])
def test_odd_values_cost_their_own_row(tmp_path, odd):
    response = {**JOYAI["response"][0], **odd}
    (tmp_path / "x.json").write_text(json.dumps([{**JOYAI, "response": [response]}, STREAMO]))
    with pytest.warns(UserWarning, match="1 rows are left out, such as .*row 0"):
        rows = read_standing_rows(tmp_path / "x.json")
    assert {row.video for row in rows} == {"sub/a.mp4"}


def test_a_moment_in_a_thousand_years_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps([{**JOYAI, "response": [{"content": "x", "time": 3e10}]}]))
    assert main(["gate", "turns", str(tmp_path / "x.json"), "--output", str(tmp_path / "turns.json")]) == 2
    assert "is no second of a video" in capsys.readouterr().err and not (tmp_path / "turns.json").exists()
