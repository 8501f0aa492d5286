"""`--protocol`: which letter each rule reads, what a dry run writes, and what no published script does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.test_commands import run
from tests.evaluation.test_published import SCRIPTS, TAILS
from videochat_online.evaluation.afterwards import INCOMPLETE
from videochat_online.evaluation.benchmarks import OVBench, OVOBench, StreamingBench
from videochat_online.evaluation.benchmarks.ovbench import SYSTEM_PROMPT
from videochat_online.evaluation.questions import Reply, VideoTask

PUBLISHED_LETTERS = {
    "(B) a dog": "B",
    "A man walks": "A",  # the article
    "answer: c": "C",
    "It is d. Or a": "D",
    "The answer is F": None,
    "Yes": None,
    "答案是B": None,
    "I think a or b": "A",
}


@pytest.mark.parametrize("reply", PUBLISHED_LETTERS)
def test_the_published_letter_is_the_first_that_stands_alone(reply: str, tasks: list[VideoTask]):
    question = tasks[0].questions[0]
    verdict = OVBench(protocol="published").judge(question, Reply(reply))
    assert verdict.extracted == PUBLISHED_LETTERS[reply]
    assert verdict.correct == (verdict.extracted == question.answer)


def test_yes_and_no_are_read_as_options_by_our_rule(everything: Path):
    binary = [
        question
        for task in OVBench().load(everything)
        for question in task.questions
        if set(question.options) == {"Yes", "No"}
    ]
    assert len(binary) in (11, 1582)
    for protocol, right in (("causal", len(binary)), ("published", 0)):
        judge = OVBench(protocol=protocol).judge
        for form in ("{}", "{}.", "{}, he is still there", "The answer is {}.", "**{}**"):
            texts = [form.format(question.options["AB".index(question.answer)]) for question in binary]
            found = [judge(question, Reply(text)).correct for question, text in zip(binary, texts, strict=True)]
            assert sum(found) == right, (protocol, form)


def test_each_rule_has_a_name():
    assert "article" not in OVBench().letter_rule and OVBench().letter_rule.startswith("our rule")
    for benchmark in (OVBench, OVOBench, StreamingBench):
        rule = benchmark(protocol="published").letter_rule
        assert rule.startswith(("the published rule", "the authors' rule"))
    with pytest.raises(ValueError, match="unknown protocol 'mine', expected one of causal, published"):
        OVBench(protocol="mine")


# ---- through the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def flags(annotations: Path, videos: Path, tmp_path: Path) -> list[object]:
    return ["ovbench", "--annotations", annotations, "--videos", videos, "--output", tmp_path / "out"]


def test_a_dry_run_writes_what_would_be_asked_and_loads_no_model(flags: list[object], tmp_path: Path):
    plan = tmp_path / "plan.jsonl"
    for script, (tail, tokens) in TAILS.items():
        mode, multi_turn = SCRIPTS[script]
        more = ["--multi-turn"] if multi_turn else []
        command = [*flags, "--dry-run", plan, "--protocol", "published", "--mode", mode, *more, "--model", "/no/model"]
        assert run(*command) == 0
        lines = [json.loads(line) for line in plan.read_text().splitlines()]
        assert len(lines) == 60
        for line in lines:
            assert (line["protocol"], line["max_new_tokens"], line["mode"]) == ("published", tokens, mode)
            assert line["prompt"].endswith(tail) and line["system_prompt"] == SYSTEM_PROMPT
            assert len(line["frames"]) == len(line["times"]) > 0
            assert all(second == round(second, 1) for second in line["times"])
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_cannot_be_asked(flags: list[object], tmp_path: Path, videos: Path):
    (tmp_path / "some/COIN").mkdir(parents=True)
    clip = next(videos.glob("COIN/*.mp4"))
    (tmp_path / "some/COIN" / clip.name).symlink_to(clip)
    plan = tmp_path / "plan.jsonl"
    assert run(*flags, "--videos", tmp_path / "some", "--dry-run", plan) == 1
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    assert len(lines) == 60 and {"error" in line for line in lines} == {True, False}


def test_protocols_are_not_mixed_and_the_report_names_them(
    flags: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    common = [*flags, "--limit", 4, "--device", "cpu", "--no-blind", "--max-new-tokens", 2, "--answer", "generate"]
    assert run(*common, "--protocol", "published") == INCOMPLETE  # --limit
    assert "Protocol: published (--protocol). Letters are read by the published rule" in capsys.readouterr().out
    for name in ("result.json", "report.json"):
        about = json.loads((tmp_path / "out" / name).read_text())
        assert about["protocol"] == "published" and about["letter_rule"].startswith("the published rule")
    with pytest.raises(ValueError, match="protocol: 'published' then, 'causal' now"):
        run(*common, "--resume")
    assert run(*common, "--output", tmp_path / "causal") == INCOMPLETE
    assert run("compare", tmp_path / "out", tmp_path / "causal") == 0
    output = capsys.readouterr()
    assert "protocol: A published, B causal" in output.out
    assert "caution: not one protocol" in output.err


@pytest.mark.parametrize("more", [["--answer", "likelihood"], ["--mode", "prefix"], ["--prompt", "lmms-eval"]])
def test_what_no_published_script_does_is_refused(more: list[str], flags: list[object]):
    with pytest.raises(ValueError, match="--protocol published is for the published scripts: none of them has"):
        run(*flags, "--protocol", "published", "--limit", 2, *more)
