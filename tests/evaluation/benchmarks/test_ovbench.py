"""OVBench: the real annotations, all layouts, sub-tasks, prompts and verdicts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.benchmarks.ovbench import SUB_TASKS, SYSTEM_PROMPT
from videochat_online.evaluation.predictions import Prediction
from videochat_online.evaluation.questions import Reply, VideoTask
from videochat_online.evaluation.scoring import Tally, headline_of, players_of

COUNTS = {
    "AA Action Anticipation": 78,
    "GSP Goal/Step Prediction": 660,
    "MP Movement Prediction": 326,
    "AP Action Persistence": 233,
    "SV Step Verification": 1051,
    "OP Object Presence": 325,
    "AR Action Retrieval": 320,
    "PR Procedure Recall": 1046,
    "TR Trajectory Retrieval": 326,
    "AL Action Location": 320,
    "OP Object Position": 323,
    "AT Action Trajectory": 230,
    "OT Object Trajectory": 322,
    "AS Action Sequence": 215,
    "SL Step Localization": 905,
    "OES Object Existence State": 325,
}


def unanswered(tasks: list[VideoTask]) -> list[Prediction]:
    return [Prediction.unanswered(task, question, "not asked") for task in tasks for question in task.questions]


def test_every_real_question_finds_its_sub_task(real: list[VideoTask]):
    questions = [question for task in real for question in task.questions]
    assert len(questions) == len({question.id for question in questions}) == 7005
    assert len(real) == len({task.id for task in real}) == 1441
    assert Counter(question.task for question in questions) == COUNTS
    sources = Counter(question.source for question in questions)
    assert sources == {"AVA": 1396, "COIN": 1948, "HiREST": 1714, "TAO": 1947}
    assert len({question.category for question in questions}) == 6


def test_real_chance_and_commonest_letter(real: list[VideoTask]):
    rows = unanswered(real)
    shares = {
        player.name: round(100 * headline_of(Tally.of(rows, [player.right[row.id] for row in rows]), "tasks"), 1)
        for player in players_of(OVBench().judge, real)
    }
    assert shares == {
        "chance": 29.5, "commonest_answer": 33.1, "one_answer": 28.1, "commonest_text": 35.9, "always_yes": 30.0,
    }  # fmt: skip


def test_real_films_run_on_absolute_time(real: list[VideoTask]):
    films = [task for task in real if task.questions[0].source == "AVA"]
    assert all(task.start == task.segment_start == 900.0 and task.fps == 1.0 for task in films)
    assert min(question.timestamp for task in films for question in task.questions) == 903.0


def test_real_frame_folders_have_their_rate(real: list[VideoTask]):
    folders = [task for task in real if task.questions[0].source == "TAO"]
    assert {task.fps for task in folders} >= {8.0, 24.0, 30.0, 60.0}
    task = next(task for task in folders if task.video == "horse-20")
    assert task.names == ("val/LaSOT/horse-20", "LaSOT/horse-20", "horse-20")
    assert task.anchor is not None and task.anchor[0].endswith(".jpg")


def test_the_sub_tasks_are_those_of_the_board():
    assert [f"{sub.code} {sub.name}" for sub in SUB_TASKS] == list(COUNTS)
    assert len({sub.category for sub in SUB_TASKS}) == 6


def test_the_excerpt_has_all_sub_tasks_and_sources(tasks: list[VideoTask]):
    questions = [question for task in tasks for question in task.questions]
    assert {question.task for question in questions} == set(COUNTS)
    assert {question.source for question in questions} == {"AVA", "COIN", "HiREST", "TAO"}
    assert all(task.questions == tuple(sorted(task.questions, key=lambda q: (q.timestamp, q.id))) for task in tasks)


def test_splits_choose_sources(annotations: Path):
    tasks = OVBench().load(annotations, splits=("coin",))
    assert {question.source for task in tasks for question in task.questions} == {"COIN"}
    with pytest.raises(ValueError, match=r"unknown split .*kinetics"):
        OVBench().load(annotations, splits=("kinetics",))


RECORD: dict[str, Any] = {
    "middle_frame_timestamp": 85.0,
    "question": "How long has the person been performing the 'make the detergent'?",
    "answer": "6-7s",
    "sub_answer_type": "TemporalPerception-1",
    "answer_type": "TemporalPerception",
    "video": "AIAqkAAXnjg.mp4",
    "candidates": ["8-9s", "50-51s", "6-7s", "19-20s"],
    "start": 0.0,
    "end": 85.0,
}


def load_flat(folder: Path, record: dict[str, Any], source: str = "coin", prompt: str = "official") -> VideoTask:
    (folder / f"{source}.json").write_text(json.dumps([record]))
    [task] = OVBench(prompt).load(folder)
    return task


def test_the_official_words(tmp_path: Path):
    [question] = load_flat(tmp_path, RECORD).questions
    assert question.prompt == (
        "Question at 85.0s: How long has the person been performing the 'make the detergent'?\n"
        "Options:\n(A) 8-9s\n(B) 50-51s\n(C) 6-7s\n(D) 19-20s\nAnswer:"
    )
    assert question.answer == "C"
    assert question.labels == ("(A)", "(B)", "(C)", "(D)")
    assert question.written(2) == ("(C)", "C", "(C) 6-7s", "6-7s")
    assert OVBench().system_prompt == SYSTEM_PROMPT
    assert SYSTEM_PROMPT.endswith("accurately addresses the question.\n")


def test_the_words_of_lmms_eval(tmp_path: Path):
    [question] = load_flat(tmp_path, RECORD, prompt="lmms-eval").questions
    assert question.prompt == (
        "How long has the person been performing the 'make the detergent'?\n"
        "A. 8-9s\nB. 50-51s\nC. 6-7s\nD. 19-20s\nAnswer with the option's letter from the given choices directly."
    )
    assert OVBench("lmms-eval").system_prompt is None
    with pytest.raises(ValueError, match="unknown prompt 'mine'"):
        OVBench("mine")


def test_a_question_keeps_the_id_it_comes_with(tmp_path: Path):
    assert load_flat(tmp_path, RECORD).questions[0].id == "coin/00000"
    assert load_flat(tmp_path, {**RECORD, "id": "mine"}).questions[0].id == "mine"


def test_a_generated_world_tells_how_old_the_evidence_is(tmp_path: Path):
    def age(**more: Any) -> float | None:
        return load_flat(tmp_path, {**RECORD, **more}).questions[0].evidence_age

    assert age() is None and age(evidence=[]) is None, "the published files do not tell"
    time = float(RECORD["middle_frame_timestamp"])
    assert age(evidence=[[1.0, 2.5], [0.5, 4.0]]) == time - 2.5, "the oldest piece decides"
    assert age(evidence=[[1.0, time + 2]]) == 0.0, "it is still to be seen"
    for wrong in (["x"], [[1.0, "x"]], [[1.0, float("nan")]], [[1.0, float("-inf")]], [[2.0, 1.0]], 3.0):
        with pytest.raises(ValueError, match=r"coin\.json, record 0"):
            age(evidence=wrong)


def streaming_record(video_id: str, **changes: Any) -> dict[str, Any]:
    question = {
        "question": "Which way will the horse go?",
        "options": ["A. stationary", "B. right"],
        "answer": "B",
        "answer_type": "Future Prediction",
        "sub_answer_type": "Movement Prediction",
        "middle_frame_timestamp": 7,
        **changes,
    }
    return {"video_id": video_id, "clip": [0, 9], "fps": 30, "questions": [question]}


def load_streaming(folder: Path, *records: dict[str, Any]) -> list[VideoTask]:
    (folder / "ovbench.json").write_text(json.dumps(list(records)))
    return OVBench().load(folder)


def test_the_streaming_layout_gives_the_same_questions(tmp_path: Path):
    [task] = load_streaming(tmp_path, streaming_record("LaSOT/horse-20"))
    [question] = task.questions
    assert (task.start, task.fps, task.names) == (0.0, 30.0, ("LaSOT/horse-20", "horse-20"))
    assert (question.task, question.category, question.source) == ("MP Movement Prediction", "Future Prediction", "TAO")
    assert (question.answer, question.options, question.timestamp) == ("B", ("stationary", "right"), 7.0)
    assert (
        question.prompt == "Question at 7s: Which way will the horse go?\nOptions:\n(A) stationary\n(B) right\nAnswer:"
    )


def test_the_hub_keeps_films_in_ava_raw_and_frames_of_tao_in_ava(tmp_path: Path):
    film = streaming_record("AVA_RAW/1j20qq1JyX4.mp4", middle_frame_timestamp=945.0)
    film["clip"] = [900.0, 1000.0]
    tasks = load_streaming(tmp_path, film, streaming_record("AVA/1j20qq1JyX4_scene_1"), streaming_record("COIN/x.mp4"))
    assert [task.questions[0].source for task in tasks] == ["AVA", "TAO", "COIN"]
    assert [(task.start, task.segment_start) for task in tasks] == [(900.0, 900.0), (0.0, 0.0), (0.0, 0.0)]


def test_the_hubs_parts_are_not_counted_twice(tmp_path: Path):
    load_streaming(tmp_path, streaming_record("LaSOT/a"), streaming_record("LaSOT/b"))
    for part in ("action", "event", "object"):
        (tmp_path / f"ovbench_{part}.json").write_text(json.dumps([streaming_record("LaSOT/a")]))
    assert len(OVBench().load(tmp_path)) == 2
    (tmp_path / "ovbench.json").unlink()
    assert len(OVBench().files(tmp_path)) == 3


def test_a_video_of_several_sources_is_listed_once(tmp_path: Path):
    record = streaming_record("world-1.mp4")
    record["questions"] += [{**record["questions"][0], "source": "ava", "middle_frame_timestamp": 3}]
    (tmp_path / "coin.json").write_text(json.dumps([RECORD]))  # the same questions flat, a video once for each source
    [task] = load_streaming(tmp_path, record)
    assert [(question.source, question.timestamp) for question in task.questions] == [("AVA", 3.0), ("TAO", 7.0)]
    [part] = OVBench().load(tmp_path, splits=("ava",))
    assert [question.source for question in part.questions] == ["AVA"]
    assert OVBench().load(tmp_path, splits=("coin",)) == []


BAD_RECORDS = {
    "answer": ({"answer": "7 hours"}, "coin.json, record 0: the answer '7 hours' must be exactly one of"),
    "twice": ({"candidates": ["6-7s", "6-7s"]}, "must be exactly one of"),
    "type": ({"answer_type": "SpatialPerception"}, "no sub-task 'SpatialPerception' in coin"),
    "time": ({"middle_frame_timestamp": -1}, "timestamp must be seconds >= 0"),
    "options": ({"candidates": 3}, "coin.json, record 0: the options must be a list of texts, got 3"),
    "kind": ({"middle_frame_timestamp": [85]}, r"coin.json, record 0 is not as expected: float\(\) argument"),
    "rate": ({"fps": float("inf")}, "fps must be > 0, got inf"),
    "start": ({"start": float("nan")}, "must start at a second, got nan"),
    "half a pair": ({"question": "\ud83d?"}, "record 0: .*surrogates not allowed"),
    "id": ({"id": 7}, "a question needs a text as id, got 7"),
    "no video": ({"video": None}, "a video needs a text as name, got None"),
    "video": ({"video": 7}, "a video needs a text as name, got 7"),
    "empty video": ({"video": ""}, "a video needs a text as name, got ''"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_named(name: str, tmp_path: Path):
    changes, message = BAD_RECORDS[name]
    with pytest.raises(ValueError, match=message):
        load_flat(tmp_path, {**RECORD, **changes})


def test_odd_records_are_left_out_and_the_others_are_read(tmp_path: Path):
    odd = [7, {**RECORD, "answer": "7 hours"}, {**RECORD, "start": None}, {key: RECORD[key] for key in ("candidates",)}]
    (tmp_path / "coin.json").write_text(json.dumps([*odd, RECORD, {**RECORD, "middle_frame_timestamp": 90}]))
    examples = OVBench().read(tmp_path)
    [task] = examples.tasks
    assert [question.id for question in task.questions] == ["coin/00004", "coin/00005"]  # numbered as in the file
    assert [line.split(":")[0].split(" is ")[0].split(" has ")[0] for line in examples.left_out] == [
        f"coin.json, record {number}" for number in range(4)
    ]
    with pytest.raises(ValueError, match=r"(?s)record 0 .*record 3 has no 'answer_type'"):
        OVBench().load(tmp_path)


def test_odd_questions_and_videos_of_the_streaming_layout_are_left_out(tmp_path: Path):
    good = streaming_record("LaSOT/a")
    good["questions"].append({**good["questions"][0], "answer": "E"})
    records = [{"video_id": "LaSOT/b"}, good, streaming_record("LaSOT/c") | {"clip": []}, "video"]
    (tmp_path / "ovbench.json").write_text(json.dumps(records))
    examples = OVBench().read(tmp_path)
    assert [(task.id, len(task.questions)) for task in examples.tasks] == [("LaSOT/a", 1)]
    assert len(examples.left_out) == 4
    assert "ovbench.json: LaSOT/a, question 1: answer 'E' is none of the options AB" in examples.left_out
    assert "ovbench.json, video 0 has no 'questions'" in examples.left_out[0]


def test_bad_streaming_records_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"option 1 must begin with B\., got 'right'"):
        load_streaming(tmp_path, streaming_record("LaSOT/a", options=["A. stationary", "right"]))
    with pytest.raises(ValueError, match="no sub-task 'Movement Prediction' in 'Past Memory'"):
        load_streaming(tmp_path, streaming_record("LaSOT/a", answer_type="Past Memory"))


def test_a_field_that_is_missing_is_named(tmp_path: Path):
    for name, where in (("question", "coin.json, record 0"), ("video", "record 0"), ("start", "record 0")):
        with pytest.raises(ValueError, match=rf"{where} has no '{name}'"):
            (tmp_path / "coin.json").write_text(json.dumps([{key: RECORD[key] for key in RECORD if key != name}]))
            OVBench().load(tmp_path)
    record = streaming_record("LaSOT/a")
    del record["questions"][0]["options"]
    with pytest.raises(ValueError, match="LaSOT/a, question 0 has no 'options'"):
        load_streaming(tmp_path, record)


def test_files_that_are_no_annotations_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no OVBench annotations in"):
        OVBench().load(tmp_path)
    (tmp_path / "coin.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a list of records, got dict"):
        OVBench().load(tmp_path)
    (tmp_path / "coin.json").write_text('[{"a": 1}]')
    with pytest.raises(ValueError, match=r"neither the flat nor the streaming nor the split layout .* has \['a'\]"):
        OVBench().load(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps([RECORD]))
    with pytest.raises(ValueError, match="a flat annotation file is named"):
        OVBench().load(tmp_path / "other.json")


def test_a_reply_without_a_letter_is_wrong_and_said_so(tasks: list[VideoTask]):
    question = tasks[0].questions[0]
    judge = OVBench().judge
    verdict = judge(question, Reply("A man walks by", 1, 1, 0.0, 0.0, 0.0, 0.0))
    assert (verdict.extracted, verdict.correct) == (None, False)
    verdict = judge(question, Reply(f"({question.answer})", 1, 1, 0.0, 0.0, 0.0, 0.0))
    assert (verdict.extracted, verdict.correct) == (question.answer, True)


def test_where_the_published_rule_differs_it_is_said(tasks: list[VideoTask]):
    task = tasks[0]
    question = next(q for task in tasks for q in task.questions if q.answer == "A")

    def predicted(text: str) -> Prediction:
        reply = Reply(text, 1, 1, 0.0, 0.0, 0.0, 0.0)
        return Prediction.of(task, question, reply, OVBench().judge(question, reply))

    assert OVBench().notes(tasks, [predicted("(A)"), predicted("B"), predicted("no idea")]) == []
    [note] = OVBench().notes(tasks, [predicted("A man walks"), predicted("B")])
    assert note.startswith("Letters are read by our rule, the letter that a careful reader takes; by the published")
    assert note.endswith(", 1 instead of 0 are right.")
