"""Players that never look, on questions whose numbers can be counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.evaluation.test_commands import run
from videochat_online.evaluation.benchmarks import OVBench, StreamingBench
from videochat_online.evaluation.questions import Question, VideoTask
from videochat_online.evaluation.scoring import Player, players_of, with_best

SHARED = Path(__file__).parents[3] / "shared"


def task_of(*questions: Question) -> list[VideoTask]:
    return [VideoTask("v", "v", ("v",), questions)]


def choice(number: int, answer: str, options: Sequence[str], task: str = "t") -> Question:
    labels = tuple(f"({letter})" for letter in "ABCDE"[: len(options)])
    return Question(f"q{number}", 1.0, "?", answer, task, "c", "s", labels=labels, options=tuple(options))


def shares(players: Sequence[Player]) -> dict[str, float]:
    return {player.name: sum(player.right.values()) / len(player.right) for player in players}


def test_words_give_more_away_than_letters():
    questions = [choice(i, "AB"[i % 2], ("No", "Yes")[:: 1 - 2 * (i % 2)]) for i in range(4)]  # always "No"
    questions.append(choice(4, "B", ("cup", "dog")))
    found = shares(players_of(OVBench().judge, task_of(*questions)))
    assert found["chance"] == 0.5
    assert found["commonest_answer"] == found["one_answer"] == 3 / 5
    assert found["commonest_text"] == (4 + 0.5) / 5  # the last has no option "No": it guesses
    assert found["always_yes"] == 0.5 / 5


def test_each_sub_task_has_its_own_commonest_answer():
    questions = [choice(i, "A", ("x", "y"), "one") for i in range(2)] + [choice(9, "B", ("x", "y"), "two")]
    players = players_of(OVBench().judge, task_of(*questions))
    assert shares(players)["commonest_answer"] == 1.0 and shares(players)["one_answer"] == pytest.approx(2 / 3)
    assert {player.name: player.says for player in players}["commonest_answer"] == "one: A; two: B"
    best = with_best(players, questions)[-1]
    assert best.name == "best_blind" and shares([best]) == {"best_blind": 1.0}


def test_a_constant_time_is_found_and_said(tmp_path: Path):
    rows = [
        {"task_type": "Proactive Output", "question": "?", "time_stamp": "00:00:10", "ground_truth_output": "GO",
         "ground_truth_time_stamp": stamp} for stamp in ("00:00:15", "00:00:18", "00:00:40")
    ]  # fmt: skip
    (tmp_path / "questions_proactive.json").write_text(json.dumps([{"video_path": "a.mp4", "questions": rows}]))
    benchmark = StreamingBench()
    players = {player.name: player for player in players_of(benchmark.judge, benchmark.load(tmp_path))}
    assert sum(players["constant_time"].right.values()) == 2  # 5 and 8 s after the question, both within 2 s of 6
    assert players["constant_time"].says.startswith("6 s after the question")
    assert sum(players["commonest_answer"].right.values()) == 0  # words at no time are no answer


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the published annotation files in ../shared")
def test_what_published_benchmarks_give_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The numbers that were counted by others: 33.1 and 29.5 on OVBench, forward 67.2, 60.0, 20.5, in time 52.4."""
    found = {}
    for name, folder in (("ovbench", "ovbench"), ("ovobench", "benchmarks/ovo_bench"),
                         ("streamingbench", "benchmarks/streamingbench")):  # fmt: skip
        assert run("blind", name, "--annotations", SHARED / folder, "--output", tmp_path / name) == 0
        found[name] = json.loads((tmp_path / name).read_text())
    assert "| commonest answer | 33.1 | AA Action Anticipation: D;" in capsys.readouterr().out
    heads = {name: {one["name"]: round(100 * one["accuracy"], 1) for one in values["players"]}
             for name, values in found.items()}  # fmt: skip
    assert heads["ovbench"]["chance"] == 29.5
    assert heads["ovobench"]["one_answer"] == 37.2
    best = {row["task"]: round(100 * row["best_blind"], 1) for values in found.values() for row in values["tasks"]}
    assert (best["SSR"], best["CRR"], best["REC"], best["HLD"]) == (67.2, 60.0, 20.5, 100.0)
    assert best["Proactive Output"] == 52.4
