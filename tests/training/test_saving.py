"""Checkpoints that are written while training goes on are those that a run without a thread writes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import make_loop
from videochat_online.training import checkpoints as saving
from videochat_online.training.checkpoints import find_checkpoints
from videochat_online.training.state import on_host

RUN: dict[str, Any] = {"count": 24, "save_every": 2, "keep_checkpoints": 9}
LONG = 60
"""Seconds after which a test gives up waiting."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_goes_on_and_the_checkpoint_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first checkpoint is written only after the next step has changed every weight in place."""
    make_loop(tmp_path / "plain", **RUN).train()
    loop, later, finish = make_loop(tmp_path / "later", **RUN, async_checkpoints=True), threading.Event(), saving.finish
    files = loop.state.files

    def late(folder: Path, *, copied: bool) -> list[Any]:
        return [lambda: later.wait(LONG), *files(folder, copied=copied)]

    def note(*values: Any) -> None:
        assert later.is_set(), "training waited for its checkpoint"
        finish(*values)

    monkeypatch.setattr(loop.state, "files", late)
    monkeypatch.setattr(saving, "finish", note)
    loop.state.optimizer.register_step_post_hook(lambda *_: later.set() if loop.state.step == 2 else None)
    assert loop.train()
    for step in (2, 4, 6):
        plain, copied = (content(tmp_path / name / f"checkpoint-{step}") for name in ("plain", "later"))
        assert plain.keys() == copied.keys()
        same = {name for name in plain if plain[name] == copied[name]}
        assert plain.keys() - same <= {"optimizer.pt"}  # torch.save writes equal tensors in more than one way
        theirs, ours = (torch.load(tmp_path / name / f"checkpoint-{step}/optimizer.pt") for name in ("later", "plain"))
        torch.testing.assert_close(theirs, ours, atol=0, rtol=0)


def test_one_at_a_time_and_the_end_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop, finish, running = make_loop(tmp_path, **{**RUN, "save_every": 1}, async_checkpoints=True), saving.finish, []

    def alone(staged: Path, *values: Any) -> None:
        running.append(staged)
        assert len(running) == 1 and [path.name for path in staged.parent.iterdir()] == [staged.name]
        finish(staged, *values)
        running.remove(staged)

    monkeypatch.setattr(saving, "finish", alone)
    assert loop.train()
    assert not loop.saver.thread.is_alive()
    assert [(one.step, one.problem) for one in find_checkpoints(tmp_path)] == [(n, None) for n in range(1, 7)]


def test_a_full_disk_ends_the_run_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop, finish = make_loop(tmp_path, **RUN, async_checkpoints=True), saving.finish

    def full(staged: Path, *values: Any) -> None:
        if staged.name == "checkpoint-4":
            raise OSError(28, "No space left on device", str(staged))
        finish(staged, *values)

    monkeypatch.setattr(saving, "finish", full)
    with pytest.raises(ValueError, match=r"checkpoint-4 could not be written .*No space left.*checkpoint-2 is whole"):
        loop.train()
    assert [one.step for one in find_checkpoints(tmp_path)] == [2]
    assert not (tmp_path / ".saving").exists()


def test_copies_are_the_hosts_own_and_tied_weights_stay_one():
    weight = torch.zeros(4)
    tree = {"a": [weight, weight.view(4)], "b": (weight[:2], 3), "c": {"d": torch.empty(0), "e": torch.empty(0, 2)}}
    copied = on_host(tree)
    weight += 1
    assert copied["a"][0] is copied["a"][1] and not copied["a"][0].any() and not copied["b"][0].any()
    assert copied["b"][0].shape == (2,) and copied["b"][1] == 3 and copied["c"]["e"].shape == (0, 2)
