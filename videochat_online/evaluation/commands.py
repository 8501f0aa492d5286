"""`videochat-online eval BENCHMARK`: flags, what they set, and the order of the steps.

Questions, model, run and report are put together here; each does its part elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from ..command_line import add_decoder_flag, add_memory_flags, add_model_flags, add_recall_flag
from ..config import AnswerMode
from ..extras import lacks
from ..media.find import VideoLibrary
from .afterwards import add_commands_afterwards, shown
from .benchmarks import BENCHMARKS, Benchmark, Protocol, Settings
from .endpoint import EndpointResponder
from .modes import MODES, Examiner
from .questions import VideoTask
from .report import cautions_of, write_report
from .responders import responder_from_flags
from .runner import Run, check_questions, completed, execute, first_questions, refuse_equal_ids, write_plan
from .videos import refuse_where_none_is_found

MODE_HELP = (
    "streaming: one pass over each video, every frame encoded once, each question asked at its time; sliding_window: "
    "each question sees the window before it; prefix: each question sees the stream up to it, encoded again; blind: no "
    "frames"
)
ANSWER_HELP = (
    "generate: a letter is looked for in what the model says; likelihood: the option that it finds most probable "
    "(default: as the model's config says, else generate)"
)
PROTOCOL_HELP = (
    "published: words, number of new tokens, frames, printed times, last question and letters as in the published "
    "scripts, also where a question sees a later frame; causal: the same words, true times, never a later frame, and "
    "letters as a careful reader takes them (default: causal)"
)
DRY_HELP = "load no model; write what it would be asked as lines of json: id, prompt, frames, times, max_new_tokens"
ADAPTER_HELP = "transformers: --model is any image-text-to-text model of transformers"


PUSHED_NAMES = (
    "omnimmi", "ovo-timing", "ovo-forward", "streamingbench-pushed", "streamingbench-polled", "proactivevideoqa"
)  # fmt: skip
"""Those of pushed/, which imports torch, for which no help should wait."""


def add_eval_commands(commands: Any) -> None:
    """Add `eval` with its benchmarks to the program's commands."""
    add_benchmarks(commands.add_parser("eval", help="score a model on a benchmark, or compare two runs"))


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    """A command for each benchmark, and those that need no model."""
    names = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for benchmark in BENCHMARKS.values():
        _add_benchmark(names, benchmark)
    _add_standing(names)
    add_commands_afterwards(names)


def _add_standing(names: Any) -> None:
    what = "whether the model speaks unasked at the right moments (docs/proactive.md)"
    parser = names.add_parser("standing", help=what, description=what)
    add = parser.add_argument
    what = "rows with `video` and `standing`; of a --benchmark its file, or a folder that holds it"
    add("--annotations", type=Path, required=True, metavar="ROWS.json", help=what)
    whose = "the annotations are this benchmark's, and its own score is reported, too"
    add("--benchmark", choices=PUSHED_NAMES, help=whose)
    add("--videos", type=Path, help="folder below which the videos lie")
    add("--output", type=Path, help="folder for readouts, probabilities and report")
    add("--blind", action="store_true", help="only what players get that never look: no model, no videos")
    add("--gate", type=Path, metavar="FILE", help="score this gate too, beside the likelihood")
    add("--gate-only", action="store_true", help="leave the likelihood out, which takes most of the time")
    add("--fps", type=float, default=1.0, help="frames watched a second")
    add("--refractory", type=float, default=3.0, metavar="SECONDS", help="silence after each word")
    add("--limit", type=int, metavar="N", help="only the first N videos")
    judge = "proactivevideoqa: OpenAI-compatible address of the model that judges words, such as http://host:8000/v1"
    add("--judge", metavar="URL", help=judge)
    add("--judge-model", metavar="NAME", help="its name there")
    key = "environment variable that holds the judge's key"
    add("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help=key)
    add_model_flags(parser)
    add_memory_flags(parser)
    parser.set_defaults(run=_run_standing)


def _run_standing(options: argparse.Namespace) -> int:
    from .standing import run_standing_eval  # with torch, for which no help should wait

    return run_standing_eval(options)


def _add_benchmark(names: Any, benchmark: type[Benchmark]) -> None:
    parser = names.add_parser(benchmark.name, help=benchmark.help, description=benchmark.help)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="folder with the benchmark's json files, or one of them")
    add("--videos", type=Path, required=True, help="folder below which the videos lie, as the archives unpack")
    add("--output", type=Path, required=True, help="folder for predictions and report")
    add("--mode", default="streaming", choices=(*MODES, "blind"), help=MODE_HELP)
    add("--protocol", default="causal", choices=get_args(Protocol), help=PROTOCOL_HELP)
    add("--split", nargs="+", choices=benchmark.splits, help="only these parts (default: all)")
    add("--limit", type=int, metavar="N", help="only N questions, taken from all sources in turn")
    add("--resume", action="store_true", help="continue the run that --output holds")
    add("--check", action="store_true", help="look at annotations and videos, print every problem, ask nothing")
    add("--dry-run", type=Path, metavar="FILE", help=DRY_HELP)
    add("--answer", choices=get_args(AnswerMode), help=ANSWER_HELP)
    add("--max-new-tokens", type=int, metavar="N", help="length of an answer at most (default: as published)")
    add("--fps", type=float, help="frames shown per second of video (default: as published)")
    add("--window", type=float, metavar="SECONDS", help="sliding_window: how far back (default: as published)")
    add("--frames", type=int, metavar="N", help="sliding_window: at most N frames; transformers: the newest N")
    add("--multi-turn", action="store_true", help="streaming: keep earlier questions and answers in the dialogue")
    add("--no-blind", action="store_true", help="leave out the baseline that is asked without frames")
    add_decoder_flag(parser)
    add_model_flags(parser, engine=True)
    add("--adapter", default="videochat", choices=("videochat", "transformers"), help=ADAPTER_HELP)
    _add_endpoint_flags(parser)
    add_memory_flags(parser)
    add_recall_flag(parser)
    add("--recent", type=int, metavar="N", help="no memory: the newest N frames at full grid")
    for name, about in benchmark.flags.items():
        add(f"--{name}", **about)
    parser.set_defaults(run=run_benchmark, benchmark=benchmark)


