"""Runs a benchmark: every question asked exactly once, whatever breaks or is killed on the way.

Videos are dealt out to the processes by length; each process appends to a file of its own, and whichever finds all
questions answered writes the report. Knows no model (an Examiner) and no benchmark's details (a Benchmark).
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from ..files import read_json, whole, write_json
from ..media.find import VideoLibrary
from ..media.readers import MediaError
from .benchmarks.base import Benchmark
from .modes import Examiner
from .predictions import MERGED, Prediction, appending, read_predictions, write_merged
from .questions import Question, VideoTask, named
from .videos import check_video, open_task_video

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Shard:
    """This process among all; from torchrun's environment."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"RANK must be 0 <= RANK < WORLD_SIZE, got {self.rank} of {self.world_size}")

    @classmethod
    def from_environment(cls) -> Shard:
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def file(self, folder: Path) -> Path:
        """Where it writes: predictions.jsonl alone, predictions.rank0.jsonl and so on together."""
        return folder / (MERGED if self.world_size == 1 else f"predictions.rank{self.rank}.jsonl")

    def of(self, tasks: Sequence[VideoTask], cost: Callable[[VideoTask], float]) -> list[VideoTask]:
        """This process's videos: the costliest first, each to the process that has least so far."""
        loads = [0.0] * self.world_size
        mine = []
        for task in sorted(tasks, key=lambda task: (-cost(task), task.id)):
            rank = loads.index(min(loads))
            loads[rank] += cost(task)
            if rank == self.rank:
                mine.append(task)
        return mine


@dataclass(frozen=True)
class Run:
    """One benchmark, one model in one mode, one folder. ValueError where two questions have one id."""

    benchmark: Benchmark
    tasks: Sequence[VideoTask]
    examiner: Examiner
    library: VideoLibrary
    output: Path
    config: dict[str, Any] = field(default_factory=dict)
    """What the answers depend on; a folder is never continued with another."""
    shard: Shard = field(default_factory=Shard.from_environment)

    def __post_init__(self) -> None:
        refuse_equal_ids(self.tasks)

    def cost(self, task: VideoTask) -> float:
        """Frames that will be shown for a video, about; what the processes share out evenly."""
        mode, settings = self.examiner.mode, self.examiner.settings
        if mode == "streaming":
            return settings.fps * (task.end - task.start) + len(task.questions)
        if mode == "blind":
            return float(len(task.questions))
        window, most = (value or float("inf") for value in (settings.window, settings.frames))
        return sum(min(most, settings.fps * min(window, q.last_time - task.start)) + 1 for q in task.questions)


def execute(run: Run, *, resume: bool) -> None:
    """Ask all questions of this process that have no answer yet, with a line on disk for each before the next.

    Raises ValueError where the folder belongs to another run, or another process writes this one's predictions.
    """
    from tqdm import tqdm

    _claim(run, resume)
    before = read_predictions(run.output)
    done = {key: prediction.response or "" for key, prediction in before.items() if prediction.error is None}
    mine = run.shard.of(run.tasks, run.cost)
    total = sum(len(task.questions) for task in mine)
    bar = tqdm(total=total, unit="question", desc=run.examiner.mode, disable=None, leave=False)
    with appending(run.shard.file(run.output)) as append, bar:
        todo = (task for task in mine if not all(question.id in done for question in task.questions))
        with closing(_in_turn(predict(run, task, done) for task in todo)) as predictions:
            for prediction in predictions:
                append(prediction)
                bar.update()


def completed(run: Run) -> dict[str, Prediction] | None:
    """All predictions, also merged into one file, once no question of any process is open; else None.

    Whichever process finishes last sees all lines, so no process waits for another.
    """
    predictions = read_predictions(run.output)
    if not all(question.id in predictions for task in run.tasks for question in task.questions):
        return None
    write_merged(run.output, predictions.values())
    return predictions


def _in_turn(videos: Iterator[Generator[Prediction | None]]) -> Generator[Prediction]:
    """The predictions of one video after the other; the next one's frames are on their way while one is asked about."""
    with ExitStack() as begun:
        current: Generator[Prediction | None] | None = None
        for following in chain(videos, (None,)):
            if following is not None:
                begun.enter_context(closing(following))
                next(following)
            if current is not None:
                yield from filter(None, current)
            current = following


def predict(run: Run, task: VideoTask, done: Collection[str]) -> Generator[Prediction | None]:
    """A prediction for every question of one video that is not done; a broken video leaves them unanswered.

    Before these comes None, once the video is open and its frames are on their way.
    """
    answered = set(done)
    try:
        video = None if run.examiner.mode == "blind" else open_task_video(task, run.library)
        with video.reader if video else nullcontext(), closing(run.examiner.begin(task, video, done)) as plan:
            yield None
            for question, outcome in run.examiner.examine(task, video, done, plan):
                answered.add(question.id)
                if isinstance(outcome, MediaError):
                    yield Prediction.unanswered(task, question, str(outcome))
                else:
                    yield Prediction.of(task, question, outcome, run.benchmark.judge(question, outcome))
    except MediaError as error:
        broken = error
    else:
        return
    yield None  # once more where the video has broken on the way, which costs nothing
    for question in task.questions:
        if question.id not in answered:
            yield Prediction.unanswered(task, question, str(broken))


