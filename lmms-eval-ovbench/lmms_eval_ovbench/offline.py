"""Reports on lmms-eval's own offline benchmarks: its verdicts, beside what players get that never look.

Verdicts are read from the samples that lmms-eval logs; videos, options and right answers from the data set, which it
has loaded just before (the samples of 0.7.3 leave them out). Rows are read as its task files read them.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lmms_eval.tasks import TaskManager
from loguru import logger

from videochat_online.evaluation.benchmarks import Benchmark
from videochat_online.evaluation.benchmarks.base import Examples
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Question, Reply, Verdict, VideoTask, letters

SAMPLES = "_samples_"
SAID, RIGHT = ("pred_answer", "parsed_pred", "pred"), ("answer", "gt_answer", "ground_truth")
"""What the tasks call the answer that they found, and the right one."""


@dataclass(frozen=True)
class Row:
    """What a question is, of a row of the data set. `options` empty: they stand in the question's words.

    `part`: what the report's sources are, of benchmarks that report by the length of videos.
    """

    video: str
    answer: str
    options: tuple[str, ...] = ()
    task: str = "all questions"
    part: str = ""


class RowsMissing(Exception):
    """A data set cannot be loaded (again)."""


class Offline(Benchmark):
    """One benchmark of lmms-eval. `tasks`: names of its tasks; `metric`: what they log for each question."""

    tasks: ClassVar[str]
    metric: ClassVar[str]
    headline, headline_name = "pooled", "share of right answers"
    letter_rule = "lmms-eval's rule of this task"

    def __init__(self, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        """`rows`: of the data set, by task."""
        super().__init__()
        self.rows = rows
        self.found: dict[str, tuple[str, Verdict]] = {}
        """Reply and lmms-eval's verdict, by question id."""

    @abstractmethod
    def row(self, task: str, doc: dict[str, Any]) -> Row:
        """Where video, options and right letter stand in a row of the data set."""

    def parse(self, path: Path, records: list[Any], splits: tuple[str, ...], examples: Examples) -> None:
        """The samples of one task. Where options are not listed, there are as many as letters that are right once."""
        name, rows = path.stem.partition(SAMPLES)[2], {}
        for sample in records:
            with examples.record(f"{path.name}, doc_id {sample.get('doc_id')}"):
                question_id = f"{name}/{sample['doc_id']}"
                doc = self.rows[name][sample["doc_id"]]
                self.found[question_id] = _verdict_of(sample, self.metric)
                rows[question_id] = (_checked(self.row(name, doc), sample["target"]), doc["question"])
        most = max((ord(row.answer) - ord("A") + 1 for row, _ in rows.values()), default=0)
        videos: dict[str, list[Question]] = defaultdict(list)
        for question_id, (row, words) in rows.items():
            with examples.record(f"{path.name}, {question_id}"):
                labels = tuple(letters(row.options or range(most)))
                about = {"id": question_id, "timestamp": 0.0, "prompt": words, "answer": row.answer, "task": row.task}
                question = Question(
                    **about, category=self.title, source=row.part or name, labels=labels, options=row.options
                )
                videos[row.video].append(question)
        examples.tasks += [VideoTask(f"{name}/{one}", one, (one,), tuple(found)) for one, found in videos.items()]

    def predictions(self, tasks: Iterable[VideoTask]) -> dict[str, Prediction]:
        """What lmms-eval asked and found, by question id."""
        asked = ((task, question, *self.found[question.id]) for task in tasks for question in task.questions)
        return {one.id: Prediction.of(task, one, Reply(text), verdict) for task, one, text, verdict in asked}

    def notes(self, *_: object) -> list[str]:
        return [
            "Right is what lmms-eval found right. An empty answer counts as wrong, also where its task leaves it out."
        ]


class VideoMME(Offline):
    name, title, metric = "videomme", "Video-MME", "videomme_perception_score"
    tasks = r"videomme(_long)?(_w_subtitle)?"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        return Row(doc["videoID"], doc["answer"], _bare(doc["options"]), doc["task_type"], doc["duration"])


class MVBench(Offline):
    name, title, metric, tasks = "mvbench", "MVBench", "mvbench_accuracy", r"mvbench_\w+"
    headline, headline_name = "tasks", "mean of the tasks"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        place = doc["candidates"].index(doc["answer"])
        return Row(doc["video"], chr(ord("A") + place), tuple(doc["candidates"]), task.partition("_")[2])


