"""Blind players beside the scores of lmms-eval's offline tasks; its own code judges the made-up replies."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench import offline
from lmms_eval_ovbench.offline import KINDS, SAMPLES
from lmms_eval_ovbench.results import main

OPTIONS = ["run", "sit", "jump", "eat"]
LISTED = [f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS, strict=True)]
FILM = {"duration": "short", "domain": "Knowledge", "sub_category": "Astronomy", "task_type": "OCR Problems"}


def doc(task: str, number: int, right: int) -> dict[str, Any]:
    """A row of the data set, as lmms-eval's task reads it; option `right` is the right one."""
    question, video, letter = f"What next {number}?", f"v{number}", "ABCD"[right]
    inside = "\n".join([question, *(f"({one}) {text}" for one, text in zip("ABCD", OPTIONS, strict=True))])
    numbered = {f"option{i}": text for i, text in enumerate([*OPTIONS, "N/A"])}
    about = {"duration_group": 15, "question_category": "S2E" if number % 2 else "T3O", "id": video}
    return {
        "videomme": {**FILM, "videoID": video, "question_id": str(number), "options": LISTED, "answer": letter},
        "mvbench_action_sequence": {"video": video, "candidates": OPTIONS, "answer": OPTIONS[right]},
        "mvbench_moving_count": {"video": video, "candidates": OPTIONS[:3], "answer": OPTIONS[right % 3]},
        "mlvu_dev": {"video_name": video, "question": inside, "answer": letter, "task_type": "ego"},
        "longvideobench_val_v": {"video_path": video, **numbered, "correct_choice": right, **about},
        "egoschema_subset": {"video_idx": video, "option": [*LISTED, "E. fly"], "answer": str(right)},
        "egoschema_subset_mcppl": {"video_idx": video, "option": [*LISTED, "E. fly"], "answer": str(right)},
        "lvbench": {"video_path": video, "question": inside, "answer": letter},
    }[task] | ({} if task in ("mlvu_dev", "lvbench") else {"question": question})


JUDGES = {
    "videomme": "videomme.utils.videomme_process_results",
    "mvbench_action_sequence": "mvbench.utils.mvbench_process_results",
    "mvbench_moving_count": "mvbench.utils.mvbench_process_results",
    "mlvu_dev": "mlvu.utils.mlvu_process_results",
    "longvideobench_val_v": "longvideobench.utils.longvideobench_process_results",
    "egoschema_subset": "egoschema.utils.egoschema_process_results_generation",
    "egoschema_subset_mcppl": "egoschema.utils.egoschema_process_results",
    "lvbench": "lvbench.utils.lvbench_process_results",
}


