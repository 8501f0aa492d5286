"""`eval report`, `eval score` and `eval compare`: what needs no model, from the command line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_commands import run
from videochat_online.evaluation.benchmarks import OVBench
from videochat_online.evaluation.questions import Question, VideoTask

SHARED = Path(__file__).parents[3] / "shared"
RESULTS = SHARED / "benchmarks/ovo_bench/results"


@pytest.fixture
def questions(tasks: list[VideoTask]) -> list[Question]:
    return [question for task in tasks for question in task.questions]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def score(annotations: Path, output: Path, *replies: object) -> int:
    return run("score", "ovbench", "--annotations", annotations, "--output", output, "--replies", *replies)


def test_replies_are_judged(annotations: Path, questions: list[Question], tmp_path: Path):
    rows = [{"id": q.id, "reply": f"({q.answer})" if i % 2 else "?"} for i, q in enumerate(questions)]
    assert score(annotations, tmp_path, write_lines(tmp_path / "r.jsonl", rows), "--model", "mine") == 0
    result = load(tmp_path, "result.json")
    assert (result["model"], result["questions"], result["not_asked"], result["incomplete"]) == ("mine", 60, 0, False)
    assert load(tmp_path, "report.json")["scores"]["pooled"]["accuracy"] == 0.5
    # What was written can be judged again, and says the same.
    (tmp_path / "again").mkdir()
    assert score(annotations, tmp_path / "again", tmp_path / "predictions.jsonl") == 0
    assert load(tmp_path / "again", "report.json")["scores"] == load(tmp_path, "report.json")["scores"]


def test_missing_replies_are_named_and_count_as_wrong(
    annotations: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"id": q.id, "reply": q.answer} for q in questions[2:]]
    assert score(annotations, tmp_path, write_lines(tmp_path / "r.jsonl", rows)) == 3
    printed = capsys.readouterr()
    assert f"no reply to 2 of 60 questions: {min(q.id for q in questions[:2])!r}" in printed.err
    assert "58 of 60 questions were asked: 2 could not be asked and count as wrong" in printed.out
    assert load(tmp_path, "result.json")["not_asked"] == 2
    assert load(tmp_path, "report.json")["scores"]["pooled"]["accuracy"] == pytest.approx(58 / 60)


BAD_REPLIES = {
    "unknown": ([{"id": "x9", "reply": "A"}], r"1 of 1 ids are of no question: 'x9'; ids here are such as 'ava/"),
    "twice": ([{"id": "x", "reply": "A"}, {"id": "x", "reply": "B"}], "ids with more than one reply: 'x'"),
    "no id": ([{"doc_id": 3, "reply": "A"}], r"r\.jsonl, row 1: no id: expected one of id, .*--id-field"),
    "no reply": ([{"id": "x", "words": "A"}], r"row 1: no reply: expected one of reply, response"),
    "no rows": ([], "no replies in"),
    "a number": ([3], "row 1: expected a row with an id and a reply, got 3"),
    "half a character": ([{"id": "x", "reply": "a\ud800"}], r"r\.jsonl, row 1: reply holds text that is not Unicode"),
    "an object": ([{"id": "x", "reply": {"a": 1}}], "row 1: reply: expected the words of a reply, got {'a': 1}"),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_replies_that_cannot_be_used_are_named(name: str, annotations: Path, tmp_path: Path):
    rows, message = BAD_REPLIES[name]
    with pytest.raises(ValueError, match=message):
        score(annotations, tmp_path / "out", write_lines(tmp_path / "r.jsonl", rows))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.jsonl", "[" * 100_000), ("r.json", "[" * 100_000), ("r.json", "9" * 5000),
        ("r.jsonl", '{"id": ' + "9" * 5000 + "}"), ("r.csv", 'id,reply\nx,"(A'), ("r.tsv", 'id\treply\n"x'),
    ],
)  # fmt: skip
def test_files_that_no_reader_takes_are_named(name: str, text: str, annotations: Path, tmp_path: Path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        score(annotations, tmp_path / "out", tmp_path / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ["jsonl", "JSON", "csv"])
def test_files_that_say_they_are_utf8_are_read(
    ending: str, annotations: Path, questions: list[Question], tmp_path: Path
):
    """As editors and tables write them on Windows; annotations, too."""
    rows = [{"id": q.id, "reply": f"({q.answer})"} for q in questions]
    text = {
        "jsonl": "\r\n".join(map(json.dumps, rows)),
        "JSON": json.dumps(rows),
        "csv": "id,reply\r\n" + "\r\n".join(f"{row['id']},{row['reply']}" for row in rows),
    }[ending]
    (tmp_path / f"r.{ending}").write_text(text, encoding="utf-8-sig")
    marked = tmp_path / "marked"
    marked.mkdir()
    for path in annotations.glob("*.json"):
        (marked / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert score(marked, tmp_path / "out", tmp_path / f"r.{ending}") == 0
    assert load(tmp_path / "out", "report.json")["scores"]["pooled"]["accuracy"] == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"benchmark": ["x"]}',
        '{"benchmark": "ovbench", "limit": "x"}',
        '{"benchmark": "ovbench", "split": 5}',
        "[" * 9999,
    ],
)
def test_a_folder_whose_settings_are_of_something_else(text: str, annotations: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text(text)
    for words in (("report", tmp_path, "--annotations", annotations), ("compare", tmp_path, tmp_path)):
        with pytest.raises(ValueError, match=r"config\.json.*expected the settings of an evaluation"):
            run(*words)


@pytest.mark.parametrize("ending", ["jsonl", "json", "xlsx", "tsv", "parquet"])
def test_another_kind_of_file_is_said_to_be_one(ending: str, annotations: Path, tmp_path: Path):
    path = tmp_path / f"r.{ending}"
    path.write_bytes(b'{"id": "x", \xff\x00')
    with pytest.raises((ValueError, ImportError), match=rf"r\.{ending}|openpyxl"):
        score(annotations, tmp_path / "out", path)


def test_samples_of_lmms_eval_are_read(annotations: Path, questions: list[Question], tmp_path: Path):
    """As its tracker writes them: the question's own id stands in what the metric got."""
    rows = [
        {"doc_id": i, "target": q.answer, "filtered_resps": [f"{q.answer}."], "doc_hash": "h", "input": "...",
         "ovbench_mean": {"id": q.id, "response": "not this"}}
        for i, q in enumerate(questions)
    ]  # fmt: skip
    rows[0]["resps"], rows[0]["filtered_resps"] = [["x"]], [["Z?"]]
    half = len(rows) // 2
    files = [write_lines(tmp_path / f"1_samples_{i}.jsonl", part) for i, part in enumerate((rows[:half], rows[half:]))]
    assert score(annotations, tmp_path / "out", *files) == 0
    assert load(tmp_path / "out", "report.json")["scores"]["pooled"]["accuracy"] == pytest.approx(59 / 60)