class MLVU(Offline):
    name, title, metric, tasks = "mlvu", "MLVU", "mlvu_percetion_score", "mlvu_(dev|test)"
    headline, headline_name = "tasks", "mean of the tasks"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        return Row(doc["video_name"], doc["answer"], task=doc["task_type"])


class LongVideoBench(Offline):
    name, title, metric, tasks = "longvideobench", "LongVideoBench", "lvb_acc", "longvideobench_val_[iv]"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        options = [doc.get(f"option{number}", "N/A") for number in range(5)]
        options = options[: options.index("N/A")] if "N/A" in options else options
        answer = chr(ord("A") + doc["correct_choice"])
        part = f"up to {doc['duration_group']} s"
        return Row(doc["video_path"], answer, tuple(options), doc["question_category"], part)


class EgoSchema(Offline):
    name, title, metric, tasks = "egoschema", "EgoSchema", "score", "egoschema_subset(_mcppl)?"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        return Row(doc["video_idx"], chr(ord("A") + int(doc["answer"])), _bare(doc["option"]))


class LVBench(Offline):
    name, title, metric, tasks = "lvbench", "LVBench", "lvbench_score", "lvbench"

    def row(self, task: str, doc: dict[str, Any]) -> Row:
        return Row(doc["video_path"], doc["answer"], tuple(doc.get("options") or ()))


KINDS: tuple[type[Offline], ...] = (VideoMME, MVBench, MLVU, LongVideoBench, EgoSchema, LVBench)


def rows_of(tasks: Sequence[str]) -> dict[str, Sequence[dict[str, Any]]]:
    """Rows of their data sets by task, without pictures, as lmms-eval loads them. RowsMissing where it cannot."""
    logger.disable("lmms_eval")  # it says much about other tasks
    try:
        loaded = TaskManager().load_task_or_group(list(tasks))
        return {name: task.eval_docs_no_media for name, task in loaded.items()}
    except (Exception, SystemExit) as error:  # whatever data sets, task files and the network raise
        raise RowsMissing(str(error).strip().split("\n")[0][:200]) from error
    finally:
        logger.enable("lmms_eval")


def offline_runs(samples: Iterable[Path]) -> Iterator[tuple[dict[str, Path], Offline, Examples]]:
    """(logged samples by task, benchmark, its questions): one for each task, and one for all tasks of MVBench.

    RowsMissing where the rows of a task cannot be loaded.
    """
    groups: dict[tuple[str, type[Offline]], dict[str, Path]] = defaultdict(dict)
    for path in sorted(samples):
        task = path.stem.partition(SAMPLES)[2]
        for kind in KINDS:
            if re.fullmatch(kind.tasks, task):
                groups["" if kind is MVBench else task, kind][task] = path
    for (_, kind), paths in groups.items():
        benchmark, examples = kind(rows_of(list(paths))), Examples()
        for path in paths.values():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            benchmark.parse(path, rows, (), examples)
        yield paths, benchmark, examples


def _bare(options: list[str]) -> tuple[str, ...]:
    """Options without the letters that they begin with."""
    return tuple(re.sub(r"^\s*\(?[A-Z][.)]\s*", "", option) for option in options)


def _checked(row: Row, target: str) -> Row:
    """ValueError where lmms-eval logged another right answer (a letter, its place, its words): another data set."""
    place = ord(row.answer) - ord("A")
    if target not in (row.answer, str(place), *row.options[place : place + 1]):
        raise ValueError(f"the right answer was {target!r} when it was asked, in the data set it is {row.answer!r}")
    return row


def _verdict_of(sample: dict[str, Any], metric: str) -> tuple[str, Verdict]:
    """The reply, and lmms-eval's verdict: a table of answers, or right and wrong alone."""
    value, replies = sample[metric], sample["filtered_resps"]
    text = replies if isinstance(replies, str) else json.dumps(replies)
    if not isinstance(value, dict):
        return text, Verdict(text or None, bool(value))
    said, right = (value[next((name for name in names if name in value), names[0])] for names in (SAID, RIGHT))
    correct = bool(value["score"]) if "score" in value else str(said) == str(right)
    return text, Verdict(None if said in ("", -1, None) else str(said), correct)
