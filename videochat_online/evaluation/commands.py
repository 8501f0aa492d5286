"""`videochat-online eval BENCHMARK` and `eval compare A B`: flags to settings, and the order of things.

No logic of its own: questions, model, run and report are put together here and each does its part elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..model_flags import add_memory_flags, add_model_flags
from .benchmarks import Benchmark, OVBench, OVOBench, StreamingBench
from .benchmarks.ovbench import PROMPTS, SOURCES
from .benchmarks.ovo_bench import REGIMES
from .benchmarks.streaming_bench import PARTS
from .comparison import compare, cost_line, table_of
from .predictions import read_predictions
from .run_setup import about_questions, asking_from_flags, responder_from_flags, settings_from_flags
from .runner import BLIND_FOLDER, MODES, Run, Shard, benchmark_of, check, completed, execute, limited
from .types import VideoTask
from .videos import VideoLibrary

MODE_HELP = (
    "streaming: one pass over each video, every frame encoded once, each question asked at its time; sliding_window: "
    "each question sees the window before it; prefix: the stream up to each question encoded anew; blind: no frames"
)
ANSWER_HELP = "likelihood: the option the model finds most probable (default: %(default)s)"
ADAPTER_HELP = "transformers: --model is any image-text-to-text model of transformers (default: %(default)s)"


def add_eval_commands(commands: Any) -> None:
    """Add `eval` with its benchmarks to the program's subparsers."""
    parser = commands.add_parser("eval", help="score a model on a benchmark, or compare two runs")
    names = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    ovbench = _add_benchmark(names, "ovbench", "OVBench: the mean of 16 sub-tasks", SOURCES, _make_ovbench)
    ovbench.add_argument("--prompt", default="official", choices=PROMPTS, help="whose words (default: %(default)s)")
    ovo = _add_benchmark(names, "ovobench", "OVO-Bench (not OVBench)", _ovo_splits(), _make_ovo_bench)
    ovo.add_argument("--chunked", action="store_true", help="--videos holds the authors' chunks, cut at each question")
    _add_benchmark(names, "streamingbench", "StreamingBench", PARTS, lambda options: StreamingBench())
    comparison = names.add_parser("compare", help="paired difference of two runs on the same questions: B minus A")
    comparison.add_argument("a", type=Path, metavar="A", help="--output folder of a finished run")
    comparison.add_argument("b", type=Path, metavar="B")
    comparison.add_argument("--output", type=Path, metavar="FILE", help="write the differences there as json too")
    comparison.set_defaults(run=run_compare)


def _make_ovbench(options: argparse.Namespace) -> Benchmark:
    return OVBench(options.prompt)


def _make_ovo_bench(options: argparse.Namespace) -> Benchmark:
    return OVOBench(chunked=options.chunked)


def _ovo_splits() -> tuple[str, ...]:
    return (*REGIMES, *(task for tasks in REGIMES.values() for task in tasks))


def _add_benchmark(
    names: Any, name: str, title: str, splits: tuple[str, ...], make: Callable[[argparse.Namespace], Benchmark]
) -> argparse.ArgumentParser:
    parser = names.add_parser(name, help=title, description=title)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="folder with the benchmark's json files, or one of them")
    add("--videos", type=Path, required=True, help="folder below which the videos lie, as the archives unpack")
    add("--output", type=Path, required=True, help="folder for predictions and report")
    add("--mode", default="streaming", choices=(*MODES, "blind"), help=MODE_HELP)
    add("--split", nargs="+", choices=splits, help="only these parts (default: all)")
    add("--limit", type=int, metavar="N", help="only N questions, taken from all sources in turn")
    add("--resume", action="store_true", help="go on with what --output holds")
    add("--check", action="store_true", help="look at annotations and videos, print every problem, ask nothing")
    add("--answer", default="generate", choices=("generate", "likelihood"), help=ANSWER_HELP)
    add("--max-new-tokens", type=int, metavar="N", help="length of an answer at most (default: as published)")
    add("--fps", type=float, help="frames shown per second of video (default: as published)")
    add("--window", type=float, metavar="SECONDS", help="sliding_window: how far back (default: as published)")
    add("--frames", type=int, metavar="N", help="sliding_window: at most N frames; transformers: the newest N")
    add("--multi-turn", action="store_true", help="streaming: keep earlier questions and answers in the dialogue")
    add("--no-blind", action="store_true", help="leave out the baseline that is asked without frames")
    add_model_flags(parser)
    add("--adapter", default="videochat", choices=("videochat", "transformers"), help=ADAPTER_HELP)
    add_memory_flags(parser)
    add("--recent", type=int, metavar="N", help="no memory: the newest N frames at full grid")
    parser.set_defaults(run=run_benchmark, make=make, splits=splits)
    return parser


