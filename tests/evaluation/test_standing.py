"""`eval standing`: one pass, stored; thresholds from other videos; blind players beside it."""

from __future__ import annotations

import json

import pytest

from videochat_online.cli import main
from videochat_online.data.standing import StandingRow
from videochat_online.evaluation.standing import StandingPlayer, WatchedRow, measured


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


def test_a_level_is_fixed_on_the_other_half():
    """A player that is perfect at a level of its own in each half gains nothing from it."""
    rows = [WatchedRow(StandingRow(f"v{k}", "x", ((30.0, 31.0),)), k, list(range(61))) for k in range(4)]

    def said(level):  # right in the videos of one half, loud in the others
        return [[31.0] if one.video % 2 == level else list(range(0, 60, 2)) for one in rows]

    found = measured(StandingPlayer("two-faced", [0.0, 1.0], said), rows)
    assert found["rates"]["4"]["recall"] == 1.0 and found["rates"]["4"]["alarms_a_minute"] > 20
    right = measured(StandingPlayer("right", [0.5], lambda level: [[31.0]] * 4), rows)["rates"]["0.25"]
    assert right["recall"] == 1.0 and right["alarms_a_minute"] == 0 and right["interval"][1] == 1.0
    late = measured(StandingPlayer("late", [0.5], lambda level: [[33.5]] * 4), rows)["rates"]["4"]
    assert late["recall"] == 0.0 and late["alarms_a_minute"] == pytest.approx(1.0)


def test_mistakes(world, tmp_path, capsys):
    command = ["eval", "standing", "--videos", str(world), "--output", str(tmp_path / "run")]
    assert main([*command, "--annotations", str(tmp_path / "no.json")]) == 2
    assert "no.json cannot be read" in capsys.readouterr().err
    assert main([*command, "--annotations", str(world / "standing.json"), "--limit", "1"]) == 2
    assert "thresholds are fixed on other videos, so two or more are needed" in capsys.readouterr().err
    assert main([*command, "--annotations", str(world / "standing.json"), "--refractory", "-2"]) == 2
    assert "the refractory must be seconds >= 0" in capsys.readouterr().err
