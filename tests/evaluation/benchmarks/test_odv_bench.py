"""ODV-Bench: rows of the shape that OneStreamer publishes, its words, and its letter rule on replies of many kinds."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.conftest import write_video
from tests.evaluation.test_commands import run
from videochat_online.evaluation.benchmarks import ODVBench
from videochat_online.evaluation.benchmarks.odv_bench import SYSTEM_PROMPT
from videochat_online.evaluation.questions import Question, Reply

EVENTS = "Targeting multi-object interaction scenarios or events"


def row(answer: str, *candidates: str, **changes: Any) -> dict[str, Any]:
    return {
        "task": "Targeting single static objects",
        "subtask": "Past Traffic Memory",
        "question": "What was the meaning of the traffic sign at the [830, 390, 860, 440] in the scene 3 seconds ago?",
        "answer": answer,
        "video": "TS_Retrieval/test_video/N5Dy.mp4",
        "candidates": list(candidates),
        "start": 0.0,
        "end": 5.4,
        **changes,
    }


SIGN = row("No Parking.", "No Right Turn.", "Children Crossing.", "No Parking.", "No Entry.")
RISK = {"task": EVENTS, "subtask": "Risk Prediction", "question": "Will there be risks?", "start": 0, "fps": 10}
ROWS = [
    SIGN,
    row("No", "Yes", "No", video="TR_Analysis/CAP-DATA/10/009806.mp4", end=2.8, **RISK),
    row("Yes", "Yes", "No", video="TR_Analysis/CAP-DATA/10/009806.mp4", end=4, **RISK),
    row("[1, 2, 3, 4]", "[1, 2, 3, 4]", "[5, 6, 7, 8]", "[9, 9, 9, 9]", end=3.1, subtask="Risk Prediction"),
]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    (tmp_path / "ODVbench_bbox1000.json").write_text(json.dumps(ROWS))
    return tmp_path


def test_rows_become_questions_at_their_end(annotations: Path):
    sign, risk = ODVBench().load(annotations)
    assert [(q.id, q.timestamp, q.answer) for q in sign.questions] == [("3", 3.1, "A"), ("0", 5.4, "C")]
    assert [(q.id, q.timestamp, q.answer) for q in risk.questions] == [("1", 2.8, "B"), ("2", 4.0, "A")]
    assert (sign.fps, risk.fps, sign.names) == (None, 10.0, ("TS_Retrieval/test_video/N5Dy.mp4",))
    assert {q.task for q in (*sign.questions, *risk.questions)} == {
        "static: Past Traffic Memory", "static: Risk Prediction", "events: Risk Prediction",
    }  # fmt: skip
    assert [task.id for task in ODVBench().load(annotations, splits=("events",))] == [risk.id]


def test_the_words_are_the_published_ones(annotations: Path):
    question = ODVBench().load(annotations)[0].questions[1]
    assert question.prompt == (
        "Task: Targeting single static objects\nSubtask: Past Traffic Memory\nVideo segment: 0.00s to 5.40s\n"
        "Question:\nWhat was the meaning of the traffic sign at the [830, 390, 860, 440] in the scene 3 seconds ago?\n"
        "Options:\nA. No Right Turn.\nB. Children Crossing.\nC. No Parking.\nD. No Entry.\n"
        "Answer with ONLY the single uppercase letter of the correct option."
    )
    assert SYSTEM_PROMPT.startswith("You are an expert driving analyst. ") and ODVBench().system_prompt == SYSTEM_PROMPT


def test_a_clip_that_begins_later_is_a_video_of_its_own(tmp_path: Path):
    (tmp_path / "ODVbench.json").write_text(json.dumps([SIGN, {**SIGN, "start": 2.5}]))
    assert [(task.id, task.start) for task in ODVBench().load(tmp_path)] == [
        ("TS_Retrieval/test_video/N5Dy.mp4", 0.0), ("TS_Retrieval/test_video/N5Dy.mp4@2.5", 2.5)
    ]  # fmt: skip


def by_the_published_rule(reply: str, options: tuple[str, ...]) -> str | None:
    """A second writing of what is published, from its description: regular expressions instead of lists of words."""
    letters = "ABCDE"[: len(options)]
    refused = "help with images of people yet|can't process this file|without the image provided|Cannot determine the"
    if "Failed to obtain answer via API" not in reply:
        if re.search(refused, reply):
            return None
        tokens = re.findall(r"[^\s.()\[\],:;!*#{}]+", reply)
        firsts = {letter: tokens.index(letter) for letter in letters if letter in tokens}
        if len(firsts) == 1:
            [(letter, place)] = firsts.items()
            if place + 4 >= len(tokens):
                return letter
        if not firsts and tokens.count("Z"):
            return None
    contained = [i for i, option in enumerate(options) if re.search(re.escape(option.lower()), reply.lower())]
    too_long = len(reply) > 2 * len("".join(options))
    return letters[contained[0]] if len(contained) == 1 and not too_long else None


PIECES = ["A", "B", "(C)", "D.", "E", "a", "Z", "A car", "No Parking.", "no entry.", "children crossing",
          "the answer is", "because", "of", "the", "red", "sign", "\n", "**", "Best option:(",
          "Failed to obtain answer via API.", "I can't process this file.", "Cannot determine the answer"]  # fmt: skip


def test_replies_are_judged_as_by_the_published_rule(annotations: Path):
    benchmark = ODVBench(protocol="published")
    questions = [question for task in benchmark.load(annotations) for question in task.questions]
    dice = random.Random(0)
    replies = [" ".join(words) for n in (0, 1, 2) for words in itertools.product(PIECES, repeat=n)]
    replies += [" ".join(dice.choices(PIECES, k=dice.randint(3, 12))) for _ in range(2000)]
    found = []
    for question, reply in itertools.product(questions, replies):
        verdict = benchmark.judge(question, Reply(reply))
        expected = by_the_published_rule(reply, question.options)
        assert (verdict.extracted, verdict.correct) == (expected, expected == question.answer), reply
        found.append(expected)
    assert min(found.count(letter) for letter in (None, *"ABCD")) > 100


def test_our_rule_differs_where_a_reader_would(annotations: Path):
    question: Question = ODVBench().load(annotations)[0].questions[1]
    reply = Reply("The answer is C because of the red sign")  # its letter is not among the last four words
    assert ODVBench().judge(question, reply).correct
    assert not ODVBench(protocol="published").judge(question, reply).correct


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "Targeting cows"}, "record 0: unknown task 'Targeting cows'"),
        ({"answer": "Stop."}, "the answer 'Stop.' is none of"),
        ({"candidates": "Stop."}, "the options must be a list of texts"),
        ({"end": -1}, "expected start <= end, got 0.0 and -1.0"),
        ({"end": float("nan")}, "expected start <= end"),
        ({"video": 7}, "a video needs a text as name, got 7"),
        ({"fps": 0}, "fps must be > 0"),
        ({"start": None}, "record 0 is not as expected"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], message: str, tmp_path: Path):
    (tmp_path / "ODVbench.json").write_text(json.dumps([{**SIGN, **changes}, ROWS[1]]))
    examples = ODVBench().read(tmp_path)
    assert [task.video for task in examples.tasks] == ["TR_Analysis/CAP-DATA/10/009806.mp4"]
    with pytest.raises(ValueError, match=message):
        ODVBench().load(tmp_path)


def test_it_runs_from_its_command(annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for task in ODVBench().load(annotations):
        write_video(tmp_path / "videos" / task.names[0], task.end + 1)
    flags = ("--annotations", annotations, "--videos", tmp_path / "videos", "--output", tmp_path / "out")
    assert run("odvbench", *flags, "--check") == 0
    assert "4 questions; all 2 videos are fine" in capsys.readouterr().out
    assert run("odvbench", *flags, "--dry-run", tmp_path / "plan.jsonl") == 0
    plan = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert all(line["times"] and line["times"][-1] <= line["moment"] for line in plan)
    assert all(line["system_prompt"] == SYSTEM_PROMPT for line in plan)
    (tmp_path / "mine.tsv").write_text("index\tprediction\n0\tC\n1\tB\n2\tB\n3\tA\n")  # as VLMEvalKit names them
    done = run("score", "odvbench", *flags[:2], "--replies", tmp_path / "mine.tsv", "--output", tmp_path / "scored")
    assert done == 0 and json.loads((tmp_path / "scored/result.json").read_text())["score"] == 75.0
