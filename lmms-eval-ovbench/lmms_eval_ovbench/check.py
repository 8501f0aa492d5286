"""`python -m lmms_eval_ovbench.check`: what would keep lmms-eval from evaluating, found before it starts.

Looks at packages, model, tasks and data; loads no weights and asks nothing. One line for each finding; exit status 1
where there is a problem.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import groupby
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from lmms_eval.models import get_model, list_available_models
from lmms_eval.utils import simple_parse_args_string
from packaging.requirements import Requirement

from videochat_online.command_line import CommandParser
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.runner import check_questions
from videochat_online.media.find import VideoLibrary, videos_below
from videochat_online.model.weights import load_facts

from .documents import data_root
from .manifest import MODEL_NAME
from .task_files import TaskFile, hub_home, task_files

PLUG_IN = "lmms-eval-ovbench"
SECONDS_FOR_HUB = 10.0

Findings = Iterator[tuple[bool, str]]
"""(fine, what was found) of each thing looked at."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m lmms_eval_ovbench.check", description=__doc__)
    parser.add_argument("--tasks", required=True, help="as for lmms-eval, with commas between")
    parser.add_argument("--model", default=MODEL_NAME, help="a model of lmms-eval")
    parser.add_argument("--model-args", default="", help="as for lmms-eval's --model_args")
    parser.add_argument("--requires", nargs="*", default=[], metavar="MODULE", help="modules that the model needs")
    parser.set_defaults(run=report_findings)
    return parser.run(arguments)


def report_findings(options: argparse.Namespace) -> int:
    num_problems = 0
    for fine, found in (
        *check_packages(options.requires),
        *check_model(options.model, simple_parse_args_string(options.model_args)),
        *check_tasks(options.tasks.split(",")),
    ):
        num_problems += not fine
        print(f"{'ok     ' if fine else 'PROBLEM'} {found}")
    print(f"problems: {num_problems}" if num_problems else "no problems found")
    return 1 if num_problems else 0


def check_packages(modules: Sequence[str]) -> Findings:
    import torch

    names = ("lmms-eval", PLUG_IN, "videochat-online", "torch", "transformers")
    yield True, f"Python {sys.version.split()[0]}, {', '.join(f'{name} {version(name)}' for name in names)}"
    yield True, f"CUDA devices: {torch.cuda.device_count()}"
    yield from ((False, problem) for problem in unmet_requirements(PLUG_IN))
    for module in modules:
        fine = importlib.util.find_spec(module) is not None
        yield fine, f"{module} is installed" if fine else f"{module} is not installed, and this model needs it"


def unmet_requirements(package: str) -> list[str]:
    """What `package` requires and is not installed, or in a version that it cannot use."""
    problems = []
    for requirement in map(Requirement, requires(package) or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed, and {package} needs it")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} {found} is installed, but {package} needs {requirement}")
    return problems


def check_model(name: str, arguments: dict[str, Any]) -> Findings:
    """The class is there and takes these arguments, and the weights' config is there or on the hub."""
    if name not in list_available_models(include_aliases=True):
        yield False, f"lmms-eval has no model {name!r}"
        return
    try:
        inspect.signature(get_model(name)).bind(**arguments)
    except (ImportError, TypeError) as error:
        yield False, f"model {name}: {error}"
        return
    yield True, f"model {name} takes {arguments}"
    pretrained = str(arguments.get("pretrained", "pocket" if name == MODEL_NAME else ""))
    if name == MODEL_NAME and (pretrained == "pocket" or Path(pretrained).is_dir()):
        try:
            config = load_facts(pretrained)
            yield True, f"{pretrained}: {config.llm_config.model_type}, images of {config.image_size} px"
        except ValueError as error:
            yield False, str(error)
    elif pretrained:
        yield _from_hub(pretrained, "model")


def check_tasks(names: Sequence[str]) -> Findings:
    """Each task's annotations and videos are here, or on the hub."""
    try:
        tasks = task_files(names)
    except ValueError as error:
        yield False, str(error)
        return
    yield True, f"tasks: {', '.join(task.name for task in tasks)}"
    yield _import_code(tasks[0])
    if sources := [task.ovbench_source for task in tasks if task.ovbench_source]:
        yield from _check_ovbench(sources)
    others = sorted((task for task in tasks if not task.ovbench_source), key=lambda task: task.dataset)
    for dataset, members in groupby(others, key=lambda task: task.dataset):
        yield _from_hub(dataset, "dataset")
        yield from _check_media(dataset, list(members))


def _import_code(task: TaskFile) -> tuple[bool, str]:
    try:
        task.import_code()
    except ImportError as error:
        return False, f"{task.name}: {error}; install what is missing"
    return True, f"the code of {task.name} can be imported"


def _check_ovbench(sources: Sequence[str]) -> Findings:
    try:
        root = data_root()
        examples = OVBench().read(root / "annotations", splits=tuple(sources))
        tasks = examples.tasks
        problems = [*examples.left_out, *check_questions(tasks, VideoLibrary(root / "videos"))]
    except ValueError as error:
        yield False, str(error)
        return
    yield bool(tasks), f"{sum(len(task.questions) for task in tasks)} questions in {root / 'annotations'}"
    yield not problems, f"{len(problems)} problems in {len(tasks)} videos of {root / 'videos'} and their questions"
    yield from ((False, problem) for problem in problems)


def _check_media(dataset: str, tasks: Sequence[TaskFile]) -> Findings:
    for folder in {task.media() for task in tasks} - {None}:
        assert folder is not None
        if not folder.is_dir():
            yield True, f"videos of {dataset}: not in {folder} yet; lmms-eval downloads and unpacks them there"
            continue
        num_videos = sum(path.is_file() for path in videos_below(folder))
        yield num_videos > 0, f"videos of {dataset}: {num_videos} files below {folder}"


def _from_hub(name: str, kind: str) -> tuple[bool, str]:
    """A folder, or something the hub has given or can give."""
    if Path(name).is_dir():
        return True, f"{kind} {name}: a folder"
    if (Path(HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}").is_dir():
        return True, f"{kind} {name}: in {HF_HUB_CACHE}"
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS_FOR_HUB)
    except Exception as error:  # whatever the network and its libraries raise: it cannot be had
        reason = str(error).strip().split("\n")[0][:160]
        return False, f"{kind} {name}: neither a folder nor in {HF_HUB_CACHE}, and the hub does not give it ({reason})"
    return True, f"{kind} {name}: on the hub; downloaded to {hub_home()}"


if __name__ == "__main__":
    sys.exit(main())
