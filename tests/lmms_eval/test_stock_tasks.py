"""lmms-eval's own tasks on our model, over made-up rows and videos where they look for them: nothing is downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench.results import newest_results
from lmms_eval_ovbench.task_files import include_path

from tests.evaluation.conftest import write_video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
OPTIONS = [f"{letter}. colour {number}" for number, letter in enumerate("ABCDE")]
MOMENTS = [{"realtime": 4.0 * (i + 1), "count": i, "type": i % 2, "step": f"step {i}"} for i in range(3)]


def write_dataset(folder: Path, config: str, split: str, rows: list[dict[str, Any]]) -> None:
    """A data set as it lies on the hub: `datasets` learns its configs from the head of its README."""
    folder.mkdir(parents=True)
    (folder / f"{config}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = f"  data_files:\n  - split: {split}\n    path: {config}.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n{files}---\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder lmms-eval is started in, with HF_HOME in it."""
    place = tmp_path_factory.mktemp("stock")
    home = place / "home"
    forward = [
        {"id": 7, "task": "REC", "activity": "jump", "question": "", "test_info": MOMENTS},
        {"id": 8, "task": "SSR", "activity": "", "question": "", "test_info": MOMENTS[:2]},
    ]
    write_dataset(place / "kcz358/OVOBench", "forward", "test", forward)
    for row in forward:
        for number in range(len(row["test_info"])):
            write_video(home / f"ovobench/chunked_videos/{row['id']}_{number}.mp4", seconds=4 * (number + 1))
    choices = [
        {"video_idx": f"e{i}", "question": f"Which colour {i}?", "option": OPTIONS, "answer": "2"} for i in (0, 1)
    ]
    write_dataset(place / "lmms-eval/egoschema", "Subset", "test", choices)
    for row in choices:
        write_video(home / f"egoschema/videos/{row['video_idx']}.mp4", seconds=6)
    about = {"duration": "short", "domain": "Knowledge", "sub_category": "Astronomy", "task_type": "OCR Problems"}
    about |= {"answer": "B"}
    films = [
        {"videoID": "v", "question_id": f"1-{i}", "question": "Which?", "options": OPTIONS[:4], **about} for i in (0, 1)
    ]
    write_dataset(place / "lmms-eval/Video-MME", "videomme", "test", films)
    write_video(home / "videomme/data/v.mp4", seconds=8)
    whole = {"question": "What next?", "candidates": ["run", "sit"], "answer": "sit", "start": 2.0, "end": 5.0}
    write_dataset(place / "OpenGVLab/MVBench", "action_sequence", "train", [{"video": "m.mp4", **whole}])
    write_video(home / "mvbench_video/star/Charades_segment/m.mp4", seconds=9)
    inside = "Which?\n" + "\n".join(f"({letter}) colour" for letter in "ABCD")
    write_dataset(
        place / "lmms-eval/LVBench", "LVBench", "train", [{"video_path": "w.mp4", "question": inside, "answer": "D"}]
    )
    write_video(home / "lvbench/w.mp4", seconds=8)
    return place


def evaluate(place: Path, tasks: str, name: str, *more: str, model: str = "mode=sliding_window,frames=8") -> Path:
    """`python -m lmms_eval`; where its results lie."""
    arguments = f"pretrained=pocket,device=cpu,{model}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "videochat_online", "--model_args", arguments]
    command += ["--tasks", tasks, "--include_path", include_path(), "--output_path", str(place / name), "--log_samples"]
    env = {**os.environ, "HF_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "lmms-eval-ovbench")))
    command += ["--gen_kwargs", "max_new_tokens=4", *more]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False, timeout=600)
    (place / f"{name}.log").write_text(done.stdout + done.stderr)
    ask = [sys.executable, "-m", "lmms_eval_ovbench.results", str(place / name), "--tasks", tasks]
    found = subprocess.run(ask, cwd=place, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert found.returncode == 0, (done.stdout + done.stderr + found.stdout + found.stderr)[-4000:]
    return newest_results(place / name)


def samples(results: Path, task: str) -> list[dict[str, Any]]:
    path = next(results.parent.glob(f"*_samples_{task}.jsonl"))
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_rounds_and_choices_of_stock_tasks_end_in_results(place: Path):
    """Two rounds as well as three: a pair of texts looks like a text and its costs to lmms-eval."""
    results = evaluate(place, "ovo_forward,egoschema_subset_mcppl,lvbench", "causal", "--batch_size", "4")
    scores = json.loads(results.read_text())["results"]
    assert 0 <= scores["ovo_forward"]["forward_acc,none"] <= 100
    assert 0 <= scores["egoschema_subset_mcppl"]["score,none"] <= 1
    said = {row["doc_id"]: row["filtered_resps"] for row in samples(results, "ovo_forward")}
    assert [len(said[number]) for number in (0, 1)] == [3, 2]
    for row in samples(results, "egoschema_subset_mcppl"):
        losses = [loss for loss, _ in row["filtered_resps"]]
        assert len(set(losses)) == 5 and row["score"]["pred"] == losses.index(min(losses))
    for task in ("egoschema_subset_mcppl", "lvbench"):  # beside players that never look
        report = json.loads((results.parent / task / "result.json").read_text())
        [score] = [value for key, value in scores[task].items() if key.endswith("score,none")]
        assert report["score"] == 100 * score and "one_answer" in report["blind_players"]


def test_the_published_protocol_ends_in_results_and_says_its_words(place: Path):
    results = evaluate(place, "videomme,mvbench_action_sequence", "published", model="protocol=published")
    for name in ("videomme", "mvbench_action_sequence"):
        assert json.loads((results.parent / name / "result.json").read_text())["protocol"] == "published"
    said = (place / "published.log").read_text()
    assert (
        r"lasts for {} seconds.\nQuestion: Which?\n(A) colour 0\n(B) colour 1\n(C) colour 2\n(D) colour 3\nAnswer:  \n'"
        in said
    )
    assert r"'Question: What next?\n(A) run\n(B) sit\nAnswer:  \n'" in said
