"""Numbers of the log; a log that was cut off; curves; errors of data workers in their own words."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from tests.training.tiny import Examples, make_loop
from videochat_online.training.log import Interval, read_log, summary


def test_speed_padding_and_waiting_over_two_processes(monkeypatch: pytest.MonkeyPatch):
    ticks = iter([0.0, 4.0, 0.0, 4.0])
    monkeypatch.setattr("videochat_online.training.log.perf_counter", lambda: next(ticks))
    rows = []
    for tokens, images, waited in ((60, 3, 1.0), (40, 1, 0.0)):
        interval = Interval(0)
        interval.loss = torch.tensor(0.5)
        interval.count({"input_ids": torch.zeros(2, 40), "num_tokens": tokens, "num_images": images})
        interval.waiting += waited
        rows.append(interval.numbers())
    assert summary(torch.tensor(rows)) == {
        "loss": 0.5, "tokens": 100, "seconds": 4.0, "images_per_second": 1.0, "tokens_per_second": 25.0,
        "padding_share": 0.375, "data_wait_share": 0.125,
    }  # fmt: skip


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_curves_of_a_resumed_run(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'videochat-online[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"tracker": "tensorboard", "resume": "auto", "schedule": "constant_with_warmup"}
    for max_steps in (1, 3):
        loop = make_loop(tmp_path, count=24, max_steps=max_steps, **changes)
        loop.train()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    logged = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)


class Unreadable(Examples):
    def __getitem__(self, index: int):
        raise ValueError(f"sample {index}: too many cannot be read\n  a.mp4: empty")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_the_data_keep_their_words(tmp_path: Path, num_workers: int):
    loop = make_loop(tmp_path, dataset=Unreadable(8), num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^sample \d: too many cannot be read\n  a.mp4: empty$"):
        loop.train()
    for worker in multiprocessing.active_children():  # what Python does when it exits, and waits for
        worker.terminate()
        worker.join(20)
        assert worker.exitcode == 0


def test_bf16_runs(tmp_path: Path):
    loop = make_loop(tmp_path, count=8, precision="bf16")
    assert loop.train()
    held = {weight.requires_grad: weight.dtype for weight in loop.state.model.parameters()}
    assert held == {True: torch.float32, False: torch.bfloat16}  # what trains, and what does not
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["loss"] == pytest.approx(4.17, abs=0.05)
