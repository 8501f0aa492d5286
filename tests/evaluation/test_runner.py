"""Every question exactly once: kills, several processes, broken videos, and folders that hold something else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.conftest import FakeResponder, write_stand_in
from tests.evaluation.run_fake import run_of
from tests.odd_media import with_damaged_second_page, with_gbk_title, with_unknown_codec
from videochat_online.evaluation.predictions import read_predictions
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.report import write_report
from videochat_online.evaluation.runner import Run, check_questions, completed, execute
from videochat_online.media import video_index

ROOT = Path(__file__).parents[2]


def start(annotations: Path, videos: Path, output: Path, mode: str, pause: float, **env: str) -> Any:
    arguments = [str(annotations), str(videos), str(output), mode, str(pause)]
    command = [sys.executable, "-m", "tests.evaluation.run_fake", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)


def finish(process: Any) -> None:
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def report_in(output: Path) -> tuple[Any, str]:
    """What must be identical: the scores and the table."""
    report = json.loads((output / "report.json").read_text())
    return report["scores"], (output / "report.csv").read_text()


def answers_in(output: Path) -> list[dict[str, Any]]:
    """The merged lines without what was measured with a clock."""
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_seconds")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(annotations: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    outputs = {}
    for mode in ("streaming", "sliding_window"):
        outputs[mode] = tmp_path_factory.mktemp(mode)
        run = run_of(annotations, videos, outputs[mode], mode)
        execute(run, resume=False)
        predictions = completed(run)
        assert predictions is not None
        write_report(outputs[mode], run.benchmark, run.tasks, run.config, predictions, command=["run_fake"])
    return outputs


def test_every_question_is_answered_once(uninterrupted: dict[str, Path], tasks: list[VideoTask]):
    expected = sorted(question.id for task in tasks for question in task.questions)
    for output in uninterrupted.values():
        assert [line["id"] for line in answers_in(output)] == expected
        scores, _ = report_in(output)
        assert scores["questions"] == 60 and scores["not_asked"] == 0
        assert len(scores["tasks"]) == 16


@pytest.mark.parametrize("mode", ["streaming", "sliding_window"])
def test_killed_three_times_the_report_is_identical(
    mode: str, annotations: Path, videos: Path, tmp_path: Path, uninterrupted: dict[str, Path]
):
    predictions = tmp_path / "predictions.jsonl"
    for wanted in (7, 21, 40):
        process = start(annotations, videos, tmp_path, mode, 0.02)
        deadline = time.monotonic() + 60
        while not predictions.is_file() or predictions.read_bytes().count(b"\n") < wanted:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert wanted <= predictions.read_bytes().count(b"\n") < 60
        with open(predictions, "ab") as file:  # as if the kill had come in the middle of a line
            file.write(b'{"id": "coin/000')
    finish(start(annotations, videos, tmp_path, mode, 0.0))
    assert report_in(tmp_path) == report_in(uninterrupted[mode])
    assert answers_in(tmp_path) == answers_in(uninterrupted[mode])


def test_a_killed_dialogue_goes_on_as_if_nothing_had_been(annotations: Path, videos: Path, tmp_path: Path):
    def run_in(name: str) -> Run:
        return run_of(annotations, videos, tmp_path / name, "streaming", multi_turn=True)

    for name in ("whole", "killed"):
        complete(run_in(name))
    lines = (tmp_path / "killed/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "killed/predictions.jsonl").write_text("".join(lines[::2]))  # half of the questions of many videos
    complete(run_in("killed"))
    assert answers_in(tmp_path / "killed") == answers_in(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["streaming", "sliding_window"])
def test_two_processes_give_the_report_of_one(
    mode: str, annotations: Path, videos: Path, tmp_path: Path, uninterrupted: dict[str, Path]
):
    pair = [start(annotations, videos, tmp_path, mode, 0.0, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    for process in pair:
        finish(process)
    counts = [len((tmp_path / f"predictions.rank{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert sum(counts) == 60 and min(counts) > 15
    assert report_in(tmp_path) == report_in(uninterrupted[mode])
    assert answers_in(tmp_path) == answers_in(uninterrupted[mode])


def test_a_run_of_two_processes_is_finished_by_one(
    annotations: Path, videos: Path, tmp_path: Path, uninterrupted: dict[str, Path]
):
    finish(start(annotations, videos, tmp_path, "streaming", 0.0, RANK="1", WORLD_SIZE="2"))
    assert not (tmp_path / "report.json").exists()
    finish(start(annotations, videos, tmp_path, "streaming", 0.0))
    assert report_in(tmp_path) == report_in(uninterrupted["streaming"])
    assert answers_in(tmp_path) == answers_in(uninterrupted["streaming"])


def test_questions_of_one_id_are_refused_whatever_the_benchmark(
    annotations: Path, videos: Path, tmp_path: Path, tasks: list[VideoTask]
):
    twice = [*tasks, replace(tasks[0], id="again"), replace(tasks[1], id="and again")]
    ids = [question.id for task in tasks[:2] for question in task.questions]
    with pytest.raises(ValueError, match=f"{len(ids)} ids stand for several questions each: {ids[0]!r}"):
        run_of(annotations, videos, tmp_path, "streaming", tasks=twice)
    found = check_questions(twice, run_of(annotations, videos, tmp_path, "streaming").library)
    assert found == [f"{question_id!r} is the id of 2 questions" for question_id in ids]


@pytest.fixture
def damaged(tasks: list[VideoTask], videos: Path, tmp_path: Path) -> Path:
    """A copy of the videos in which one is missing, one cut off, and one empty."""
    root = tmp_path / "damaged"
    shutil.copytree(videos, root)
    coin = [task for task in tasks if task.questions[0].source == "COIN"]
    (root / coin[0].names[0]).unlink()
    (root / coin[1].names[0]).write_bytes(b"")
    whole = (root / coin[2].names[0]).read_bytes()
    (root / coin[2].names[0]).write_bytes(whole[: len(whole) // 2])
    return root


def complete(run: Run) -> dict[str, Any]:
    execute(run, resume=True)
    predictions = completed(run)
    assert predictions is not None
    return predictions


def test_broken_videos_are_named_and_their_questions_count_as_wrong(
    annotations: Path, damaged: Path, tmp_path: Path, tasks: list[VideoTask]
):
    coin = [task for task in tasks if task.questions[0].source == "COIN"][:3]
    run = run_of(annotations, damaged, tmp_path / "out", "streaming")
    predictions = complete(run)
    failed = {prediction.task_id for prediction in predictions.values() if prediction.error}
    assert failed == {task.id for task in coin}
    scores = write_report(tmp_path / "out", run.benchmark, run.tasks, {}, predictions)["scores"]
    assert scores["questions"] == 60
    assert scores["not_asked"] == sum(len(task.questions) for task in coin)
    assert [problem["video"] for problem in scores["problems"]] == sorted(failed)
    assert "not found" in next(p["error"] for p in scores["problems"] if p["video"] == coin[0].id)
    text = (tmp_path / "out/report.md").read_text()
    assert all(task.id in text for task in coin)


@pytest.mark.parametrize("mode", ["streaming", "sliding_window"])
def test_odd_videos_cost_their_own_answers_only(
    mode: str, annotations: Path, videos: Path, tmp_path: Path, tasks: list[VideoTask]
):
    """A codec that FFmpeg does not know, late errors of PIL; a title that is not UTF-8 costs nothing."""
    shutil.copytree(videos, tmp_path / "videos")
    titled, unknown, pages = [task for task in tasks if task.questions[0].source == "COIN"][:3]
    paths = [tmp_path / "videos" / task.names[0] for task in (titled, unknown, pages)]
    with_gbk_title(paths[0], num_frames=int(titled.end + 2) * 4)
    with_unknown_codec(paths[1])
    paths[2].unlink()
    paths[2].mkdir()
    with_damaged_second_page(paths[2] / "0.tif")  # its first page is whole, as a folder's frame
    (paths[2] / "1.tif").write_bytes((paths[2] / "0.tif").read_bytes()[:100])
    run = run_of(annotations, tmp_path / "videos", tmp_path / "out", mode)
    problems = check_questions(run.tasks, run.library)
    assert any("its codec 'zz9z' is unknown to FFmpeg" in problem for problem in problems)
    predictions = complete(run)
    failed = {prediction.task_id: prediction.error for prediction in predictions.values() if prediction.error}
    assert unknown.id in failed and titled.id not in failed and set(failed) <= {unknown.id, pages.id}
    scores = write_report(tmp_path / "out", run.benchmark, run.tasks, {}, predictions)["scores"]
    assert scores["not_asked"] == sum(prediction.error is not None for prediction in predictions.values()) > 0
    assert "its codec 'zz9z' is unknown to FFmpeg" in (tmp_path / "out/report.md").read_text()


def test_our_own_mistakes_stop_the_run(
    annotations: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def mistake(*args: object, **options: object) -> None:
        raise AttributeError("a bug of ours")

    monkeypatch.setattr(video_index, "_duration_and_fps", mistake)
    run = run_of(annotations, videos, tmp_path / "out", "streaming")
    with pytest.raises(AttributeError, match="a bug of ours"):
        execute(run, resume=False)
    with pytest.raises(AttributeError, match="a bug of ours"):
        check_questions(run.tasks, run.library)


def test_check_names_the_same_videos_before_anything_is_asked(annotations: Path, damaged: Path, tmp_path: Path):
    run = run_of(annotations, damaged, tmp_path / "out", "streaming")
    assert len(check_questions(run.tasks, run.library)) == 3
    assert not (tmp_path / "out").exists()


def test_a_repaired_video_is_asked_when_the_run_goes_on(
    annotations: Path, damaged: Path, tmp_path: Path, tasks: list[VideoTask], uninterrupted: dict[str, Path]
):
    complete(run_of(annotations, damaged, tmp_path / "out", "streaming"))
    for task in tasks:
        if task.questions[0].source == "COIN":
            write_stand_in(damaged, task)
    run = run_of(annotations, damaged, tmp_path / "out", "streaming")
    again = complete(run)
    assert all(prediction.error is None for prediction in again.values())
    assert len(run.examiner.responder.conversations) == 3  # type: ignore[attr-defined]
    assert answers_in(tmp_path / "out") == answers_in(uninterrupted["streaming"])


def test_a_folder_is_not_continued_unasked_nor_with_other_settings(annotations: Path, videos: Path, tmp_path: Path):
    run = run_of(annotations, videos, tmp_path, "blind")
    execute(run, resume=False)
    with pytest.raises(ValueError, match="holds predictions already; add --resume"):
        execute(run, resume=False)
    with pytest.raises(ValueError, match=r"holds another run \(mode: 'blind' then, 'streaming' now"):
        execute(run_of(annotations, videos, tmp_path, "streaming"), resume=True)


def test_a_finished_run_asks_nothing_again(annotations: Path, videos: Path, tmp_path: Path):
    execute(run_of(annotations, videos, tmp_path, "blind"), resume=False)
    responder = FakeResponder()
    execute(run_of(annotations, videos, tmp_path, "blind", responder=responder), resume=True)
    assert responder.conversations == []


def test_an_error_of_the_model_stops_the_run_and_is_not_counted_as_an_answer(
    annotations: Path, videos: Path, tmp_path: Path
):
    class OutOfMemory(FakeResponder):
        def open(self, system_prompt: str | None) -> Any:
            if len(self.conversations) == 3:
                raise RuntimeError("CUDA out of memory")
            return super().open(system_prompt)

    run = run_of(annotations, videos, tmp_path, "streaming", responder=OutOfMemory())
    with pytest.raises(RuntimeError, match="out of memory"):
        execute(run, resume=False)
    assert all(prediction.error is None for prediction in read_predictions(tmp_path).values())
    whole = replace(run, examiner=replace(run.examiner, responder=FakeResponder()))
    assert len(complete(whole)) == 60


def test_a_second_run_in_a_folder_is_refused(annotations: Path, videos: Path, tmp_path: Path):
    first = start(annotations, videos, tmp_path, "streaming", 0.05)
    try:
        deadline = time.monotonic() + 60
        predictions = tmp_path / "predictions.jsonl"
        while not predictions.is_file() or not predictions.read_bytes():
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()
            time.sleep(0.002)
        second = start(annotations, videos, tmp_path, "streaming", 0.0)
        _, errors = second.communicate(timeout=60)
        assert second.returncode != 0 and "is being written by another process" in errors
    finally:
        first.kill()
        first.communicate()
    finish(start(annotations, videos, tmp_path, "streaming", 0.0))


def test_a_full_disk_is_named_and_the_run_goes_on_from_what_is_kept(annotations: Path, videos: Path, tmp_path: Path):
    """A limit of bytes a file breaks a line in the middle, as a full disk does."""
    command = [sys.executable, "-B", "-m", "videochat_online.cli", "eval", "ovbench", "--model", "pocket", "--fps", "1"]
    command += ["--annotations", annotations, "--videos", videos, "--output", tmp_path, "--no-blind"]
    command += ["--limit", "12", "--device", "cpu"]

    def full(bytes_a_file: int) -> subprocess.CompletedProcess[str]:
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file,) * 2)  # noqa: E731
        return subprocess.run(
            [*map(str, command), "--resume"], cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit
        )

    done = full(3000)
    path = tmp_path / "predictions.jsonl"
    assert done.returncode == 2 and str(path) in done.stderr and "add --resume to continue" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400 and path.stat().st_size == 3000
    kept = read_predictions(tmp_path)
    assert 0 < len(kept) < 12
    assert full(1 << 30).returncode == 3  # --limit
    assert len(found := read_predictions(tmp_path)) == 12 and {key: found[key] for key in kept} == kept