def _claim(run: Run, resume: bool) -> None:
    """Write the run's config into its folder first, or make sure that the folder belongs to the same run."""
    path = run.output / CONFIG_FILE
    config = json.loads(json.dumps(run.config))
    if not path.is_file():
        write_json(path, config)
        return
    before = _read_config(path)
    different = sorted(key for key in {*before, *config} if before.get(key) != config.get(key))
    if different:
        what = ", ".join(f"{key}: {before.get(key)!r} then, {config.get(key)!r} now" for key in different)
        raise ValueError(f"{run.output} holds another run ({what}); choose another --output")
    own = run.shard.file(run.output)
    if not resume and own.is_file() and own.stat().st_size > 0:
        raise ValueError(
            f"{run.output} holds predictions already; add --resume to continue, or choose another --output"
        )


def write_plan(path: Path, run: Run) -> int:
    """What a model would be asked, one line of json a question (of a poll: one each moment). Decodes no frame.

    Returns the exit status: 1 where a question cannot be asked; its line says why.
    """
    failed = 0
    with whole(path) as beside, open(beside, "w", encoding="utf-8") as file:
        for task in run.tasks:
            for line in _plan_of(run, task):
                failed += "error" in line
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 1 if failed else 0


def _plan_of(run: Run, task: VideoTask) -> Iterator[dict[str, Any]]:
    examiner = run.examiner
    protocol, settings = run.benchmark.protocol, examiner.settings
    about: dict[str, Any] = {"video": task.video, "protocol": protocol, "mode": examiner.mode}
    about |= {"system_prompt": settings.system_prompt, "max_new_tokens": settings.max_new_tokens}
    try:
        video = None if examiner.mode == "blind" else open_task_video(task, run.library)
    except MediaError as error:
        yield from ({"id": question.id, **about, "error": str(error)} for question in task.questions)
        return
    with video.reader if video else nullcontext():
        for moment, question in examiner.queries(task):
            frames = [] if video is None else examiner.frames(task, video, question, moment)
            times = [] if video is None else examiner.times(video, frames)
            prompt = question.poll.prompt if question.poll else question.prompt
            line = {"id": question.id, **about, "moment": moment, "prompt": prompt, "frames": frames, "times": times}
            yield line if frames or video is None else {**line, "error": f"no frame to show at {moment:.1f} s"}


def read_run_config(folder: Path) -> dict[str, Any]:
    """What a run's answers depend on, its benchmark's name at least. ValueError for a folder of something else."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not the --output of an evaluation: no {CONFIG_FILE} in it")
    return _read_config(path)


def _read_config(path: Path) -> dict[str, Any]:
    """ValueError for what no evaluation wrote: text that is no JSON, or the config of something else."""
    config = read_json(path, dict, "the settings of an evaluation")
    if not isinstance(config.get("benchmark"), str):
        raise ValueError(f"{path} names no benchmark; expected the settings of an evaluation")
    for name, kind in (("split", list), ("limit", int)):
        if not isinstance(config.get(name), (kind, type(None))):
            raise ValueError(f"{path}: {name} is {config[name]!r:.80}; expected the settings of an evaluation")
    return config


def equal_ids(tasks: Sequence[VideoTask]) -> dict[str, int]:
    """Ids of more than one question -> of how many. Predictions are kept by id: two questions would be one."""
    counts = Counter(question.id for task in tasks for question in task.questions)
    return {question_id: count for question_id, count in counts.items() if count > 1}


def refuse_equal_ids(tasks: Sequence[VideoTask]) -> None:
    if twice := equal_ids(tasks):
        raise ValueError(f"{len(twice)} ids stand for several questions each: {named(twice)}; --check names them all")


def check_questions(tasks: Sequence[VideoTask], library: VideoLibrary) -> list[str]:
    """Everything that would keep questions from being asked: one line a video or id. Nothing is asked."""
    twice = [f"{question_id!r} is the id of {count} questions" for question_id, count in equal_ids(tasks).items()]
    return twice + [problem for task in tasks if (problem := check_video(task, library)) is not None]


def first_questions(tasks: Sequence[VideoTask], limit: int | None) -> list[VideoTask]:
    """The first `limit` questions, one of each source in turn, with their videos; None: all. ValueError for 0."""
    if limit is None:
        return list(tasks)
    if limit < 1:
        raise ValueError(f"--limit must be >= 1 question, got {limit}")
    sources: dict[str, list[tuple[int, Question]]] = defaultdict(list)
    for number, task in enumerate(tasks):
        for question in task.questions:
            sources[question.source].append((number, question))
    in_turn = chain.from_iterable(zip_longest(*(sources[name] for name in sorted(sources))))
    chosen: dict[int, list[Question]] = defaultdict(list)
    for number, question in islice(filter(None, in_turn), limit):
        chosen[number].append(question)
    return [replace(tasks[number], questions=tuple(chosen[number])) for number in sorted(chosen)]
