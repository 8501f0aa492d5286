"""What stands before the scores: how options were answered, what was left out, what makes a number misleading."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_commands import run
from tests.evaluation.test_report import BENCHMARK, predictions_of
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.report import GENERATED_TITLE, cautions_of, markdown_of, write_report
from videochat_online.files import SHIPPED_MODELS
from videochat_online.lab.shapeworld.build import WorldConfig, build_world
from videochat_online.model_config import VideoChatOnlineConfig


def world(folder: Path, split: str) -> list[object]:
    """Flags to be asked about one small video of a world."""
    build_world(folder, WorldConfig(1, split=split, seconds=(10.0,), fps=2, size=64, questions=4), progress=False)
    return ["ovbench", "--annotations", folder / "ovbench", "--videos", folder / "videos", "--device", "cpu"]


@pytest.fixture(scope="module")
def test_split(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return [*world(tmp_path_factory.mktemp("test") / "world", "test"), "--max-new-tokens", 2]


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_model_says_how_it_answers_and_the_flag_wins(test_split: list[object], tmp_path: Path):
    assert run(*test_split, "--output", tmp_path / "model") == 0
    assert run(*test_split, "--output", tmp_path / "flag", "--answer", "generate", "--no-blind") == 0
    for name in ("report.json", "result.json"):
        by_model, by_flag = load(tmp_path / "model", name), load(tmp_path / "flag", name)
        assert (by_model["answer"], by_model["answer_because"]) == ("likelihood", "as the model's config says")
        assert (by_flag["answer"], by_flag["answer_because"]) == ("generate", "as the flag says")
    assert "(--answer likelihood, as the model's config says)" in (tmp_path / "model/report.md").read_text()
    assert "answer_because" not in load(tmp_path / "model", "config.json")  # a run resumes with the flag said, too
    assert run(*test_split, "--output", tmp_path / "model", "--answer", "likelihood", "--resume") == 0
    [caution] = load(tmp_path / "model", "report.json")["cautions"]  # four questions about one video
    assert "too few videos for an interval) is not above what is reached without looking" in caution


def test_a_dialogue_needs_a_model_that_says_its_answers(test_split: list[object], tmp_path: Path):
    with pytest.raises(ValueError, match=r"got --answer likelihood \(what the model is made for\)"):
        run(*test_split, "--multi-turn", "--output", tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_how_a_model_answers_is_saved_with_it(tmp_path: Path):
    config = VideoChatOnlineConfig.from_pretrained(SHIPPED_MODELS["pocket"])
    assert config.answer_mode == "likelihood"
    config.save_pretrained(tmp_path)
    assert VideoChatOnlineConfig.from_pretrained(tmp_path).answer_mode == "likelihood"
    assert VideoChatOnlineConfig().answer_mode is None
    with pytest.raises(ValueError, match="answer_mode must be generate or likelihood, got 'letter'"):
        VideoChatOnlineConfig(answer_mode="letter")


def test_words_where_letters_are_looked_for_are_said_first(
    test_split: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(*test_split, "--output", tmp_path, "--answer", "generate", "--no-blind") == 0
    first = "no answer was found for 25.0 % of the questions, which count as wrong"  # others are an option's words
    assert capsys.readouterr().out.startswith(f"**Caution**: {first}")
    assert (tmp_path / "report.md").read_text().startswith(f"**Caution**: {first}")
    for name in ("report.json", "result.json"):
        values = load(tmp_path, name)
        assert next(iter(values)) == "cautions"
        assert values["cautions"][0].startswith(first) and "--answer likelihood" in values["cautions"][0]


def test_a_fifth_without_an_answer_is_the_limit(tasks: list[VideoTask], tmp_path: Path):
    predictions = list(predictions_of(tasks, 1).values())
    assert len(predictions) == 60
    for number, said in ((12, False), (13, True)):
        silent = {p.id: without_answer(p) if i < number else p for i, p in enumerate(predictions)}
        found = write_report(tmp_path, BENCHMARK, tasks, {}, silent)["cautions"]
        assert any(caution.startswith("no answer was found") for caution in found) is said


def without_answer(prediction: Any) -> Any:
    return replace(prediction, extracted=None, correct=False)


def test_a_train_split_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = world(tmp_path / "world", "train")
    assert run(*flags, "--output", tmp_path / "out", "--check") == 0
    assert "1 of these videos are from the train split" in capsys.readouterr().err
    assert run(*flags, "--output", tmp_path / "out", "--no-blind") == 0
    printed = capsys.readouterr()
    assert "caution: 1 of these videos are from the train split" in printed.err
    assert printed.out.startswith("**Caution**: 1 of these videos are from the train split")
    assert "train split" in load(tmp_path / "out", "result.json")["cautions"][0]


def test_a_generated_world_is_never_titled_as_the_benchmark(
    test_split: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    titles: list[str] = []
    monkeypatch.setattr("videochat_online.evaluation.report.draw_bars", lambda _, title, scores: titles.append(title))
    run(*test_split, "--output", tmp_path, "--no-blind")
    assert run("blind", *test_split[:3]) == 0
    printed = capsys.readouterr().out
    assert titles == [GENERATED_TITLE] and f"# {GENERATED_TITLE}: players that never look" in printed
    assert f"# {GENERATED_TITLE}: " in (tmp_path / "report.md").read_text() and "# OVBench" not in printed
    assert load(tmp_path, "result.json")["benchmark"] == GENERATED_TITLE


def test_other_videos_are_not_taken_for_a_train_split(test_split: list[object], tasks: list[VideoTask]):
    assert cautions_of([*tasks, *BENCHMARK.load(Path(str(test_split[2])))], []) == []


def test_records_that_cannot_be_asked_are_named_and_counted(
    test_split: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = Path(str(test_split[2])) / "ovbench.json"
    records = json.loads(source.read_text())
    records[0]["questions"][1]["answer"] = "Z"
    del records[0]["questions"][2]["options"]
    annotations = tmp_path / "ovbench.json"
    annotations.write_text(json.dumps(records))
    flags = ["ovbench", "--annotations", annotations, *test_split[3:], "--output", tmp_path / "out"]

    assert run(*flags, "--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "question 1: answer 'Z' is none of" in lines[0] and "has no 'options'" in lines[1]
    assert lines[2] == "2 questions; 2 records cannot be asked; all 1 videos are fine"

    assert run(*flags, "--no-blind") == 3
    for name in ("report.json", "result.json"):
        values = load(tmp_path / "out", name)
        assert (values["left_out"], values["left_out_records"]) == (2, lines[:2])
    assert load(tmp_path / "out", "result.json")["questions"] == 2
    text = (tmp_path / "out/report.md").read_text()
    assert text.startswith("**Caution**: 2 records of the annotations cannot be asked")
    assert all(f"- left out, not counted: {line}" in text for line in lines[:2])


def test_where_nothing_can_be_asked_it_is_said_why(test_split: list[object], tmp_path: Path):
    (tmp_path / "ovbench.json").write_text('[{"questions": 3}]')
    flags = ["ovbench", "--annotations", tmp_path, *test_split[3:], "--output", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"no questions left of .*1 cannot be asked, such as .* video 0 has no"):
        run(*flags)


def test_without_matplotlib_everything_but_the_picture_is_there(
    test_split: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*test_split, "--output", tmp_path, "--no-blind", "--check") == 0
    assert "report.png will be left out: the package matplotlib is missing: pip install" in capsys.readouterr().err
    assert run(*test_split, "--output", tmp_path, "--no-blind") == 0
    assert "videochat-online[eval]" in capsys.readouterr().err
    written = {path.name for path in tmp_path.glob("re*")}
    assert written == {"report.csv", "report.json", "report.md", "result.json"}
    assert markdown_of(load(tmp_path, "report.json")) == (tmp_path / "report.md").read_text()