@pytest.fixture(autouse=True)
def data_sets(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """Rows of the data sets by task, filled by `write_run`. test_stock_tasks.py has lmms-eval load some."""
    monkeypatch.setattr(offline, "rows_of", lambda tasks: {task: DATA[task] for task in tasks})
    DATA.clear()
    return DATA


DATA: dict[str, list[dict[str, Any]]] = {}


def write_run(
    folder: Path, tasks: list[str], rights: list[int], says: int, model_args: str = "pretrained=pocket"
) -> Path:
    """What lmms-eval leaves of a run whose model always chooses option `says`. Returns its results file."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        module, name = JUDGES[task].rsplit(".", 1)
        judge = getattr(import_module(f"lmms_eval.tasks.{module}"), name)
        rows, DATA[task] = [], [doc(task, number, right) for number, right in enumerate(rights)]
        for number, row in enumerate(DATA[task]):
            losses = [[float(i != says), False] for i in range(5)]
            said: Any = losses if task.endswith("mcppl") else "ABCD"[says]
            metrics = judge(row, [tuple(one) for one in said] if task.endswith("mcppl") else [said])
            target = str(row.get("answer", row.get("correct_choice")))
            rows.append({"doc_id": number, "target": target, "filtered_resps": said, **metrics})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"20261201_000000{SAMPLES}{task}.jsonl").write_text(text)
    results = folder / "20261201_000000_results.json"
    configs = {task: {"generation_kwargs": {"max_new_tokens": 16}} for task in tasks}
    config = {"model": "videochat_online", "model_args": model_args, "limit": None}
    results.write_text(json.dumps({"results": {task: {} for task in tasks}, "configs": configs, "config": config}))
    return results


@pytest.mark.parametrize("task", [task for task in JUDGES if not task.startswith("mvbench")])
def test_a_model_that_always_says_one_letter_is_its_own_blind_player(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path, [task], [1, 1, 1, 0, 2, 3, 1, 0], says=1)
    assert main([str(tmp_path), "--tasks", task]) == 0
    assert "is not above what is reached without looking" in capsys.readouterr().out
    result = json.loads((tmp_path / task / "result.json").read_text())
    assert (result["score"], result["questions"], result["unanswered"]) == (50.0, 8, 0)
    assert result["blind_players"]["one_answer"] == 50.0
    assert result["blind_players"]["chance"] == (20.0 if task.startswith("egoschema") else 25.0)
    assert result["config"]["tasks"] == [task] and result["protocol"] == "causal"
    assert (tmp_path / task / "report.md").read_text().startswith("**Caution**: the score 50.0")
    sources = json.loads((tmp_path / task / "report.json").read_text())["scores"]["sources"]
    assert list(sources) == [{"videomme": "short", "longvideobench_val_v": "up to 15 s"}.get(task, task)]


def test_a_model_that_sees_is_above_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Made of two runs, of which each is right: the answers are spread, so that no player knows them."""
    rights = [number % 4 for number in range(80)]
    results = write_run(tmp_path, ["videomme"], rights, says=0)
    path = tmp_path / f"20261201_000000{SAMPLES}videomme.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:72]:
        row["videomme_perception_score"] |= {"pred_answer": row["target"], "score": 1.0}
    rows[79]["videomme_perception_score"] |= {"pred_answer": "", "score": 0.0}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(results.parent)]) == 0
    assert "Caution" not in capsys.readouterr().out
    result = json.loads((tmp_path / "videomme/result.json").read_text())
    assert (result["score"], result["unanswered"]) == (92.5, 1 / 80)


def test_the_tasks_of_mvbench_are_one_benchmark(tmp_path: Path):
    """Its score is the mean of its tasks, here 50 and 75 (where three options make the last the first)."""
    tasks = ["mvbench_action_sequence", "mvbench_moving_count"]
    write_run(tmp_path, tasks, [0, 0, 1, 3], says=0, model_args="pretrained=pocket,protocol=published")
    assert main([str(tmp_path)]) == 0
    result = json.loads((tmp_path / "mvbench/result.json").read_text())
    assert result["tasks"] == {"action_sequence": 50.0, "moving_count": 75.0} and result["score"] == 62.5
    assert result["protocol"] == "published" and result["letter_rule"] == "lmms-eval's rule of this task"
    assert result["blind_players"]["commonest_answer"] == 62.5


def test_a_row_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data_sets: dict[str, list[dict[str, Any]]]
):
    write_run(tmp_path, ["lvbench"], [0, 1, 2], says=0)
    del data_sets["lvbench"][0]["video_path"]
    data_sets["lvbench"][1]["answer"] = "D"
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "lvbench.jsonl, doc_id 0 has no 'video_path'" in said
    assert "doc_id 1: the right answer was 'B' when it was asked, in the data set it is 'D'" in said
    del data_sets["lvbench"][:]
    assert main([str(tmp_path)]) == 2
    assert "no sample of lvbench can be read" in capsys.readouterr().err


def test_where_the_data_set_is_gone_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write_run(tmp_path, ["lvbench"], [0, 1], says=0)
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert "no report with blind players: the data set cannot be loaded" in capsys.readouterr().err


def test_every_benchmark_has_a_test_here():
    assert all(any(re.fullmatch(kind.tasks, task) for task in JUDGES) for kind in KINDS)
