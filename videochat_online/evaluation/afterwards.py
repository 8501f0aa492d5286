"""Commands that ask no model: `eval report`, `score`, `compare` and `blind`. Flags, and the order of the steps.

A report is remade from a run's folder, replies that were made elsewhere are judged, two runs are set side by side,
and a benchmark says what it gives away to players that never look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from ..files import digest, read_json, write_json
from .benchmarks import BENCHMARKS, Benchmark, Protocol
from .predictions import Prediction, read_predictions, write_merged
from .questions import Reply, VideoTask, named
from .replies import Given, matched, read_replies
from .report import blind_report, comparison_of, markdown_of, write_report
from .runner import CONFIG_FILE, first_questions, read_run_config, refuse_equal_ids
from .scoring import differences_by_age, paired_differences

INCOMPLETE = 3
"""Exit status of a run whose report is written, and which asked fewer questions than there are."""
MADE_BY = ("command", "commit", "python", "packages", "machine")
"""What of result.json is about the process that asked."""
UNTOLD = "no reply to this question"


def add_commands_afterwards(names: Any) -> None:
    """Add the four commands beside those of the benchmarks."""
    report = names.add_parser("report", help="remake the report of a run's folder, finished or not")
    report.add_argument("folder", type=Path, metavar="DIR", help="--output folder of a run")
    where = "the run's annotations (default: where its command found them)"
    report.add_argument("--annotations", type=Path, help=where)
    report.set_defaults(run=report_again)

    score = names.add_parser("score", help="judge replies that were made elsewhere")
    _add_questions(score)
    kinds = (
        "jsonl of id and reply; samples of lmms-eval; predictions of VLMEvalKit (xlsx, tsv, json); several are joined"
    )
    score.add_argument("--replies", type=Path, nargs="+", required=True, metavar="FILE", help=kinds)
    score.add_argument(
        "--id-field", metavar="NAME", help="column of the ids (default: id, sample_id, question_id, index)"
    )
    score.add_argument("--reply-field", metavar="NAME", help="column of the replies (default: found by its name)")
    rule = "how letters are read: as by the published scorer, or by ours"
    score.add_argument("--protocol", default="published", choices=get_args(Protocol), help=rule)
    score.add_argument("--model", default="unknown", help="name of the model, for the report")
    score.add_argument("--output", type=Path, required=True, help="folder for predictions and report")
    score.set_defaults(run=score_replies)

    comparison = names.add_parser("compare", help="paired difference of two runs on the same questions: B minus A")
    comparison.add_argument("a", type=Path, metavar="A", help="--output folder of a finished run")
    comparison.add_argument("b", type=Path, metavar="B", help="another, on the same questions")
    comparison.add_argument("--output", type=Path, metavar="FILE", help="write the differences there as json too")
    comparison.set_defaults(run=compare_runs)

    blind = names.add_parser("blind", help="what players that never look get on a benchmark")
    _add_questions(blind)
    blind.add_argument("--output", type=Path, metavar="FILE", help="write it there as json too")
    blind.set_defaults(run=show_blind)


def _add_questions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    what = "folder with the benchmark's json files, or one of them"
    parser.add_argument("--annotations", type=Path, required=True, help=what)
    parser.add_argument("--split", nargs="+", help="only these parts (default: all)")


def report_again(options: argparse.Namespace) -> int:
    """Write the report of a folder again from its predictions. Questions without one count as not asked.

    Raises ValueError for other annotations than the run's.
    """
    folder = options.folder
    config, before = read_run_config(folder), _json_of(folder / "result.json")
    benchmark = _benchmark_of(config)
    annotations = options.annotations or _annotations_of(before, folder)
    found = benchmark.digests(annotations)
    if config.get("annotations", found) != found:
        raise ValueError(f"{annotations} holds other annotations than {folder} was made with; expected --annotations")
    examples = benchmark.read(annotations, splits=config.get("split"))
    tasks = first_questions(examples.tasks, config.get("limit"))
    predictions, blind = read_predictions(folder), read_predictions(folder / "blind")
    if strangers := sorted(predictions.keys() - {question.id for task in tasks for question in task.questions}):
        raise ValueError(f"{folder} holds replies to questions that were not of its run: {named(strangers)}")
    report = write_report(
        folder, benchmark, tasks, config, _filled(tasks, predictions), _filled(tasks, blind) if blind else None,
        left_out=examples.left_out, of_all=sum(len(task.questions) for task in examples.tasks),
        answer_because=before.get("answer_because", ""), made={key: before[key] for key in MADE_BY if key in before},
    )  # fmt: skip
    return shown(report)


def score_replies(options: argparse.Namespace) -> int:
    """Judge replies to a benchmark's questions. Questions without one are named, and count as not asked.

    Raises ValueError for ids of no question or given twice, and for a folder that holds another run.
    """
    benchmark: Benchmark = BENCHMARKS[options.benchmark](protocol=options.protocol)
    examples = benchmark.read(options.annotations, splits=options.split)
    refuse_equal_ids(examples.tasks)
    known = {question.id for task in examples.tasks for question in task.questions}
    replies = matched(read_replies(options.replies, options.id_field, options.reply_field), known)
    if missing := sorted(known - replies.keys()):
        print(f"caution: no reply to {len(missing)} of {len(known)} questions: {named(missing)}", file=sys.stderr)
    predictions = {one.id: one for one in _judged(benchmark, examples.tasks, replies)}
    config = {
        "benchmark": benchmark.name, "model": options.model, "mode": "score", "split": options.split,
        "protocol": options.protocol, "annotations": benchmark.digests(options.annotations),
        "replies": digest(*options.replies),
    }  # fmt: skip
    if (options.output / CONFIG_FILE).exists() and read_run_config(options.output) != config:
        raise ValueError(f"{options.output} holds another run; choose another --output")
    write_json(options.output / CONFIG_FILE, config)
    write_merged(options.output, predictions.values())
    left_out = examples.left_out
    return shown(write_report(options.output, benchmark, examples.tasks, config, predictions, left_out=left_out))


def compare_runs(options: argparse.Namespace) -> int:
    """Print the settings that differ and the paired differences of two output folders.

    Raises ValueError where they do not hold the same questions.
    """
    configs = [read_run_config(folder) for folder in (options.a, options.b)]
    names = [config["benchmark"] for config in configs]
    if names[0] != names[1]:
        raise ValueError(f"not the same benchmark: {options.a} holds {names[0]}, {options.b} holds {names[1]}")
    a, b = (list(read_predictions(folder).values()) for folder in (options.a, options.b))
    differences = paired_differences(a, b, _benchmark_of(configs[0]).headline) + differences_by_age(a, b)
    made = [_json_of(folder / "result.json") for folder in (options.a, options.b)]
    one, other = (
        dict(_flat({**config, **{key: result.get(key) for key in MADE_BY if key != "command"}}))
        for config, result in zip(configs, made, strict=True)
    )
    settings = {key: (one.get(key), other.get(key)) for key in sorted({*one, *other}) if one.get(key) != other.get(key)}
    for key, (before, after) in settings.items():
        print(f"- {key}: A {before!r}, B {after!r}")
    print(f"{len(settings)} settings differ\n" if settings else "no setting differs\n")
    print("protocol: A {}, B {}\n".format(*(config.get("protocol") for config in configs)))
    if "protocol" in settings:
        print("caution: not one protocol, so what differs may be the words, frames and rules", file=sys.stderr)
    print(comparison_of(differences, a, b))
    for name, rows in (("A", a), ("B", b)):
        if failed := sum(row.error is not None for row in rows):
            print(f"caution: {failed} questions of {name} could not be asked and count as wrong")
    if options.output:
        about = {"a": str(options.a), "b": str(options.b), "settings": settings}
        write_json(options.output, {**about, "differences": list(map(asdict, differences))})
    return 0


def show_blind(options: argparse.Namespace) -> int:
    """Print what each blind player gets, all together and in each sub-task; computed from the annotations alone."""
    benchmark: Benchmark = BENCHMARKS[options.benchmark]()
    tasks = benchmark.read(options.annotations, splits=options.split).tasks
    if not tasks:
        raise ValueError(f"no questions in {options.annotations} with --split {options.split or 'all'}")
    text, values = blind_report(benchmark, tasks)
    print(text)
    if options.output:
        write_json(options.output, values)
    return 0


def shown(report: dict[str, Any]) -> int:
    """Print a report; the exit status of the process that wrote it."""
    print(markdown_of(report))
    return INCOMPLETE if report["incomplete"] else 0


def _benchmark_of(config: Mapping[str, Any]) -> Benchmark:
    """The benchmark as the run had it. ValueError for a name that is none."""
    kind = BENCHMARKS.get(config["benchmark"])
    if kind is None:
        raise ValueError(f"unknown benchmark {config['benchmark']!r}, expected one of {', '.join(BENCHMARKS)}")
    about = {name: config[name] for name in (*kind.flags, "protocol", "mode", "multi_turn") if name in config}
    return kind(**about)


def _annotations_of(result: Mapping[str, Any], folder: Path) -> Path:
    words = [word for part in result.get("command", []) for word in part.split("=", 1)]
    if "--annotations" not in words[:-1]:
        raise ValueError(f"{folder} does not say where its annotations lie; give --annotations")
    return Path(words[words.index("--annotations") + 1])


def _filled(tasks: Sequence[VideoTask], predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """A prediction for every question; one that says so where there is none."""
    return {
        question.id: predictions.get(question.id) or Prediction.unanswered(task, question, "not asked yet")
        for task in tasks
        for question in task.questions
    }


def _judged(benchmark: Benchmark, tasks: Sequence[VideoTask], replies: Mapping[str, Given]) -> Iterator[Prediction]:
    for task in tasks:
        for question in task.questions:
            given = replies.get(question.id, Given(None, error=UNTOLD))
            if given.text is None:
                yield Prediction.unanswered(task, question, given.error or UNTOLD)
            else:
                reply = Reply(given.text, answered_at=given.answered_at)
                yield Prediction.of(task, question, reply, benchmark.judge(question, reply))


def _json_of(path: Path) -> dict[str, Any]:
    """Nothing where the file is not there yet. ValueError where it holds something else than an object."""
    return read_json(path, dict, "the result of an evaluation") if path.is_file() else {}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested settings by a dotted name."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inside:
        yield name, value
    for key, one in inside:
        yield from _flat(one, f"{name}.{key}" if name else str(key))