def run_benchmark(options: argparse.Namespace) -> int:
    """1. read the questions; 2. with --check stop at the videos; 3. load the model; 4. ask; 5. report."""
    benchmark = options.make(options)
    tasks = limited(benchmark.load(options.annotations, splits=tuple(options.split or options.splits)), options.limit)
    if not tasks:
        raise ValueError(f"no questions left of {options.annotations} with --split {options.split}")
    library = VideoLibrary(options.videos)
    if options.check:
        return _report_problems(tasks, check(tasks, library))
    settings, asking = settings_from_flags(options, benchmark), asking_from_flags(options, benchmark)
    responder, about_model = responder_from_flags(options, settings)
    config = {**about_questions(options, benchmark), **asdict(settings), **asdict(asking), **about_model}
    run = Run(
        benchmark=benchmark,
        tasks=tasks,
        mode=options.mode,
        settings=settings,
        asking=asking,
        responder=responder,
        library=library,
        output=options.output,
        config=config,
        shard=Shard.from_environment(),
    )
    runs = [run] if options.no_blind or options.mode == "blind" else [run, _blind_twin(run)]
    for one in runs:
        _execute(one, options.resume)
    return _finish(run, runs, config)


def _execute(run: Run, resume: bool) -> None:
    from tqdm import tqdm

    total = sum(len(task.questions) for task in run.shard.of(run.tasks, run.cost))
    with tqdm(total=total, unit="question", desc=run.mode, disable=None, leave=False) as bar:
        execute(run, resume=resume, progress=lambda prediction: bar.update())


def _finish(run: Run, runs: list[Run], config: dict[str, Any]) -> int:
    from .report import markdown_of, write_report

    found = [completed(one) for one in runs]
    if any(predictions is None for predictions in found):
        print(f"this process is done; the report is written by the last one to finish ({run.output})", file=sys.stderr)
        return 0
    predictions, blind = found[0] or {}, (found[1] or {}) if len(found) > 1 else {}
    report = write_report(run.output, run.benchmark, run.tasks, predictions, blind, config)
    print(markdown_of(report))
    return 0


def _blind_twin(run: Run) -> Run:
    """The same questions without frames, in a folder below."""
    config = {**run.config, "mode": "blind"}
    asking = replace(run.asking, multi_turn=False)
    return replace(run, mode="blind", asking=asking, output=run.output / BLIND_FOLDER, config=config)


def _report_problems(tasks: list[VideoTask], problems: list[str]) -> int:
    num_questions = sum(len(task.questions) for task in tasks)
    for problem in problems:
        print(problem)
    what = f"{len(problems)} of {len(tasks)} videos have problems" if problems else f"all {len(tasks)} videos are fine"
    print(f"{num_questions} questions; {what}")
    return 1 if problems else 0


def run_compare(options: argparse.Namespace) -> int:
    """Paired differences of two output folders, printed as a table."""
    kinds = {benchmark.name: benchmark.headline for benchmark in (OVBench, OVOBench, StreamingBench)}
    names = [benchmark_of(folder) for folder in (options.a, options.b)]
    if names[0] != names[1]:
        raise ValueError(f"not the same benchmark: {options.a} holds {names[0]}, {options.b} holds {names[1]}")
    runs = [list(read_predictions(folder).values()) for folder in (options.a, options.b)]
    differences = compare(runs[0], runs[1], kinds[names[0]])
    print(table_of(differences))
    print(cost_line(runs[0], runs[1]))
    if options.output:
        rows = [{**asdict(one), "difference": one.difference} for one in differences]
        found = {"a": str(options.a), "b": str(options.b), "differences": rows}
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
