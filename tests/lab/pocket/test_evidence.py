"""How runs of the evidence are combined: by hand on a few questions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videochat_online.lab.pocket.evidence import Laboratory, RunOutcome, pooled, read_outcome, training, write_evidence

QUESTIONS = {  # of each video (its level is in its name): visible now, right
    "test-00000000-l1-30s-p1": [(True, True), (False, False)],
    "test-00000001-l3-30s-p1": [(False, True)],
}


@pytest.fixture
def outcome(tmp_path) -> RunOutcome:
    items, rows = [], []
    for video, questions in QUESTIONS.items():
        ids = [f"{video}#{number}" for number in range(len(questions))]
        items.append(
            {
                "video_id": f"{video}.mp4",
                "questions": [{"id": one, "visible_now": now} for one, (now, _) in zip(ids, questions, strict=True)],
            }
        )
        rows += [{"id": one, "correct": right} for one, (_, right) in zip(ids, questions, strict=True)]
    (tmp_path / "ovbench.json").write_text(json.dumps(items))
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    (tmp_path / "report.json").write_text(json.dumps({"scores": {"headline": {}}, "cost": {"frames": 3}}))
    return read_outcome(tmp_path, tmp_path / "ovbench.json")


def test_predictions_find_their_questions(outcome):
    assert outcome.correct.tolist() == [True, False, True]  # the file's order, last question first
    assert outcome.visible_now.tolist() == [False, False, True]
    assert outcome.level.tolist() == [3, 1, 1] and outcome.video.tolist() == [1, 0, 0]


def test_shares_resample_whole_videos(outcome):
    assert outcome.share(outcome.level == 1) == "50.0 (0 to 100)"  # one video says nothing about others
    assert outcome.share(np.ones(3, bool)) == "66.7 (0 to 100)"  # two say hardly more
    assert outcome.share(outcome.level == 2) == "-"


def test_worlds_are_pooled_without_mixing_their_videos(outcome):
    both = pooled([outcome, outcome])
    assert both.video.tolist() == [1, 0, 0, 3, 2, 2]
    assert both.correct.mean() == outcome.correct.mean()


def test_a_page_says_how_it_was_made(tmp_path):
    runs = tmp_path / "runs"
    (runs / "stage1").mkdir(parents=True)
    (runs / "stage1" / "settings.json").write_text('{"seed": 7}')
    lines = [{"step": step, "loss": loss} for step, loss in ((20, 4.0), (40, 2.0), (60, 3.0))]
    (runs / "stage1" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_evidence(tmp_path / "out", Laboratory(tmp_path, "pocket", runs), ["training"], 48)
    page = (tmp_path / "out" / "training.md").read_text()
    assert "| stage1 | 60 | 7 | 3.00 | 3.00 | [settings](stage1.settings.json) |" in page
    assert "- command: VIDEOS=48 bash shell/pocket/evidence.sh training\n" in page and "```" not in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "training.md",
        "training.png",
        "stage1.settings.json",
    }


def test_without_a_training_run_nothing_is_written_over(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_all"):
        training(Laboratory(tmp_path, "pocket", tmp_path / "none"), tmp_path, 48)
    assert list(tmp_path.iterdir()) == []