def _add_endpoint_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "endpoint", "a model behind an OpenAI-compatible address, shown the newest frames"
    )
    add = group.add_argument
    add("--endpoint", metavar="URL", help="such as http://host:8000/v1; --model is its name there, --frames how many")
    add("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="environment variable that holds the key")
    add("--endpoint-images", default="jpeg", choices=("jpeg", "png"), help="how frames are sent: small, or exact")
    add("--requests-per-minute", type=float, metavar="N", help="at most so many (default: no limit)")
    add("--price", metavar="IN/OUT", help="of a million tokens, such as 0.15/0.6: the cost is counted")


def run_benchmark(options: argparse.Namespace) -> int:
    """Score one model on one benchmark. All problems are said first, since answers may take hours.

    Exit status 3 (INCOMPLETE) where fewer questions were asked than there are.

    Raises ValueError for flags, annotations and folders that cannot be used.
    """
    # 1. The questions, and what is wrong with them
    benchmark, variant = benchmark_from_flags(options)
    examples = benchmark.read(options.annotations, splits=options.split)
    tasks, left_out = first_questions(examples.tasks, options.limit), examples.left_out
    library = VideoLibrary(options.videos, decoder=options.decoder)
    _say_cautions(tasks, left_out)
    if options.check:
        return _report_problems(tasks, left_out, check_questions(tasks, library))
    _refuse_unusable(options, tasks, left_out, library)
    # 2. The settings, and the model
    if options.dry_run:
        settings = settings_from_flags(options, benchmark, "generate")
        plan = Run(benchmark, tasks, Examiner(None, options.mode, settings), library, options.output)
        return write_plan(options.dry_run, plan)
    answer, because = answer_from_flags(options)
    settings = settings_from_flags(options, benchmark, answer)
    responder, about_model = responder_from_flags(options, settings)
    config = {**about_questions(options, benchmark, variant), **asdict(settings), **about_model}
    # 3. The answers, with frames and without
    run = Run(benchmark, tasks, Examiner(responder, options.mode, settings), library, options.output, config)
    runs = [run] if options.no_blind or options.mode == "blind" else [run, _blind_twin(run)]
    try:
        for one in runs:
            execute(one, resume=options.resume)
    finally:
        if isinstance(responder, EndpointResponder):
            responder.write_usage(run.output)
    # 4. The report, by the process that finishes last
    found = [predictions for one in runs if (predictions := completed(one)) is not None]
    if len(found) < len(runs):
        print(f"this process is done; the report is written by the last one to finish ({run.output})", file=sys.stderr)
        return 0
    of_all = sum(len(task.questions) for task in examples.tasks)
    about: dict[str, Any] = {"left_out": left_out, "answer_because": because, "of_all": of_all}
    return shown(write_report(run.output, benchmark, tasks, config, *found, **about))


def benchmark_from_flags(options: argparse.Namespace) -> tuple[Benchmark, dict[str, Any]]:
    """The benchmark, and its own flags. Raises ValueError for two models at once."""
    if options.endpoint:
        if options.adapter != "videochat":
            raise ValueError(f"--endpoint is a model of its own: it goes without --adapter {options.adapter}")
        options.adapter = "endpoint"
    if options.adapter != "videochat" and (options.lora or options.device_map or options.quantize != "none"):
        raise ValueError(f"--lora, --quantize and --device-map do not go with --adapter {options.adapter}")
    variant = {name: getattr(options, name) for name in options.benchmark.flags}
    shown = {"protocol": options.protocol, "mode": options.mode, "multi_turn": options.multi_turn}
    return options.benchmark(**variant, **shown), variant


def _say_cautions(tasks: list[VideoTask], left_out: list[str]) -> None:
    cautions = cautions_of(tasks, left_out)
    if problem := lacks("matplotlib"):
        cautions.append(f"report.png will be left out: {problem}")
    for caution in cautions:
        print(f"caution: {caution}", file=sys.stderr)


def _refuse_unusable(
    options: argparse.Namespace, tasks: list[VideoTask], left_out: list[str], library: VideoLibrary
) -> None:
    """ValueError where there are no questions, two of one name, or no video of theirs."""
    if not tasks:
        why = f"; {len(left_out)} cannot be asked, such as {left_out[0]}" if left_out else ""
        raise ValueError(f"no questions left of {options.annotations} with --split {options.split or 'all'}{why}")
    refuse_equal_ids(tasks)
    if options.mode != "blind":
        refuse_where_none_is_found(tasks, library)


def answer_from_flags(options: argparse.Namespace) -> tuple[AnswerMode, str]:
    """How a question with options is answered, and why so: by the flag, else as the model's config has it."""
    from ..model.weights import load_facts

    if options.answer is not None:
        return options.answer, "as the flag says"
    if options.protocol == "published":
        return "generate", "as the protocol says"
    if options.adapter == "videochat" and (mode := load_facts(options.model).answer_mode):
        return mode, "as the model's config says"
    return "generate", "the default; the model's config says nothing else"


def settings_from_flags(options: argparse.Namespace, benchmark: Benchmark, answer: AnswerMode) -> Settings:
    """The published settings of the mode, with what the flags change. ValueError for flags that do not go together."""
    windowed = options.mode == "sliding_window"
    if options.window is not None and not windowed:
        raise ValueError(f"--window belongs to --mode sliding_window, got --mode {options.mode}")
    if options.frames is not None and not windowed and options.adapter == "videochat":
        raise ValueError(f"--frames is for --mode sliding_window, got {options.mode}; see --memory and --recent")
    if options.multi_turn and options.mode != "streaming":
        raise ValueError(f"--multi-turn belongs to --mode streaming, got --mode {options.mode}")
    if options.multi_turn and answer != "generate":
        what = "the flag's" if options.answer else "what the model is made for"
        raise ValueError(f"--multi-turn belongs to --answer generate, got --answer {answer} ({what})")
    if benchmark.script_frames and (answer != "generate" or options.mode == "prefix" or not benchmark.system_prompt):
        wrong = "--mode prefix" if options.mode == "prefix" else "--answer likelihood or the words of lmms-eval"
        raise ValueError(f"--protocol published is for the published scripts: none of them has {wrong}")
    preset = benchmark.window if windowed else benchmark.stream
    flags = {name: getattr(options, name) for name in ("fps", "window", "frames", "max_new_tokens", "multi_turn")}
    if options.mode == "blind" and options.fps is None:
        flags["fps"] = 1.0
    given = {name: value for name, value in flags.items() if value is not None}
    given |= {"system_prompt": benchmark.system_prompt, "script_frames": benchmark.script_frames}
    return replace(preset, answer=answer, **given)


def about_questions(options: argparse.Namespace, benchmark: Benchmark, variant: dict[str, Any]) -> dict[str, Any]:
    """Which questions are asked, in which mode; the annotations by what is in them, wherever they lie."""
    return {
        "benchmark": benchmark.name,
        **variant,
        "annotations": benchmark.digests(options.annotations),
        "split": options.split,
        "limit": options.limit,
        "mode": options.mode,
        "protocol": options.protocol,
    }


def _blind_twin(run: Run) -> Run:
    """The same questions without frames, in a folder below."""
    settings = replace(run.examiner.settings, multi_turn=False)
    examiner = replace(run.examiner, mode="blind", settings=settings)
    return replace(run, examiner=examiner, output=run.output / "blind", config={**run.config, "mode": "blind"})


def _report_problems(tasks: list[VideoTask], left_out: list[str], problems: list[str]) -> int:
    for problem in (*left_out, *problems):
        print(problem)
    counts = [f"{sum(len(task.questions) for task in tasks)} questions"]
    counts += [f"{len(left_out)} records cannot be asked"] if left_out else []
    counts += [f"{len(problems)} problems in {len(tasks)} videos" if problems else f"all {len(tasks)} videos are fine"]
    print("; ".join(counts))
    return 1 if left_out or problems else 0
