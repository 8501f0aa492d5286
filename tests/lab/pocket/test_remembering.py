"""The evidence about memory: ages that are spread, choices that are what they say, runs that go on, a page by hand."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from videochat_online import MemoryConfig, PyramidMemoryBank, load_model
from videochat_online.lab.pocket import remembering, showing
from videochat_online.lab.pocket.aged import FPS, WITHIN, YOUNGEST, Streams, age_of, spread_out
from videochat_online.lab.pocket.remembering import ask_everything, read_results, write_page
from videochat_online.lab.pocket.showing import RECALL, Bench, Stream, read_rows, right_frames
from videochat_online.lab.shapeworld.questions.types import WorldQuestion


@pytest.fixture(scope="module")
def pocket():
    return load_model("pocket", device="cpu")


def question(age: float, number: int, template: str = "t") -> WorldQuestion:
    evidence = ((max(0.0, 500 - age - 5), 500 - age),)
    return WorldQuestion(f"q{number}", "AR", template, 500.0, "What?", ("a", "b"), 0, evidence)


def test_ages_are_spread_over_the_length():
    rng = np.random.default_rng(0)
    pool = [question(float(age), number) for number, age in enumerate(rng.uniform(2.5, 490, 400))]
    kept = spread_out(pool, 60, 500.0, rng)
    ages = np.array([age_of(one.evidence, one.time) for one in kept])
    assert len({one.id for one in kept}) == len(kept) >= 45
    middle = np.sqrt(YOUNGEST * 500)
    assert 0.3 < (ages < middle).mean() < 0.6, "half of a log-uniform law lies below the geometric middle"
    assert np.median([age_of(one.evidence, one.time) for one in pool]) > 3 * np.median(ages)


def test_no_age_is_made_up():
    pool = [question(100.0 + k, k) for k in range(50)]
    kept = spread_out(pool, 40, 500.0, np.random.default_rng(1))
    ages = [age_of(one.evidence, one.time) for one in kept]
    assert kept and len(kept) < 20 and min(ages) >= 100 / WITHIN


def test_kinds_of_questions_take_turns():
    pool = [question(20.0, k, "common" if k % 10 else "rare") for k in range(100)]
    kept = spread_out(pool, 100, 40.0, np.random.default_rng(2))
    assert sum(one.template == "rare" for one in kept) == 10


def test_the_age_is_that_of_the_oldest_piece():
    assert age_of([[3.0, 5.0], [40.0, 60.0]], 60.0) == 55.0


def test_perfect_choice_takes_frames_from_every_interval():
    times = np.arange(0, 100, 2.0)
    assert right_frames(times, range(50), [[10, 20], [60, 80]]) == [5, 10, 30, 40]
    assert right_frames(times, [0, 20, 49], [[10, 20]]) == [0], "the nearest, where none shows it"


def test_choices_are_what_they_say():
    maps, times = torch.randn(40, 8, 4, 4, generator=torch.Generator().manual_seed(0)), np.arange(40.0)
    bank = PyramidMemoryBank(MemoryConfig.pyramid(grids=(4, 2, 1)))

    class Nothing:
        def write(self, *frames): ...

    stream = Stream(maps, times, {"pyramid": bank}, Nothing())
    stream.watch(29.5)
    shown = {name: [f.index for f in stream.choose(name, question(1, 1), [[3, 6]])] for name in showing.CHOICES}
    assert shown["perfect"] == [3, 4, 5, 6, 26, 27, 28, 29] and shown["no frames"] == []
    assert len(set(shown["random 19x1"])) == 19 and max(shown["random 19x1"]) < 30
    held = [frame.index for frame in bank.read()]
    assert set(shown["perfect of the bank"]) <= set(held) and shown["perfect of the bank"][-4:] == held[-4:]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(showing, "PAST", 2)
    monkeypatch.setattr(showing, "NOW", 1)


def test_a_run_goes_on_where_it_was_and_ends_in_a_page(pocket, few, tmp_path, monkeypatch):
    bench = Bench(tmp_path, *pocket)
    streams = Streams(30.0, FPS[30.0], 0, 2)
    first, second = bench.tasks(streams)
    assert bench.run(streams, *first) > 0 and bench.run(streams, *first) == 0
    rows = read_rows(bench.path)
    assert len({row["id"] for row in rows}) == 3 and len(rows) == 3 * len({row["shown"] for row in rows})
    whole = bench.path.read_text()
    bench.path.write_text(whole[:-20])  # cut off in the middle of a line
    again = Bench(tmp_path, *pocket)
    assert again.run(streams, *first) > 0
    same = [{key: row[key] for key in ("id", "shown", "right", "positions")} for row in read_rows(bench.path)]
    assert same == [{key: row[key] for key in ("id", "shown", "right", "positions")} for row in rows]
    again.run(streams, *second)
    (tmp_path / "time.jsonl").write_text(json.dumps({"stream": "30s-0/0", "seconds": 90}) + "\n")
    write_page(tmp_path / "out" / "remembering.md", tmp_path, "python -m remembering", [["a question", "3", "2", "1"]])
    page = (tmp_path / "out" / "remembering.md").read_text()
    results = read_results(tmp_path)
    assert (
        len(results.asked) == 6
        and "6 questions about 2 held-out streams of three worlds (the command asks about 1;" in page
        and "in 2 minutes" in page
    )
    assert all(f"| {name} |" in page for name in (RECALL, "pyramid", "perfect", "no limit"))
    assert "command: python -m remembering" in page and "| a question | 3 | 2 | 1 |" in page
    assert "svg" not in page, "no point stands on so few questions"
    monkeypatch.setattr(remembering, "FEW", 1)
    write_page(tmp_path / "out" / "remembering.md", tmp_path, "python -m remembering", [])
    drawn = ElementTree.fromstring((tmp_path / "out" / "remembering_30s.svg").read_text())
    assert len(drawn.findall("{*}polyline")) >= 5 and "30 s" in drawn[0].text


def test_a_run_ends_in_time(pocket, few, tmp_path, capsys):
    ask_everything(Bench(tmp_path, *pocket), 1, minutes=0.0)
    assert "run again to go on" in capsys.readouterr().out and not (tmp_path / "answers.jsonl").exists()


def test_without_answers_there_is_no_page(tmp_path):
    with pytest.raises(ValueError, match="holds no question that was asked in every way"):
        write_page(tmp_path / "out" / "remembering.md", tmp_path, "", [])
    assert not (tmp_path / "out").exists()


def test_answers_about_one_world_are_not_taken_for_another(tmp_path, capsys, monkeypatch):
    """Of other levels the streams have the same names."""
    (tmp_path / "levels.json").write_text("[1, 2, 3]\n")
    monkeypatch.setattr("sys.argv", ["remembering", str(tmp_path / "page"), "--work", str(tmp_path), "--level", "5"])
    with pytest.raises(SystemExit) as ended:
        remembering.main()
    assert ended.value.code not in (0, None) and "about levels [1, 2, 3], not [5]" in capsys.readouterr().err
