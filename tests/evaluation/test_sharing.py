"""What each of several processes is asked, and what a limit leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tests.evaluation.run_fake import run_of
from videochat_online.evaluation.questions import VideoTask
from videochat_online.evaluation.runner import Run, Shard, first_questions
from videochat_online.evaluation.videos import OpenVideo


def test_shards_are_disjoint_complete_and_even(tasks: list[VideoTask], annotations: Path, videos: Path, tmp_path: Path):
    run = run_of(annotations, videos, tmp_path, "streaming")
    for world_size in (1, 3, 4):
        shards = [Shard(rank, world_size).of(tasks, run.cost) for rank in range(world_size)]
        assert sorted(task.id for shard in shards for task in shard) == sorted(task.id for task in tasks)
        loads = [sum(run.cost(task) for task in shard) for shard in shards]
        assert max(loads) <= min(loads) + max(run.cost(task) for task in tasks)
    with pytest.raises(ValueError, match="RANK must be"):
        Shard(2, 2)


def test_eight_processes_show_equally_many_frames(annotations: Path, videos: Path, tmp_path: Path):
    """Frames as they are sampled from videos of many lengths and rates, which the estimate does not know."""
    rng = np.random.default_rng(0)
    some = run_of(annotations, videos, tmp_path, "streaming").tasks[0]
    tasks = []
    for number, seconds in enumerate(rng.lognormal(4.4, 0.9, 400).clip(2, 900)):
        moments = np.sort(rng.uniform(0, seconds, rng.integers(1, 9)))
        questions = tuple(
            replace(some.questions[0], id=f"{number}-{k}", timestamp=some.start + float(moment))
            for k, moment in enumerate(moments)
        )
        tasks.append(replace(some, id=str(number), questions=questions))
    fps = dict(zip((task.id for task in tasks), rng.choice([10.0, 23.976, 25.0, 30.0, 60.0], len(tasks)), strict=True))
    for mode in ("streaming", "sliding_window"):
        run = run_of(annotations, videos, tmp_path, mode, tasks=tasks)

        def frames(task: VideoTask, run: Run = run) -> int:
            reader = SimpleNamespace(fps=fps[task.id], duration=task.end + 1)
            video = OpenVideo(cast(Any, reader), np.arange(round((task.end + 1) * reader.fps)) / reader.fps)
            shown = [set(run.examiner.frames(task, video, question, question.timestamp)) for question in task.questions]
            return len(set.union(*shown)) if run.examiner.mode == "streaming" else sum(map(len, shown))

        loads = [sum(map(frames, Shard(rank, 8).of(tasks, run.cost))) for rank in range(8)]
        assert max(loads) <= 1.05 * np.mean(loads), (mode, loads)
        in_turn = [sum(map(frames, tasks[rank::8])) for rank in range(8)]
        assert max(in_turn) > 1.05 * np.mean(in_turn), "the test proves nothing"


def test_torchruns_environment_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert Shard.from_environment() == Shard(3, 8)


def test_costs_follow_length_in_a_stream_and_questions_in_windows(annotations: Path, videos: Path, tmp_path: Path):
    task = run_of(annotations, videos, tmp_path, "streaming").tasks[0]
    long = replace(task, questions=(replace(task.questions[0], timestamp=task.start + 1000.0),))
    costs = {
        mode: run_of(annotations, videos, tmp_path, mode).cost(long)
        for mode in ("streaming", "sliding_window", "blind")
    }
    assert costs == {"streaming": 8 * 1000 + 1, "sliding_window": 64 + 1, "blind": 1}


def test_limit_takes_from_all_sources(tasks: list[VideoTask]):
    for limit in (4, 10, 23, 60, 1000):
        questions = [question for task in first_questions(tasks, limit) for question in task.questions]
        assert len(questions) == min(limit, 60)
        by_source = Counter(question.source for question in questions)
        assert len(by_source) == 4 and (limit > 24 or max(by_source.values()) - min(by_source.values()) <= 1)
    assert first_questions(tasks, None) == tasks
    with pytest.raises(ValueError, match="--limit must be >= 1"):
        first_questions(tasks, 0)
