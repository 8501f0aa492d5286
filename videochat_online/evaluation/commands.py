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
from typing import Any, get_args

from ..config import AnswerMode
from ..extras import lacks
from ..model_flags import add_decoder_flag, add_memory_flags, add_model_flags
from .benchmarks import Benchmark, OVBench, OVOBench, StreamingBench
from .benchmarks.ovbench import PROMPTS
from .cautions import Background
from .comparison import compare, cost_line, table_of
from .predictions import read_predictions
from .run_setup import (
    about_questions,
    answer_from_flags,
    asking_from_flags,
    responder_from_flags,
    settings_from_flags,
)
from .runner import (
    BLIND_FOLDER,
    MODES,
    Run,
    Shard,
    benchmark_of,
    check,
    completed,
    execute,
    limited,
    refuse_equal_ids,
)
from .types import VideoTask
from .videos import VideoLibrary

MODE_HELP = (
    "streaming: one pass over each video, every frame encoded once, each question asked at its time; sliding_window: "
    "each question sees the window before it; prefix: the stream up to each question encoded anew; blind: no frames"
)
ANSWER_HELP = (
    "generate: a letter is looked for in what the model says; likelihood: the option that it finds most probable "
    "(default: as the model's config says, else generate)"
)
ADAPTER_HELP = "transformers: --model is any image-text-to-text model of transformers (default: %(default)s)"


def add_eval_commands(commands: Any) -> None:
    """Add `eval` with its benchmarks to the program's subparsers."""
    parser = commands.add_parser("eval", help="score a model on a benchmark, or compare two runs")
    names = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    ovbench = _add_benchmark(names, OVBench, "OVBench: the mean of 16 sub-tasks", _make_ovbench)
    ovbench.add_argument("--prompt", default="official", choices=PROMPTS, help="whose words (default: %(default)s)")
    ovo = _add_benchmark(names, OVOBench, "OVO-Bench (not OVBench)", _make_ovo_bench)
    ovo.add_argument("--chunked", action="store_true", help="--videos holds the authors' chunks, cut at each question")
    _add_benchmark(names, StreamingBench, "StreamingBench", lambda options: StreamingBench())
    comparison = names.add_parser("compare", help="paired difference of two runs on the same questions: B minus A")
    comparison.add_argument("a", type=Path, metavar="A", help="--output folder of a finished run")
    comparison.add_argument("b", type=Path, metavar="B")
    comparison.add_argument("--output", type=Path, metavar="FILE", help="write the differences there as json too")
    comparison.set_defaults(run=run_compare)


def _make_ovbench(options: argparse.Namespace) -> Benchmark:
    return OVBench(options.prompt)


def _make_ovo_bench(options: argparse.Namespace) -> Benchmark:
    return OVOBench(chunked=options.chunked)


def _add_benchmark(
    names: Any, kind: type[Benchmark], title: str, make: Callable[[argparse.Namespace], Benchmark]
) -> argparse.ArgumentParser:
    parser = names.add_parser(kind.name, help=title, description=title)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="folder with the benchmark's json files, or one of them")
    add("--videos", type=Path, required=True, help="folder below which the videos lie, as the archives unpack")
    add("--output", type=Path, required=True, help="folder for predictions and report")
    add("--mode", default="streaming", choices=(*MODES, "blind"), help=MODE_HELP)
    add("--split", nargs="+", choices=kind.splits, help="only these parts (default: all)")
    add("--limit", type=int, metavar="N", help="only N questions, taken from all sources in turn")
    add("--resume", action="store_true", help="go on with what --output holds")
    add("--check", action="store_true", help="look at annotations and videos, print every problem, ask nothing")
    add("--answer", choices=get_args(AnswerMode), help=ANSWER_HELP)
    add("--max-new-tokens", type=int, metavar="N", help="length of an answer at most (default: as published)")
    add("--fps", type=float, help="frames shown per second of video (default: as published)")
    add("--window", type=float, metavar="SECONDS", help="sliding_window: how far back (default: as published)")
    add("--frames", type=int, metavar="N", help="sliding_window: at most N frames; transformers: the newest N")
    add("--multi-turn", action="store_true", help="streaming: keep earlier questions and answers in the dialogue")
    add("--no-blind", action="store_true", help="leave out the baseline that is asked without frames")
    add_decoder_flag(parser)
    add_model_flags(parser)
    add("--adapter", default="videochat", choices=("videochat", "transformers"), help=ADAPTER_HELP)
    add_memory_flags(parser)
    add("--recent", type=int, metavar="N", help="no memory: the newest N frames at full grid")
    parser.set_defaults(run=run_benchmark, make=make)
    return parser


def run_benchmark(options: argparse.Namespace) -> int:
    """1. read the questions; 2. with --check stop at the videos; 3. load the model; 4. ask; 5. report.

    All that is missing or odd is said before the first question, since answers may take hours.
    """
    benchmark = options.make(options)
    examples = benchmark.read(options.annotations, splits=tuple(options.split) if options.split else None)
    tasks, library = limited(examples.tasks, options.limit), VideoLibrary(options.videos, decoder=options.decoder)
    background = Background.of(tasks, left_out=examples.left_out)
    for caution in (*background.cautions(), *_without_plots()):
        print(f"caution: {caution}", file=sys.stderr)
    if options.check:
        return _report_problems(tasks, examples.left_out, check(tasks, library))
    if not tasks:
        odd = f"; {len(examples.left_out)} cannot be asked, such as {examples.left_out[0]}" if examples.left_out else ""
        raise ValueError(f"no questions left of {options.annotations} with --split {options.split or 'all'}{odd}")
    refuse_equal_ids(tasks)
    answer, because = answer_from_flags(options)
    settings, asking = settings_from_flags(options, benchmark), asking_from_flags(options, benchmark, answer)
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
    return _finish(run, runs, replace(background, answer_because=because))


def _without_plots() -> list[str]:
    return [f"report.png will be left out: {problem}"] if (problem := lacks("matplotlib")) else []


def _execute(run: Run, resume: bool) -> None:
    from tqdm import tqdm

    total = sum(len(task.questions) for task in run.shard.of(run.tasks, run.cost))
    with tqdm(total=total, unit="question", desc=run.mode, disable=None, leave=False) as bar:
        execute(run, resume=resume, progress=lambda prediction: bar.update())


def _finish(run: Run, runs: list[Run], background: Background) -> int:
    from .report import markdown_of, write_report

    found = [completed(one) for one in runs]
    if any(predictions is None for predictions in found):
        print(f"this process is done; the report is written by the last one to finish ({run.output})", file=sys.stderr)
        return 0
    predictions, blind = found[0] or {}, (found[1] or {}) if len(found) > 1 else {}
    report = write_report(
        run.output, run.benchmark, run.tasks, predictions, blind, run.config, background=background
    )
    print(markdown_of(report))
    return 0


def _blind_twin(run: Run) -> Run:
    """The same questions without frames, in a folder below."""
    config = {**run.config, "mode": "blind"}
    asking = replace(run.asking, multi_turn=False)
    return replace(run, mode="blind", asking=asking, output=run.output / BLIND_FOLDER, config=config)


def _report_problems(tasks: list[VideoTask], left_out: list[str], problems: list[str]) -> int:
    for problem in (*left_out, *problems):
        print(problem)
    counts = [f"{sum(len(task.questions) for task in tasks)} questions"]
    counts += [f"{len(left_out)} records cannot be asked"] if left_out else []
    counts += [f"{len(problems)} problems in {len(tasks)} videos" if problems else f"all {len(tasks)} videos are fine"]
    print("; ".join(counts))
    return 1 if left_out or problems else 0


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
