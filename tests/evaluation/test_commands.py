"""`videochat-online eval` from flags to files, with the model that ships."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_responders import llava_folder  # noqa: F401 (a fixture)
from videochat_online.evaluation.afterwards import INCOMPLETE
from videochat_online.evaluation.commands import add_eval_commands
from videochat_online.evaluation.responders import weights_digest
from videochat_online.files import SHIPPED_MODELS
from videochat_online.streaming.recall import Recall


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_eval_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["eval", *map(str, arguments)])
    return options.run(options)


@pytest.fixture
def flags(annotations: Path, videos: Path) -> list[object]:
    return [
        "ovbench",
        "--annotations",
        annotations,
        "--videos",
        videos,
        "--limit",
        12,
        "--max-new-tokens",
        2,
        "--device",
        "cpu",
    ]


def config_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_streaming_from_flags_to_report(flags: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(*flags, "--output", tmp_path) == INCOMPLETE
    printed = capsys.readouterr().out
    assert "# OVBench: " in printed
    assert "**Caution**: 12 of 60 questions were asked: 48 were not in this run." in printed
    config = config_in(tmp_path)
    assert (config["mode"], config["fps"], config["max_new_tokens"], config["answer"]) == (
        "streaming",
        8.0,
        2,
        "likelihood",
    )
    assert config["system_prompt"].startswith("Carefully watch the video")
    assert [level["capacity"] for level in config["memory"]["levels"]] == [2, 2, 12]
    assert (
        config["weights"] == hashlib.sha256((SHIPPED_MODELS["pocket"] / "model.safetensors").read_bytes()).hexdigest()
    )
    assert set(config["annotations"]) == {"ava.json", "coin.json", "hirest.json", "tao.json"}
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["questions"], result["model"], result["not_asked"], result["incomplete"]) == (12, "pocket", 0, True)
    assert "blind" in json.loads((tmp_path / "report.json").read_text())["scores"]["headline"]
    assert len((tmp_path / "blind/predictions.jsonl").read_text().splitlines()) == 12

    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match="add --resume"):
        run(*flags, "--output", tmp_path)
    assert run(*flags, "--output", tmp_path, "--resume") == INCOMPLETE
    assert (tmp_path / "report.json").read_bytes() == before
    where = ("--annotations", flags[2])  # a test's own command line does not say it
    assert run("report", tmp_path, *where) == INCOMPLETE
    assert (tmp_path / "report.json").read_bytes() == before
    assert {**result, "command": []} == {**json.loads((tmp_path / "result.json").read_text()), "command": []}
    with pytest.raises(ValueError, match=r"fps: 8\.0 then, 4\.0 now"):
        run(*flags, "--output", tmp_path, "--resume", "--fps", 4)


def test_other_weights_in_the_same_place_are_another_model(tmp_path: Path):
    assert weights_digest(tmp_path) is None
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"ab")
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"c")
    assert weights_digest(tmp_path) == hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"d")
    assert weights_digest(tmp_path) == hashlib.sha256(b"abd").hexdigest()


def test_sliding_window_and_comparison(flags: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    common = [*flags, "--mode", "sliding_window", "--answer", "likelihood", "--no-blind", "--window", 4, "--limit", 6]
    assert run(*common, "--output", tmp_path / "a") == INCOMPLETE
    assert run(*common, "--output", tmp_path / "b", "--recent", 2) == INCOMPLETE
    a, b = config_in(tmp_path / "a"), config_in(tmp_path / "b")
    assert (a["fps"], a["window"], a["frames"]) == (2.0, 4.0, 64)
    assert [level["capacity"] for level in a["memory"]["levels"]] == [8, 8, 48]
    assert (b["memory"]["policy"], b["memory"]["levels"][0]["capacity"]) == ("recent", 2)
    lines = [json.loads(line) for line in (tmp_path / "a/predictions.jsonl").read_text().splitlines()]
    assert all(line["num_frames"] <= 9 and len(line["scores"]) >= 2 for line in lines)
    assert not (tmp_path / "a/blind").exists()

    capsys.readouterr()
    assert run("compare", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "difference.json") == 0
    output = capsys.readouterr().out
    assert "\n- memory.policy: A 'pyramid', B 'recent'\n" in output and " settings differ\n" in output
    assert "| headline | 6 |" in output and "frames encoded: A " in output
    rows = json.loads((tmp_path / "difference.json").read_text())["differences"]
    assert rows[0]["difference"] == pytest.approx(rows[0]["accuracy_b"] - rows[0]["accuracy_a"])
    with pytest.raises(ValueError, match=r"is not the --output of an evaluation: no config\.json"):
        run("compare", tmp_path / "a", tmp_path)


def test_policies_get_the_budget_of_the_pyramid(flags: list[object], tmp_path: Path):
    assert (
        run(*flags, "--output", tmp_path, "--policy", "fifo", "--no-blind", "--split", "tao", "--limit", 3)
        == INCOMPLETE
    )
    memory = config_in(tmp_path)["memory"]
    assert memory["policy"] == "fifo"
    assert sum(level["capacity"] * level["grid"] ** 2 for level in memory["levels"]) <= 2 * 16 + 2 * 4 + 12 * 1


def test_recall_is_a_setting_of_the_run(flags: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = []
    choose = Recall.choose
    spy = lambda self, question: chosen.append(choose(self, question)) or chosen[-1]  # noqa: E731
    monkeypatch.setattr(Recall, "choose", spy)
    more = ["--no-blind", "--fps", 1]
    assert run(*flags, *more, "--output", tmp_path / "a", "--recall", "time") == INCOMPLETE
    assert config_in(tmp_path / "a")["recall"] == "time" and any(chosen) and None in chosen
    asked = len(chosen)
    assert run(*flags, *more, "--output", tmp_path / "b") == INCOMPLETE
    assert "recall" not in config_in(tmp_path / "b") and len(chosen) == asked
    assert run(*flags, *more, "--output", tmp_path / "c", "--recall", "chosen", "--limit", 2) == INCOMPLETE
    assert config_in(tmp_path / "c")["recall"] == "chosen" and len(config_in(tmp_path / "c")["chooser"]) == 64
    with pytest.raises(ValueError, match=r"recall: 'time' then"):
        run(*flags, *more, "--output", tmp_path / "a", "--resume")
    with pytest.raises(ValueError, match=r"memory: .* then"):
        run(*flags, *more, "--output", tmp_path / "b", "--resume", "--memory", "1/2/3")
    (tmp_path / "damaged").write_text("no chooser")
    monkeypatch.setattr("videochat_online.streaming.chooser.chooser_file", lambda model: tmp_path / "damaged")
    with pytest.raises(ValueError, match="damaged is not a chooser"):
        run(*flags, *more, "--output", tmp_path / "d", "--recall", "chosen")
    assert not (tmp_path / "d").exists(), "said before anything is asked"


def test_any_transformers_model_through_the_adapter(
    flags: list[object],
    tmp_path: Path,
    llava_folder: Path,  # noqa: F811
):
    adapter = ["--adapter", "transformers", "--model", llava_folder, "--frames", 2]
    assert run(*flags, *adapter, "--mode", "sliding_window", "--output", tmp_path, "--limit", 4) == INCOMPLETE
    config = config_in(tmp_path)
    assert (config["adapter"], config["max_frames"]) == ("transformers", 2)
    with pytest.raises(ValueError, match="are for our models"):
        run(*flags, *adapter, "--output", tmp_path / "x", "--recent", 3)
    with pytest.raises(ValueError, match=r"--recall, .* are for our models"):
        run(*flags, *adapter, "--output", tmp_path / "x", "--recall", "time")


def test_check_prints_every_problem_and_asks_nothing(
    annotations: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["ovbench", "--annotations", annotations, "--output", tmp_path / "out", "--check"]
    assert run(*flags, "--videos", videos) == 0
    assert "60 questions; all 35 videos are fine" in capsys.readouterr().out
    shutil.copytree(videos / "COIN", tmp_path / "videos/COIN")
    assert run(*flags, "--videos", tmp_path / "videos") == 1
    output = capsys.readouterr().out
    assert output.count("not found below") == 27 and "27 problems in 35 videos" in output
    assert not (tmp_path / "out").exists()


def test_a_folder_without_one_of_the_videos_gets_no_score(annotations: Path, tmp_path: Path):
    (tmp_path / "videos").mkdir()
    flags = ["ovbench", "--annotations", annotations, "--videos", tmp_path / "videos", "--output", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"videos has none of the 35 videos asked about: .* not found below"):
        run(*flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_no_run(tmp_path: Path):
    for text, problem in {'{"model_type": "x"}': "names no benchmark", "{": "cannot be read as JSON"}.items():
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json {problem}.*; expected the settings of an evaluation"):
            run("compare", tmp_path, tmp_path)


BAD_FLAGS = {
    "window": (["--window", 3], "--window belongs to --mode sliding_window"),
    "frames": (["--frames", 3], "--frames is for --mode sliding_window"),
    "fps": (["--fps", 0], "--fps must be > 0"),
    "dialogue": (["--multi-turn", "--mode", "sliding_window"], "--multi-turn belongs to --mode streaming"),
    "dialogue by likelihood": (["--multi-turn", "--answer", "likelihood"], "--multi-turn belongs to"),
    "recent": (["--recent", 4, "--policy", "fifo"], "--recent N keeps no memory, so it cannot be used with --memory"),
    "tokens": (["--max-new-tokens", 0], "--max-new-tokens must be >= 1"),
    "limit": (["--limit", 0], "--limit must be >= 1"),
    "videos": (["--videos", "/no/such/folder"], "no such folder"),
    "annotations": (["--annotations", "/no/such/folder"], "no OVBench annotations"),
}


@pytest.mark.parametrize("name", BAD_FLAGS)
def test_bad_flags_say_what_is_wrong(name: str, flags: list[object], tmp_path: Path):
    more, message = BAD_FLAGS[name]
    with pytest.raises(ValueError, match=message):
        run(*flags, "--output", tmp_path, *more)


def test_the_other_benchmarks_run_too(videos: Path, tmp_path: Path):
    clip = next(videos.glob("COIN/*.mp4"))
    (tmp_path / "src_videos").mkdir()
    shutil.copy(clip, tmp_path / "src_videos/a.mp4")
    ovo = [
        {"id": 0, "task": "EPM", "video": "a.mp4", "realtime": 9, "question": "?", "options": ["x", "y"], "gt": 1},
        {"id": 1, "task": "REC", "video": "a.mp4", "activity": "clap", "test_info": [{"realtime": 3, "count": 1}]},
    ]
    (tmp_path / "ovo_bench_new.json").write_text(json.dumps(ovo))
    common = ["--videos", tmp_path, "--max-new-tokens", 2, "--device", "cpu"]
    assert run("ovobench", "--annotations", tmp_path, *common, "--output", tmp_path / "ovo") == 0
    scores = json.loads((tmp_path / "ovo/report.json").read_text())["scores"]
    assert scores["headline"]["what"] == "mean of the three regimes" and scores["questions"] == 2

    question = {
        "task_type": "Counting",
        "question": "?",
        "time_stamp": "00:00:04",
        "answer": "A",
        "options": ["1", "2", "3", "4"],
    }
    entry = {"video_path": "./videos/a.mp4", "questions": [question]}
    (tmp_path / "questions_real.json").write_text(json.dumps([entry]))
    flags = ["--annotations", tmp_path, *common, "--mode", "sliding_window", "--output", tmp_path / "streamingbench"]
    assert run("streamingbench", *flags) == 0
    [line] = (tmp_path / "streamingbench/predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["num_frames"] == 5
