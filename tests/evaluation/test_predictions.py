"""The file of predictions survives kills, halves and second writers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from videochat_online.evaluation.predictions import Prediction, appending, read_predictions, write_merged
from videochat_online.evaluation.runner import Shard

ONE = Prediction("q1", "v", "v", "t", "c", "s", 1.5, "A", "é (A)", "A", True, scores=(-1.0, -2.0), num_frames=3)
TWO = replace(ONE, id="q2", correct=False)


def write(path: Path, *predictions: Prediction) -> None:
    with appending(path) as append:
        for prediction in predictions:
            append(prediction)


def test_what_is_written_is_read(tmp_path: Path):
    write(tmp_path / "predictions.jsonl", ONE, TWO)
    assert read_predictions(tmp_path) == {"q1": ONE, "q2": TWO}


def test_a_run_from_before_ages_were_told_is_read(tmp_path: Path):
    write(tmp_path / "predictions.jsonl", replace(ONE, evidence_age=7.5), TWO)
    first, second = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert first["evidence_age"] == 7.5 and second.pop("evidence_age") is None
    (tmp_path / "predictions.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert read_predictions(tmp_path) == {"q1": replace(ONE, evidence_age=7.5), "q2": TWO}


def test_a_line_is_there_as_soon_as_write_returns(tmp_path: Path):
    with appending(tmp_path / "predictions.jsonl") as append:
        append(ONE)
        assert read_predictions(tmp_path) == {"q1": ONE}


@pytest.mark.parametrize("num_bytes", [1, 40, 10_000])
def test_a_half_written_last_line_is_cut_off(tmp_path: Path, num_bytes: int):
    path = tmp_path / "predictions.jsonl"
    write(path, ONE, TWO)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: min(first + num_bytes, len(whole) - 1)])
    assert list(read_predictions(tmp_path)) == ["q1"]
    write(path, TWO)
    assert path.read_bytes() == whole


def test_a_file_with_nothing_but_half_a_line_begins_anew(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "q')
    assert read_predictions(tmp_path) == {}
    write(path, ONE)
    assert read_predictions(tmp_path) == {"q1": ONE}


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    write(path, ONE)
    path.write_text(path.read_text() + '{"id": 3}\n')
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 2: not a prediction"):
        read_predictions(tmp_path)


def test_an_error_gives_way_to_an_answer_and_an_answer_to_nothing(tmp_path: Path):
    failed = replace(ONE, response=None, extracted=None, correct=False, error="missing")
    other = replace(ONE, response="(B)", extracted="B", correct=False)
    write(tmp_path / "predictions.jsonl", failed, ONE, failed, other)
    assert read_predictions(tmp_path) == {"q1": ONE}


def test_all_processes_are_read_and_merged_in_order(tmp_path: Path):
    write(Shard(1, 2).file(tmp_path), TWO)
    write(Shard(0, 2).file(tmp_path), replace(ONE, id="q3"), ONE)
    write_merged(tmp_path, read_predictions(tmp_path).values())
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["q1", "q2", "q3"]
    assert len(read_predictions(tmp_path)) == 3


def test_a_second_writer_is_refused(tmp_path: Path):
    path = tmp_path / "predictions.jsonl"
    with appending(path), pytest.raises(ValueError, match="being written by another process"), appending(path):
        pass
    write(path, ONE)
