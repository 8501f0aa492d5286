"""`gate turns`: decisions as timed questions, balanced by choosing, which the ordinary trainer reads."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from tests.evaluation.conftest import write_video
from tests.streaming.test_standing_formats import JOYAI, STREAMO
from videochat_online.cli import main
from videochat_online.data.formats import format_of, read_row
from videochat_online.streaming.reading import StandingRow
from videochat_online.training.gate import decisions


def test_seconds_are_chosen_by_their_moment():
    row = StandingRow("v", "Tell me when it rains.", ((20.0, 22.0), (40.0, 40.0)), begin=3.0, until=100.0)
    found = decisions(row, np.random.default_rng(0))
    assert Counter(name for name, *_ in found) == {"now": 4, "near": 4, "quiet": 2}
    by_name = {name: [t for kind, t, *_ in found if kind == name] for name in ("now", "near", "quiet")}
    assert by_name["now"] == [22, 23, 40, 41]
    assert all(min(abs(t - m) for m in (20, 22, 40)) <= 5 for t in by_name["near"])
    assert all(3 <= t <= 50 and min(abs(t - m) for m in (20, 22, 40)) > 5 for t in by_name["quiet"])
    assert not {20, 21, 24, 42} & {t for _, t, *_ in found}  # either answer would do
    assert {(question, answer) for name, _, question, answer in found if name == "now"} == {
        ("Is it so now that it rains?", "Yes")
    }
    empty = decisions(StandingRow("v", "Is it on?", (), expect="No"), np.random.default_rng(0))
    assert [(name, answer) for name, _, _, answer in empty] == [("quiet", "Yes")]


def test_rows_of_other_sets_become_rows_that_are_trained_on(tmp_path, capsys):
    source, output = tmp_path / "joyai.json", tmp_path / "turns.json"
    source.write_text(json.dumps([STREAMO, JOYAI]))
    assert main(["gate", "turns", str(source), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 24 rows, 8 now, 8 near, 4 quiet, 4 say\n"
    rows = json.loads(output.read_text())
    samples = [read_row(row) for row in rows]
    assert {sample.kind for sample in samples} == {"online"} and {format_of(row) for row in rows} == {
        "dialogue in time"
    }
    said = [s.turns[0] for s in samples if s.turns[0].answer not in ("Yes", "No")]
    assert [(turn.timestamp, turn.question, turn.answer) for turn in said[:1]] == [
        (7.0, "<video>\nWarn me of smoke", "Smoke!")
    ]  # fmt: skip
    # and the trainer's own look at them, with the videos there
    for video in ("sub/a.mp4", "b.mp4"):
        write_video(tmp_path / video, 40, fps=2)
    assert main(["data", "check", str(output)]) == 0 and "24 of dialogue in time" in capsys.readouterr().out
    trained = [
        "--data",
        str(tmp_path / "turns_list.json"),
        "--model",
        "pocket",
        "--output-dir",
        str(tmp_path / "r"),
        "--preset",
        "finetune",
    ]
    assert main(["train", *trained, "--check"]) == 0


def test_no_second_behind_the_end_of_a_video_is_asked_about(tmp_path, capsys):
    """10 s long, and the moment at 9: near misses and quiet seconds lie before it."""
    write_video(tmp_path / "a.mp4", 20, fps=2)
    source, output = tmp_path / "rows.json", tmp_path / "turns.json"
    told = {"text": "Tell me when it rains.", "events": [{"start": 9.0, "time": 9.0, "say": "It rains."}]}
    source.write_text(json.dumps([{"video": "a", "standing": told}]))
    assert main(["gate", "turns", str(source), "--videos", str(tmp_path), "--output", str(output)]) == 0
    seconds = [row["conversations"][0]["timestamps"] for row in json.loads(output.read_text())]
    assert len(seconds) > 4 and max(seconds) <= 10.0
    capsys.readouterr()
    assert main(["data", "check", str(output)]) == 0, capsys.readouterr().out


def test_rows_of_other_sets_are_measured(tmp_path):
    """The reader is that of `eval standing` and `gate train`."""
    source = tmp_path / "rows.json"
    source.write_text(json.dumps([STREAMO, JOYAI]))
    for video in ("sub/a.mp4", "b.mp4"):
        write_video(tmp_path / video, 26, fps=2)
    command = ["eval", "standing", "--annotations", str(source), "--videos", str(tmp_path)]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/probabilities.jsonl").read_text().splitlines()]
    assert [(line["video"], line["times"][0], line["times"][-1]) for line in lines] == [
        ("b.mp4", 4.0, 25.0),
        ("sub/a.mp4", 3.0, 20.0),
        ("sub/a.mp4", 20.0, 25.0),
    ]
    assert [len(line["moments"]) for line in lines] == [1, 2, 1]
