"""`python -m lmms_eval_ovbench.results FOLDER`: did lmms-eval leave results? And OVBench's report.

lmms-eval ends with exit status 0 also where a task, a model or a video failed it; here it shows. For OVBench and the
offline benchmarks of offline.py the report of `videochat-online eval` is written from the logged samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videochat_online.command_line import CommandParser
from videochat_online.evaluation.benchmarks import Benchmark, OVBench
from videochat_online.evaluation.benchmarks.base import Examples
from videochat_online.evaluation.predictions import Prediction, write_merged
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.report import markdown_of, write_report
from videochat_online.evaluation.runner import CONFIG_FILE
from videochat_online.files import write_json

from .documents import data_root
from .metrics import MEAN
from .offline import SAMPLES, Offline, RowsMissing, offline_runs
from .task import VISUAL_VARIABLE
from .task_files import OVBENCH_PREFIX, task_files

REPORT_FOLDER = "ovbench"
ENDING = "_results.json"
STAMP = "[0-9]" * 8 + "_" + "[0-9]" * 6
"""What lmms-eval's own file begins with; tasks may leave others of that ending."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m lmms_eval_ovbench.results", description=__doc__)
    parser.add_argument("folder", type=Path, help="--output_path of lmms-eval, run with --log_samples")
    parser.add_argument("--tasks", help="fail unless there are results of all of these (with commas between)")
    parser.add_argument("--since", type=float, default=0.0, help="seconds since 1970: older results do not count")
    parser.set_defaults(run=show_results)
    return parser.run(arguments)


def show_results(options: argparse.Namespace) -> None:
    """Raises ValueError where results are missing."""
    results = newest_results(options.folder, since=options.since)
    found = json.loads(results.read_text(encoding="utf-8"))
    _require(results, found, options.tasks.split(",") if options.tasks else [])
    print(f"results: {results}")
    if predictions := ovbench_predictions(results):
        print(markdown_of(write_ovbench_report(results.parent / REPORT_FOLDER, predictions, found)))
        print(f"report and result.json: {results.parent / REPORT_FOLDER}")
    stamp = results.name.removesuffix(ENDING)
    try:
        for paths, benchmark, examples in offline_runs(results.parent.glob(f"{stamp}{SAMPLES}*.jsonl")):
            folder = results.parent / (benchmark.name if len(paths) > 1 else next(iter(paths)))
            print(markdown_of(write_offline_report(folder, list(paths), benchmark, examples, found)))
            print(f"report and result.json: {folder}")
    except RowsMissing as error:
        print(f"caution: no report with blind players: the data set cannot be loaded ({error})", file=sys.stderr)


def newest_results(folder: Path, *, since: float = 0.0) -> Path:
    """lmms-eval's newest results file below `folder`. ValueError where there is none written after `since`."""
    found = [path for path in folder.rglob(f"*{STAMP}{ENDING}") if path.stat().st_mtime >= since]
    if not found:
        raise ValueError(f"lmms-eval left no results in {folder}: what it printed above says why")
    return max(found, key=lambda path: path.stat().st_mtime)


def _require(path: Path, found: dict[str, Any], names: Sequence[str]) -> None:
    missing = [task.name for task in task_files(names) if task.name not in found["results"]]
    if missing:
        raise ValueError(f"{path} holds no results of {', '.join(missing)}: what lmms-eval printed above says why")


def ovbench_predictions(results: Path) -> dict[str, Prediction]:
    """Our predictions by question id, from the samples that were logged beside `results`."""
    stamp = results.name.removesuffix(ENDING)
    predictions: dict[str, Prediction] = {}
    for path in sorted(results.parent.glob(f"{stamp}_samples_{OVBENCH_PREFIX}*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            prediction = Prediction.from_dict(json.loads(line)[MEAN])
            predictions[prediction.id] = prediction
    return predictions


def write_ovbench_report(folder: Path, predictions: dict[str, Prediction], found: dict[str, Any]) -> dict[str, Any]:
    """The report of our runner about what lmms-eval asked; `found`: lmms-eval's results."""
    examples = OVBench().read(data_root() / "annotations")
    tasks = sorted(name for name in found["configs"] if name.startswith(OVBENCH_PREFIX))
    about = {**_about(found, tasks), VISUAL_VARIABLE: os.environ.get(VISUAL_VARIABLE)}
    examples.tasks = _asked(examples.tasks, predictions)
    return _write(folder, OVBench(), examples, about, predictions, found)


def write_offline_report(
    folder: Path, tasks: list[str], benchmark: Offline, examples: Examples, found: dict[str, Any]
) -> dict[str, Any]:
    """As for OVBench, with lmms-eval's own verdicts. ValueError where not one of its samples can be read."""
    if not examples.tasks:
        raise ValueError(f"no sample of {', '.join(tasks)} can be read: {examples.left_out[:1]}")
    predictions = benchmark.predictions(examples.tasks)
    if "protocol=published" in (found["config"].get("model_args") or ""):
        benchmark.protocol = "published"
    return _write(folder, benchmark, examples, _about(found, tasks), predictions, found)


def _write(
    folder: Path,
    benchmark: Benchmark,
    examples: Examples,
    about: dict[str, Any],
    predictions: dict[str, Prediction],
    found: dict[str, Any],
) -> dict[str, Any]:
    write_merged(folder, predictions.values())
    write_json(folder / CONFIG_FILE, {"benchmark": benchmark.name, **about})
    command, left_out = _command(found["config"]), examples.left_out
    return write_report(folder, benchmark, examples.tasks, about, predictions, left_out=left_out, command=command)


def _command(config: dict[str, Any]) -> list[str]:
    """How lmms-eval was started, as far as it says."""
    given = {name: config.get("resolved_cli_args", {}).get(name) for name in ("model", "model_args", "tasks", "limit")}
    return ["lmms_eval", *(part for name, value in given.items() if value for part in (f"--{name}", str(value)))]


def _about(found: dict[str, Any], tasks: list[str]) -> dict[str, Any]:
    """What the answers depend on."""
    config, one = found["config"], found["configs"][tasks[0]]  # what is taken of it is the same for all of them
    shown = one.get("lmms_eval_specific_kwargs") or {}
    return {
        "model": " ".join(filter(None, [config["model"], config.get("model_args")])),
        "mode": "lmms-eval",
        "lmms_eval": version("lmms-eval"),
        "tasks": tasks,
        "limit": config.get("limit"),
        "generation": one["generation_kwargs"],
        "shown": shown.get(config["model"], shown.get("default")),
    }


def _asked(tasks: Sequence[VideoTask], predictions: dict[str, Prediction]) -> list[VideoTask]:
    """Videos with the questions that were asked (--limit, or some of the sources)."""
    kept = [(task, tuple(q for q in task.questions if q.id in predictions)) for task in tasks]
    asked = [replace(task, questions=questions) for task, questions in kept if questions]
    if sum(len(task.questions) for task in asked) != len(predictions):
        raise ValueError(f"some questions of the samples are not in {data_root() / 'annotations'}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
