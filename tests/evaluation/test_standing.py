"""`eval standing`: one pass, stored; thresholds from other videos; blind players beside it."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.conftest import write_frames
from videochat_online.cli import main
from videochat_online.evaluation.afterwards import INCOMPLETE
from videochat_online.evaluation.standing import at_threshold, measured
from videochat_online.streaming.reading import StandingRow, WatchedRow
from videochat_online.streaming.standing import Readout

EVENT = {"start": 2.0, "time": 3.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build = ["--videos", "4", "--seconds", "10", "--level", "2", "--fps", "2", "--questions", "0", "--split", "test"]
    assert main(["world", "build", str(folder), *build]) == 0
    assert main(["world", "standing", str(folder)]) == 0
    return folder


def test_one_pass_gives_the_table_and_a_second_run_reads_nothing(world, tmp_path, capsys, monkeypatch):
    command = ["eval", "standing", "--annotations", str(world / "standing.json"), "--videos", str(world)]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert set(report["players"]) == {
        "likelihood", "likelihood, another instruction", "random", "frame difference", "every n seconds",
        "once after n seconds", "silent",
    }  # fmt: skip
    assert report["players"]["silent"]["rates"]["1"]["recall"] == 0 and "| likelihood | " in table
    lines = [json.loads(line) for line in (tmp_path / "run/probabilities.jsonl").read_text().splitlines()]
    assert len(lines) == report["instructions"] == len(json.loads((world / "standing.json").read_text()))
    assert all(len(line["p"]["likelihood"]) == len(line["times"]) == 10 for line in lines)
    monkeypatch.setattr("videochat_online.streaming.reading.read_video", None)
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == table


def test_a_video_that_breaks_on_the_way_costs_its_own_rows(tmp_path, capsys):
    """A folder of pictures, one of which is none: a line, counted, and the run is incomplete."""
    rows = [{"video": name, "standing": {"text": "Is there a ring?", "events": [EVENT]}} for name in ("a", "b", "c")]
    for row in rows:
        write_frames(tmp_path / row["video"], [f"{n}.png" for n in range(6)])
    (tmp_path / "b/3.png").write_bytes(b"no picture")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = ["eval", "standing", "--annotations", str(tmp_path / "rows.json"), "--videos", str(tmp_path), "--output"]
    assert main([*command, str(tmp_path / "r")]) == INCOMPLETE
    report, shown = json.loads((tmp_path / "r/report.json").read_text()), capsys.readouterr().err
    assert report["instructions"] == 2 and "b with 1 of 3 instructions: " in report["left_out"][0]
    assert shown.count("caution: left out: b with 1 of 3 instructions: ") == 1
    (tmp_path / "c/3.png").write_bytes(b"no picture")
    assert main([*command, str(tmp_path / "other")]) == 2  # a threshold is fixed on another video
    gate = ["gate", "train", str(tmp_path / "rows.json"), "--videos", str(tmp_path), "--epochs", "1"]
    assert main([*gate, "--output", str(tmp_path / "gate.safetensors")]) == 2
    assert "a gate needs two videos or more that can be read" in capsys.readouterr().err


def test_a_level_is_fixed_on_the_other_half():
    """A player that is perfect at a level of its own in each half gains nothing from it."""
    readouts = [Readout(float(second), 0.0) for second in range(61)]
    rows = [WatchedRow(StandingRow(f"v{k}", "x", ((30.0, 31.0),)), k, readouts, []) for k in range(4)]

    def figures(**levels):
        """Of a player that says at each level what stands there, for each row."""
        return measured({float(level): each for level, each in levels.values()}, rows)["rates"]

    # right in the videos of one half, loud in the others
    right, loud = [31.0], list(range(0, 60, 2))
    found = figures(first=(0, [right, loud] * 2), second=(1, [loud, right] * 2))
    assert found["4"]["recall"] == 1.0 and found["4"]["alarms_a_minute"] > 20
    found = figures(right=(0.5, [right] * 4))["0.25"]
    assert found["recall"] == 1.0 and found["alarms_a_minute"] == 0 and found["interval"][1] == 1.0
    found = figures(late=(0.5, [[33.5]] * 4))["4"]
    assert found["recall"] == 0.0 and found["alarms_a_minute"] == pytest.approx(1.0)


def test_what_a_threshold_gives_that_was_fixed_before():
    readouts = [Readout(float(second), 0.0) for second in range(61)]
    moments = [((30.0, 31.0),), ()]
    rows = [WatchedRow(StandingRow(f"v{k}", "x", each), k, readouts, []) for k, each in enumerate(moments)]
    series = [[float(second in (10, 30)) for second in range(61)], [0.5 * (second == 20) for second in range(61)]]
    found = at_threshold(0.7, rows, series, 3.0)
    assert found == {"threshold": 0.7, "recall": 1.0, "alarms_a_minute": 0.5, "alarms_in_an_empty_hour": 0.0}
    assert at_threshold(0.4, rows, series, 3.0)["alarms_in_an_empty_hour"] == 60.0


def test_mistakes(world, tmp_path, capsys):
    command = ["eval", "standing", "--videos", str(world), "--output", str(tmp_path / "run")]
    assert main([*command, "--annotations", str(tmp_path / "no.json")]) == 2
    assert "no.json cannot be read" in capsys.readouterr().err
    assert main([*command, "--annotations", str(world / "standing.json"), "--limit", "1"]) == 2
    assert "thresholds are fixed on other videos, so two or more are needed" in capsys.readouterr().err
    assert main([*command, "--annotations", str(world / "standing.json"), "--gate-only"]) == 2
    assert "--gate-only goes with --gate FILE" in capsys.readouterr().err
    assert main([*command, "--annotations", str(world / "standing.json"), "--refractory", "-2"]) == 2
    assert "the refractory must be seconds >= 0" in capsys.readouterr().err
