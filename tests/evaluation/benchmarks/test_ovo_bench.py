"""OVO-Bench: the authors' prompts, rules and total."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videochat_online.evaluation.benchmarks import OVOBench
from videochat_online.evaluation.benchmarks.ovo_bench import REGIMES
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Reply, Verdict, VideoTask
from videochat_online.evaluation.scoring import Tally, headline_of, players_of

ITEMS: list[dict[str, Any]] = [
    {
        "id": 0,
        "task": "EPM",
        "video": "Ego4D/a.mp4",
        "realtime": 30.5,
        "question": "Where did I put the knife?",
        "answer": "on the table",
        "options": ["in the drawer", "on the table", "in the sink"],
        "gt": 1,
    },
    {
        "id": 1,
        "task": "HLD",
        "video": "Ego4D/a.mp4",
        "realtime": 12,
        "question": "What is the colour of the car?",
        "answer": "Unable to answer",
        "options": ["red", "Unable to answer"],
        "gt": 1,
    },
    {"id": 2, "task": "OCR", "video": "COIN/b.mp4", "realtime": 5, "question": "?", "options": ["STOP", "GO"], "gt": 0},
    {
        "id": 3,
        "task": "REC",
        "video": "Perception_Test/c.mp4",
        "activity": "clap",
        "start_times": [1, 7],
        "end_times": [2, 8],
        "test_info": [{"realtime": 3, "count": 1}, {"realtime": 9, "count": 12}],
    },
    {
        "id": 4,
        "task": "SSR",
        "video": "COIN/b.mp4",
        "tutorial": "cook",
        "test_info": [
            {"realtime": 2, "step": "cut the onion", "type": 0},
            {"realtime": 4, "step": "fry it", "type": 1},
        ],
    },
    {
        "id": 5,
        "task": "CRR",
        "video": "d.mp4",
        "question": "Who opens the door?",
        "answer": "the woman",
        "ask_time": 1,
        "clue_time": 8,
        "test_info": [{"realtime": 2, "type": 0}, {"realtime": 9, "type": 1}],
    },
]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    (tmp_path / "ovo_bench_new.json").write_text(json.dumps(ITEMS))
    return tmp_path


@pytest.fixture
def tasks(annotations: Path) -> list[VideoTask]:
    return OVOBench().load(annotations)


def questions_of(tasks: list[VideoTask]) -> dict[str, Any]:
    return {question.id: question for task in tasks for question in task.questions}


def test_every_moment_is_a_question(tasks: list[VideoTask]):
    questions = questions_of(tasks)
    assert sorted(questions) == ["0", "1", "2", "3_0", "3_1", "4_0", "4_1", "5_0", "5_1"]
    assert {q.category for q in questions.values()} == set(REGIMES)
    assert [q.id for q in tasks[0].questions] == ["1", "0"]  # in the order of time
    assert questions["0"].answer == "B"
    assert [questions[i].answer for i in ("3_0", "3_1", "4_0", "4_1", "5_1")] == ["1", "12", "No", "Yes", "Yes"]
    assert tasks[0].names == ("src_videos/Ego4D/a.mp4", "Ego4D/a.mp4", "a.mp4")


def test_the_evidence_is_as_old_as_the_annotations_say(tasks: list[VideoTask]):
    ages = {key: question.evidence_age for key, question in questions_of(tasks).items()}
    told = {"3_0": 1.0, "3_1": 7.0, "5_1": 1.0}  # the first repetition that is over; the clue, once there is one
    assert ages == {**dict.fromkeys(ages), **told}


@pytest.mark.parametrize(("clue", "says"), [(float("nan"), "pieces of time"), ("soon", "could not convert")])
def test_a_clue_at_no_second_is_said(annotations: Path, clue: Any, says: str):
    number = {**ITEMS[-1], "clue_time": "8", "test_info": [{"realtime": "9", "type": 1}]}
    (annotations / "ovo_bench_new.json").write_text(json.dumps([number, {**ITEMS[-1], "id": 6, "clue_time": clue}]))
    examples = OVOBench().read(annotations)
    assert questions_of(examples.tasks)["5_0"].evidence_age == 1.0, "numbers in quotes are numbers, as elsewhere"
    assert len(examples.left_out) == 1 and says in examples.left_out[0]


def test_the_authors_words(tasks: list[VideoTask]):
    questions = questions_of(tasks)
    assert questions["0"].prompt == (
        "\nQuestion: Where did I put the knife?\nOptions:\nA. in the drawer; B. on the table; C. in the sink;\n\n"
        "Respond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
        "Do not include any additional text or explanation in your response.\n"
    )
    assert questions["3_0"].prompt == (
        "\nYou're watching a video in which people may perform a certain type of action repetively. \n"
        "The person performing this kind of action are referred to as 'they' in the following statement.\n"
        "You're task is to count how many times have different people in the video perform this kind of action in "
        "total.\n"
        "One complete motion counts as one. \n"
        "Now, answer the following question: How many times did they clap?\n"
        "Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.\n"
        "Do not include any additional text or explanation in your response.\n"
    )
    assert questions["4_1"].prompt == (
        "\nYou're watching a tutorial video which contain a sequential of steps. \n"
        "The following is one step from the whole procedures: \nfry it\n"
        "Your task is to determine if the man or woman in the video is currently performing this step.\n"
        "Answer only with “Yes” or “No”.\nDo not include any additional text or explanation in your response.\n"
    )
    assert questions["5_0"].prompt == (
        "\nYou're responsible of answering questions based on the video content. \n"
        "The following question are relevant to the latest frames, i.e. the end of the video.\nWho opens the door?\n"
        "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, "
        "provide enough information for answering the question.\n"
        "Answer only with “Yes” or “No”.\nDo not include any additional text or explanation in your response.\n"
    )


def test_chunks_are_files_of_their_own_and_of_one_video(annotations: Path):
    tasks = OVOBench(chunked=True).load(annotations)
    assert [task.names[0] for task in tasks][:4] == [f"chunked_videos/{n}.mp4" for n in ("0", "1", "2", "3_0")]
    assert all(len(task.questions) == 1 for task in tasks)
    whole = {question: task.video for task in OVOBench().load(annotations) for question in questions_of([task])}
    assert {question: task.video for task in tasks for question in questions_of([task])} == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"task": "OCR"', r"ovo_bench_new\.json cannot be read as JSON"),
        ("[" * 100_000, r"ovo_bench_new\.json cannot be read as JSON"),
        ('[{"video_id": "a.mp4", "questions": []}]', r"ovo_bench_new\.json, item 0 has no 'task'"),
        ('[{"id": 1, "task": "OCR", "video": "a.mp4", "options": 3}]', "item 0: the options must be a list of texts"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, text: str, message: str):
    (tmp_path / "ovo_bench_new.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        OVOBench().load(tmp_path)


def test_splits_are_regimes_or_tasks(annotations: Path):
    assert sorted(questions_of(OVOBench().load(annotations, splits=("forward",)))) == [
        "3_0",
        "3_1",
        "4_0",
        "4_1",
        "5_0",
        "5_1",
    ]
    assert sorted(questions_of(OVOBench().load(annotations, splits=("OCR", "HLD")))) == ["1", "2"]
    with pytest.raises(ValueError, match=r"unknown split .*XYZ"):
        OVOBench().load(annotations, splits=("XYZ",))


VERDICTS = {
    ("0", "B"): Verdict("B", True),
    ("0", "Answer: B"): Verdict("B", True),
    ("0", "C"): Verdict("C", False),
    ("0", "Because of A it is C, not B"): Verdict("A", True),  # the authors look for the letter anywhere
    ("0", ""): Verdict(None, False),
    ("3_1", "12"): Verdict("12", True),
    ("3_1", "1 or 2"): Verdict("12", True),  # the authors join all digits
    ("3_1", "twelve"): Verdict(None, False),
    ("4_0", "No"): Verdict("No", True),
    ("4_0", "N"): Verdict("No", True),
    ("4_0", "Yes, he is"): Verdict("Yes", False),
    ("4_1", "Y"): Verdict("Yes", True),
    ("4_1", "yes"): Verdict(None, False),  # the authors' rule knows capitals only
    ("5_0", "Yes and No"): Verdict("Yes and No", True),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_authors_rules(case: tuple[str, str], tasks: list[VideoTask]):
    question_id, text = case
    reply = Reply(text, 1, 1, 0.0, 0.0, 0.0, 0.0)
    assert OVOBench(protocol="published").judge(questions_of(tasks)[question_id], reply) == VERDICTS[case]
    ours = OVOBench().judge(questions_of(tasks)[question_id], reply)
    assert ours == (Verdict("A", False) if text.startswith("Because") else VERDICTS[case])


def predictions_of(tasks: list[VideoTask], text: str) -> list[Prediction]:
    reply = Reply(text, 1, 1, 0.0, 0.0, 0.0, 0.0)
    judge = OVOBench(protocol="published").judge
    return [Prediction.of(task, q, reply, judge(q, reply)) for task in tasks for q in task.questions]


def test_the_total_is_the_mean_of_three_regimes(tasks: list[VideoTask]):
    tally = Tally.of(predictions_of(tasks, "B Yes 1"))
    # backward: EPM 1, HLD 1; real-time: OCR 0; forward: REC 1/2, SSR 1/2, CRR 1/2
    assert headline_of(tally, OVOBench.headline) == pytest.approx((1 + 0 + 0.5) / 3)


def test_blind_baselines_stand_in_the_notes(tasks: list[VideoTask]):
    rows = predictions_of(tasks, "Because of A it is B")
    notes = "\n".join(OVOBench(protocol="published").notes(tasks, rows))
    assert "HLD: 1 of 1 right answers are a refusal (Unable to answer): always refusing scores 100.0." in notes
    assert "by our rule, the letter that a careful reader takes, 1 instead of 3 are right." in notes
    assert "CRR No, REC 1, SSR No" in notes
    player = {player.name: player for player in players_of(OVOBench().judge, tasks)}["commonest_answer"]
    forward = [row for row in rows if row.category == "forward"]
    assert headline_of(Tally.of(forward, [player.right[row.id] for row in forward]), "tasks") == 0.5


def test_annotations_that_do_not_fit_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"expected ovo_bench_new\.json"):
        OVOBench().load(tmp_path)
    for changes, message in (({"gt": 3}, "item 0: gt 3 is none of 3 options"), ({"task": "ABC"}, "unknown task 'ABC'")):
        (tmp_path / "ovo_bench_new.json").write_text(json.dumps([{**ITEMS[0], **changes}]))
        with pytest.raises(ValueError, match=message):
            OVOBench().load(tmp_path)
