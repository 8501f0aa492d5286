"""StreamingBench: choice, sequential and proactive questions as the authors ask and score them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videochat_online.evaluation.benchmarks import StreamingBench
from videochat_online.evaluation.benchmarks.streaming_bench import seconds
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Question, Reply, VideoTask


def choice(stamp: str, **changes: Any) -> dict[str, Any]:
    return {
        "task_type": "Object Recognition",
        "question": "What is it?",
        "time_stamp": stamp,
        "answer": "B",
        "options": ["A. A cup.", "B. A map.", "C. A hat.", "D. A dog."],
        "required_ability": "working memory",
        **changes,
    }


def entry(video: str, *questions: dict[str, Any]) -> dict[str, Any]:
    return {
        "video_path": f"./videos/{video}.mp4",
        "video_categories": "x",
        "time": "[0:00:00 - 0:00:10]",
        "questions": list(questions),
    }


PROACTIVE = {
    "task_type": "Proactive Output",
    "question": 'When the score is 40, output "40".',
    "time_stamp": "00:01:00",
    "ground_truth_time_stamp": "00:01:05",
    "ground_truth_output": "40",
    "required_ability": "working memory",
}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    real = [entry("sample_1_real", choice("00:00:31")), entry("sample_1_real", choice("00:00:09"))]
    omni = [entry("sample_2_Emotion_Recognition", choice("00:02:03", task_type="Misleading Context Understanding"))]
    bare = choice("00:00:50", options=["2.", "6.", "7.", "4."], question="How many?", answer="A")
    sqa = [
        [entry("sample_3_sqa", choice("00:00:36")), entry("sample_3_sqa", bare)],
        [entry("sample_4_sqa", choice("00:00:05"))],
    ]
    parts = {"real": real, "omni": omni, "sqa": sqa, "proactive": [entry("sample_5_proactive", PROACTIVE)]}
    for part, data in parts.items():
        (tmp_path / f"questions_{part}.json").write_text(json.dumps(data))
    return tmp_path


@pytest.fixture
def tasks(annotations: Path) -> list[VideoTask]:
    return StreamingBench().load(annotations)


def by_id(tasks: list[VideoTask]) -> dict[str, Question]:
    return {question.id: question for task in tasks for question in task.questions}


def test_all_parts_are_read(tasks: list[VideoTask]):
    questions = by_id(tasks)
    assert len(questions) == 7
    assert {q.category for q in questions.values()} == {"Real-Time Visual Understanding", "Contextual Understanding"}
    real = next(task for task in tasks if task.id == "real/sample_1_real")
    assert [q.timestamp for q in real.questions] == [9.0, 31.0]
    assert real.names == (
        "videos/sample_1_real.mp4",
        "videos/sample_1_real.mp4",
        "sample_1_real.mp4",
        "real/sample_1/video.mp4",
    )


def test_time_stamps():
    assert [seconds(stamp) for stamp in ("00:03:10", "0:04:49", "01:00:00", "12")] == [190.0, 289.0, 3600.0, 12.0]


def test_the_authors_words_for_a_choice(tasks: list[VideoTask]):
    assert by_id(tasks)["real/sample_1_real#q0"].prompt == (
        "You are an advanced video question-answering AI assistant. You have been provided with some frames from the "
        "video and a multiple-choice question related to the video. Your task is to carefully analyze the video and "
        "provide the best answer to question, choosing from the four options provided. Respond with only the letter "
        "(A, B, C, or D) of the correct option.\n\nQuestion: What is it?\n\nOptions:\nA. A cup.\nB. A map.\nC. A hat.\n"
        "D. A dog.\n\nThe best option is:"
    )


def test_a_sequential_question_carries_the_earlier_ones_with_their_right_answers(tasks: list[VideoTask]):
    questions = by_id(tasks)
    start = (
        "You are an advanced video question-answering AI assistant. You have been provided with a video and a "
        "multiple-choice question related to the video. Your task is to carefully analyze the video and the provided "
        "context to answer the question, choosing from the four options provided. Respond with only the letter "
        "(A, B, C, or D) of the correct option.\n\n"
    )
    then = "\n\nHere is the question. Answer it and don't confuse it with the previous conversation.\nQuestion: "
    assert questions["sqa/sample_3_sqa#q0"].prompt.startswith(f"{start}{then}What is it?")
    context = (
        "Here are the contextual information related to the video. Please answer the questions based on the contextual "
        "information: At timestamp 00:00:36, the following question and answer occurred: Question: What is it?; "
        "Options: A. A cup., B. A map., C. A hat., D. A dog.; Answer: B; "
    )
    assert questions["sqa/sample_3_sqa#q1"].prompt == (
        f"{start}{context}{then}How many?\n\nOptions:\nA. 2.\nB. 6.\nC. 7.\nD. 4.\n\nThe best option is:"
    )
    assert "At timestamp" not in questions["sqa/sample_4_sqa#q0"].prompt  # another video begins without context


def test_a_proactive_question_is_polled(tasks: list[VideoTask]):
    question = by_id(tasks)["proactive/sample_5_proactive#q0"]
    poll = question.poll
    assert poll is not None
    assert poll.times() == [61.0, 62.0, 63.0, 64.0, 65.0, 66.0, 67.0, 68.0, 69.0]
    assert poll.prompt.endswith(
        '\n\nQuestion: When the score is 40, output "40". Is it the right time to output "40"? '
        "You can only answer yes or no.\n\nThe answer is:\n"
    )
    assert question.prompt.startswith(
        "You are an advanced image question-answering AI assistant. You have been provided"
    )
    assert question.prompt.endswith('\n\nQuestion: When the score is 40, output "40".\n\nThe answer is:\n')


def reply(text: str, answered_at: float | None = None) -> Reply:
    return Reply(text, 1, 1, 0.0, 0.0, 0.0, 0.0, answered_at=answered_at)


def test_the_first_character_decides_a_choice(tasks: list[VideoTask]):
    question = by_id(tasks)["real/sample_1_real#q0"]
    judge = StreamingBench(protocol="published").judge
    found = [judge(question, reply(text)) for text in ("B", "B. A map.", "A", "(B)", "")]
    assert StreamingBench().judge(question, reply("(B)")).correct  # by our rule
    assert [verdict.correct for verdict in found] == [True, True, False, False, False]
    assert [verdict.extracted for verdict in found] == ["B", "B", "A", None, None]


def test_a_proactive_answer_must_come_in_time_with_the_right_words(tasks: list[VideoTask]):
    question = by_id(tasks)["proactive/sample_5_proactive#q0"]
    judge = StreamingBench().judge
    cases = [("40", 65.0), ("It is 40 now", 67.0), ("40", 62.0), ("30", 65.0), ("No", None)]
    assert [judge(question, reply(text, at)).correct for text, at in cases] == [True, True, False, False, False]
    assert judge(question, reply("No")).extracted is None


def test_notes_say_how_many_came_in_time_and_that_nothing_was_heard(tasks: list[VideoTask]):
    task = next(task for task in tasks if task.id.startswith("proactive/"))
    late = Prediction.of(
        task, task.questions[0], reply("40", 62.0), StreamingBench().judge(task.questions[0], reply("40", 62.0))
    )
    notes = "\n".join(StreamingBench().notes(tasks, [late]))
    assert "Proactive: 0 of 1 came within 2 s" in notes
    assert "without sound" in notes


def test_a_file_that_is_part_of_another_is_read_only_where_it_is_named(annotations: Path):
    (annotations / "questions_proactive_50.json").write_text(json.dumps([entry("sample_9_proactive", PROACTIVE)]))
    assert len(by_id(StreamingBench().load(annotations))) == 7
    [task] = StreamingBench().load(annotations / "questions_proactive_50.json")
    assert task.id == "proactive/sample_9_proactive"
    with pytest.raises(ValueError, match=r"mine\.json: expected a file named questions_PART\.json"):
        (annotations / "mine.json").write_text("[]")
        StreamingBench().load(annotations / "mine.json")
    assert len(StreamingBench().load(annotations, splits=("real",))) == 1
    assert len(StreamingBench().load(annotations / "questions_proactive.json")) == 1


def test_of_more_than_four_options_the_first_four_are_shown(tmp_path: Path):
    broken = ["A. 'Go", "on.'", "B. 'No.'", "C. 'Yes.'", "D. 'Stop.'"]
    row = choice("00:00:05", options=broken, answer="D")
    (tmp_path / "questions_omni.json").write_text(json.dumps([entry("a", row)]))
    [task] = StreamingBench().load(tmp_path)
    [question] = task.questions
    assert question.prompt.endswith("\n\nOptions:\nA. 'Go\non.'\nB. 'No.'\nC. 'Yes.'\n\nThe best option is:")
    assert (question.answer, question.labels, question.options) == ("D", ("A", "B", "C", "D"), ())
    assert question.written(1) == ("B",)  # line two is no option B
    assert "more than four options: 1." in "\n".join(StreamingBench().notes([task], []))


def test_odd_rows_are_left_out_and_the_others_keep_their_ids(annotations: Path):
    rows = [choice("00:00:05", answer="E"), choice("0:x"), choice("00:00:07")]
    real = [entry("a", *rows), {"video_path": 3}, entry("b")]
    (annotations / "questions_real.json").write_text(json.dumps(real))
    sqa = [[entry("c", choice("00:00:05", options="A. 1")), {}, entry("c", choice("00:00:09"))], 5]
    (annotations / "questions_sqa.json").write_text(json.dumps(sqa))
    examples = StreamingBench().read(annotations, splits=("real", "sqa"))
    assert sorted(by_id(examples.tasks)) == ["real/a#q2", "sqa/c#q1"]
    assert [line[: line.index(":")] for line in examples.left_out if ":" in line][:2] == [
        "questions_real.json, entry 0, real/a#q0",
        "questions_real.json, entry 0, real/a#q1",
    ]
    assert len(examples.left_out) == 6


def test_what_is_no_such_file(tmp_path: Path):
    for text, message in (
        ("[{", r"questions_real\.json cannot be read as JSON"),
        ('[{"video": "a.mp4"}]', "entry 0 has no 'video_path'"),
    ):
        (tmp_path / "questions_real.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            StreamingBench().load(tmp_path)


def test_missing_annotations_and_parts(tmp_path: Path):
    with pytest.raises(ValueError, match="no StreamingBench annotations"):
        StreamingBench().load(tmp_path)
    with pytest.raises(ValueError, match="unknown split"):
        StreamingBench().load(tmp_path, splits=("video",))


def test_a_video_without_a_name_is_left_out(tmp_path: Path):
    unnamed = entry("sample_1_real", choice("00:00:31")) | {"video_path": ""}
    path = tmp_path / "questions_real.json"
    path.write_text(json.dumps([unnamed, entry("sample_2_real", choice("00:00:31"))]))
    examples = StreamingBench().read(path)
    assert [task.id for task in examples.tasks] == ["real/sample_2_real"]
    assert examples.left_out == ["questions_real.json, video '': a video needs a text as name, got ''"]