def vlmevalkit_rows(questions: list[Question]) -> list[dict[str, Any]]:
    rows = [
        {"index": i, "sample_id": q.id, "question": "Which,\none?", "answer": q.answer, "prediction": f"({q.answer})\n"}
        for i, q in enumerate(questions)
    ]
    rows[3]["prediction"] = "Failed to obtain answer via API."
    return rows


def test_predictions_of_vlmevalkit_are_read(annotations: Path, questions: list[Question], tmp_path: Path):
    rows = vlmevalkit_rows(questions)
    (tmp_path / "p.json").write_text(json.dumps(rows, indent=4))
    with (tmp_path / "p.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    for name in ("p.json", "p.tsv"):
        assert score(annotations, tmp_path / f"of-{name}", tmp_path / name) == 3  # one could not be asked
        result = load(tmp_path / f"of-{name}", "result.json")
        assert (result["not_asked"], result["unanswered"]) == (1, 1 / 60)
    assert load(tmp_path / "of-p.json", "report.json")["scores"] == load(tmp_path / "of-p.tsv", "report.json")["scores"]


def test_a_sheet_needs_openpyxl_and_says_so(annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "p.xlsx").write_bytes(b"PK")
    with pytest.raises(ImportError, match="the package openpyxl is missing: pip install openpyxl"):
        score(annotations, tmp_path / "out", tmp_path / "p.xlsx")


def test_a_sheet_is_read(annotations: Path, questions: list[Question], tmp_path: Path):
    openpyxl = pytest.importorskip("openpyxl")
    rows = vlmevalkit_rows(questions)
    book = openpyxl.Workbook()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append(list(row.values()))
    book.save(tmp_path / "p.xlsx")
    assert score(annotations, tmp_path / "out", tmp_path / "p.xlsx") == 3
    assert load(tmp_path / "out", "report.json")["scores"]["pooled"]["accuracy"] == pytest.approx(59 / 60)


@pytest.mark.skipif(not RESULTS.is_dir(), reason="needs the published results in ../shared")
@pytest.mark.parametrize(
    ("model", "total"), {"FlashVStream": 33.61, "InternVL2": 50.15, "LongVU": 46.71, "QWen2VL_7B": 50.39}.items()
)
def test_the_authors_totals_come_from_their_result_files(model: str, total: float, tmp_path: Path):
    flags = ["score", "ovobench", "--annotations", RESULTS.parent, "--output", tmp_path]
    assert run(*flags, "--replies", *sorted((RESULTS / model).glob("*.json"))) in (0, 3)
    assert load(tmp_path, "result.json")["score"] == pytest.approx(total, abs=0.006)


def test_a_report_is_remade_without_a_model(annotations: Path, questions: list[Question], tmp_path: Path):
    rows = [{"id": q.id, "reply": q.answer} for q in questions]
    out = tmp_path / "out"
    assert score(annotations, out, write_lines(tmp_path / "r.jsonl", rows)) == 0
    names = ("report.json", "report.md", "report.csv")
    before = {name: (out / name).read_bytes() for name in names}
    made = load(out, "result.json")
    for name in names:
        (out / name).unlink()
    with pytest.raises(ValueError, match="does not say where its annotations lie; give --annotations"):
        run("report", out)  # this test's own command line is not that of a run
    assert run("report", out, "--annotations", annotations) == 0
    assert before == {name: (out / name).read_bytes() for name in names}
    assert load(out, "result.json") == made  # who asked, and with what, is not who wrote the report again
    result = {**made, "command": ["videochat-online", "eval", "ovbench", f"--annotations={annotations}"]}
    (out / "result.json").write_text(json.dumps(result))
    assert run("report", out) == 0

    lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    (out / "predictions.jsonl").write_text("".join(lines[:-4]))
    assert run("report", out) == 3
    assert "56 of 60 questions were asked: 4 could not be asked" in (out / "report.md").read_text()

    other = tmp_path / "other"
    other.mkdir()
    (other / "coin.json").write_bytes((annotations / "coin.json").read_bytes())
    with pytest.raises(ValueError, match="holds other annotations than"):
        run("report", out, "--annotations", other)

    config = {key: value for key, value in load(out, "config.json").items() if key != "annotations"}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds replies to questions that were not of its run: 'ava/"):
        run("report", out, "--annotations", other)


def test_two_runs_are_compared_with_what_differs(
    annotations: Path, questions: list[Question], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, every in (("a", 3), ("b", 2)):
        rows = [{"id": q.id, "reply": q.answer if i % every == 0 else "?"} for i, q in enumerate(questions)]
        flags = ("--model", f"model {name}")
        assert score(annotations, tmp_path / name, write_lines(tmp_path / f"{name}.jsonl", rows), *flags) == 0
    capsys.readouterr()
    assert run("compare", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "c.json") == 0
    printed = capsys.readouterr().out
    assert "- model: A 'model a', B 'model b'" in printed and "2 settings differ" in printed  # and the replies' hash
    total, *parts = load(tmp_path, "c.json")["differences"]
    assert total["p_corrected"] is None and 0 < total["p"] < 1
    assert all(part["p"] <= part["p_corrected"] <= 1 for part in parts)
    assert set(load(tmp_path, "c.json")["settings"]) == {"model", "replies"}
    assert run("compare", tmp_path / "a", tmp_path / "a") == 0
    assert "no setting differs" in capsys.readouterr().out


def test_a_folder_is_not_scored_into_that_holds_another_run(
    annotations: Path, questions: list[Question], tmp_path: Path
):
    first, second = ([{"id": q.id, "reply": reply} for q in questions] for reply in "AB")
    assert score(annotations, tmp_path / "out", write_lines(tmp_path / "1.jsonl", first)) == 0
    with pytest.raises(ValueError, match="holds another run; choose another --output"):
        score(annotations, tmp_path / "out", write_lines(tmp_path / "2.jsonl", second))


def test_a_score_that_blind_players_reach_is_said_first(annotations: Path, questions: list[Question], tmp_path: Path):
    first = [{"id": q.id, "reply": "A"} for q in questions]
    assert score(annotations, tmp_path / "out", write_lines(tmp_path / "1.jsonl", first)) == 0
    assert "is not above what is reached without looking" in load(tmp_path / "out", "result.json")["cautions"][-1]
    right = [{"id": q.id, "reply": q.answer} for q in questions]
    assert score(annotations, tmp_path / "right", write_lines(tmp_path / "2.jsonl", right)) == 0
    assert load(tmp_path / "right", "result.json")["cautions"] == []
    assert set(load(tmp_path / "right", "result.json")["blind_players"]) >= {"chance", "commonest_answer", "always_yes"}
    assert OVBench.title == load(tmp_path / "right", "result.json")["benchmark"]
