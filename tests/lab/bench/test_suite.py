"""Reports of `bench all`: they grow by one benchmark at a time, and two of them are compared."""

from __future__ import annotations

import json

import pytest

from videochat_online.cli import main
from videochat_online.lab.bench.measure import machine
from videochat_online.lab.bench.suite import add_to_report, both_ratios, ratios, read_report

MEMORY = {
    "times": [{"bank": "2/2/12", "ms": 1.0, "batch/floor": 1.5}, {"bank": "2/2/12", "ms": 2.0, "batch/floor": 1.7}]
}
E2E = {"each question": [{"at s": 1.0, "one pass ms": 2.0, "re-encoding ms": 3.0}]}


def test_a_report_grows_by_one_benchmark_at_a_time(tmp_path):
    assert add_to_report(tmp_path, "memory", MEMORY) == ["results.json", "results.md", "ratios.png"]
    files = add_to_report(tmp_path, "e2e", E2E)
    assert sorted(files) == sorted(file.name for file in tmp_path.iterdir())
    add_to_report(tmp_path, "memory", {"times": MEMORY["times"][:1]})
    report = read_report(tmp_path)
    assert list(report) == ["memory", "e2e"] and len(report["memory"]["tables"]["times"]) == 1
    assert report["e2e"]["machine"] == json.loads(json.dumps(machine()))
    text = (tmp_path / "results.md").read_text()
    assert "## videochat-online bench e2e" in text and f"torch {machine()['torch']}" in text
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("ratios.png", "e2e.png"))


def test_the_machine_is_named():
    about = machine()
    assert about["cpu"] and about["cores"] >= 1 and about["torch"] and about["commit"] != ""


def test_two_reports_are_compared(tmp_path, capsys):
    add_to_report(tmp_path / "old", "memory", MEMORY)
    changed = {"times": [{**MEMORY["times"][0], "batch/floor": 3.0}, MEMORY["times"][1]]}
    add_to_report(tmp_path / "new", "memory", changed)
    assert main(["bench", "compare", str(tmp_path / "old"), str(tmp_path / "new" / "results.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2].split()[-3:] == ["1.5", "3", "2"] and shown[-1].split()[-3:] == ["1.7", "1.7", "1"]
    assert len(ratios(read_report(tmp_path / "old"))) == 2  # rows that differ in numbers only stay apart


def test_what_is_no_report_is_refused(tmp_path, capsys):
    add_to_report(tmp_path / "memory", "memory", MEMORY)
    add_to_report(tmp_path / "e2e", "e2e", E2E)
    for text in ("hello", "[]", '{"benchmarks": {"memory": []}}'):
        (tmp_path / "text").write_text(text)
        assert main(["bench", "compare", str(tmp_path / "text"), str(tmp_path / "memory")]) == 2
        assert "is not a report of" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no measurement in common"):
        both_ratios(tmp_path / "memory", tmp_path / "e2e")


def test_all_writes_what_only_names(tmp_path, capsys):
    small = ["--only", "memory", "--channels", "4", "--batch", "8", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "all", "--output", str(tmp_path / "out"), *small]) == 0
    assert list(read_report(tmp_path / "out")) == ["memory"] and "written to" in capsys.readouterr().out
