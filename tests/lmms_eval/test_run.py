"""`python -m lmms_eval` as its user starts it: the scores of our own runner, and the README's own model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lmms_eval.conftest import INSTALL

pytest.importorskip("lmms_eval", reason=INSTALL)

from lmms_eval_ovbench.results import main as write_results
from lmms_eval_ovbench.task_files import include_path

from tests.evaluation.test_commands import run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PLUG_IN = ROOT / "lmms-eval-ovbench"
TOKENS = 4


def evaluate(root: Path, output: Path, model: str, *path: Path, **variables: str) -> None:
    """lmms-eval in a process of its own."""
    command = [sys.executable, "-m", "lmms_eval", "--model", *model.split(), "--tasks", "ovbench", "--batch_size", "1"]
    command += ["--include_path", include_path(), "--output_path", str(output), "--log_samples"]
    command += ["--gen_kwargs", f"max_new_tokens={TOKENS}"]
    paths = os.pathsep.join(map(str, (*path, ROOT, PLUG_IN)))
    env = {**os.environ, "OVBENCH_ROOT": str(root), "PYTHONPATH": paths, **variables}
    done = subprocess.run(command, cwd=output.parent, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert list(output.rglob("*_results.json")), done.stderr[-3000:]


def without_clock(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{name: line[name] for name in ("id", "task", "response", "extracted", "correct")} for line in lines]


@pytest.mark.parametrize("mode", ["streaming", "sliding_window"])
def test_scores_are_those_of_our_runner(mode: str, root: Path, tmp_path: Path):
    evaluate(root, tmp_path / "lmms", f"videochat_online --model_args pretrained=pocket,device=cpu,mode={mode}")
    assert write_results([str(tmp_path / "lmms"), "--tasks", "ovbench"]) == 0
    [report] = (tmp_path / "lmms").rglob("ovbench/report.json")
    folders = ["--annotations", root / "annotations", "--videos", root / "videos", "--output", tmp_path / "ours"]
    settings = ["--mode", mode, "--max-new-tokens", TOKENS, "--device", "cpu", "--no-blind", "--answer", "generate"]
    assert run("ovbench", *folders, *settings) == 0
    theirs, ours = report.parent, tmp_path / "ours"
    assert without_clock(theirs / "predictions.jsonl") == without_clock(ours / "predictions.jsonl")
    assert json.loads(report.read_text())["scores"] == json.loads((ours / "report.json").read_text())["scores"]
    results = json.loads(next((tmp_path / "lmms").rglob("*_results.json")).read_text())["results"]["ovbench"]
    scores = json.loads(report.read_text())["scores"]
    assert results["ovbench_mean,none"] == pytest.approx(scores["headline"]["accuracy"])
    assert results["ovbench_pooled,none"] == pytest.approx(scores["pooled"]["accuracy"])


def test_the_readmes_own_model_runs_as_it_stands_there(root: Path, tmp_path: Path):
    [code] = re.findall(r"```python\n(.*?)```", (PLUG_IN / "README.md").read_text("utf-8"), re.DOTALL)
    package, about = tmp_path / "site/my_package", tmp_path / "site/my_package-1.0.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "model.py").write_text(code)
    (package / "__init__.py").write_text(
        "from lmms_eval.models.registry_v2 import ModelManifest\n"
        'MANIFEST = ModelManifest(model_id="my_model", simple_class_path="my_package.model.MyModel")\n'
    )
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lmms_eval.models]\nmy_model = my_package:MANIFEST\n")
    evaluate(root, tmp_path / "lmms", "my_model", tmp_path / "site", OVBENCH_VISUAL="stream")
    assert write_results([str(tmp_path / "lmms"), "--tasks", "ovbench"]) == 0
    [report] = (tmp_path / "lmms").rglob("ovbench/report.json")
    scores = json.loads(report.read_text())["scores"]
    assert (scores["questions"], scores["unanswered"]) == (60, 0.0)
