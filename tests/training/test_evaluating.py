"""Evaluating changes nothing of training, to the bit; the best checkpoint stays; a resumed run stops early too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import Examples, make_loop
from videochat_online.training import loop as loop_module
from videochat_online.training.evaluating import HeldOut, as_compared, best_of, evaluate, stops_early, verdict
from videochat_online.training.log import read_log

HELD_OUT = HeldOut(Examples(5, seed=9, text_only=(1,)), "5 rows")
RUN: dict[str, Any] = {
    "count": 24,
    "schedule": "constant_with_warmup",
    "vision": "full",
    "eval_data": ("a",),
    "eval_every": 2,
    "save_every": 4,
}


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_training_is_the_same_to_the_bit(tmp_path: Path, batching: str):
    """With drop path, one evaluation in the middle of an epoch, and a run that is cut off there and resumed."""
    states = {}
    for name, held_out, lives in (("plain", None, (6,)), ("told", HELD_OUT, (6,)), ("lives", HELD_OUT, (3, 6))):
        for max_steps in lives:
            changes = {**RUN, "max_steps": max_steps, "resume": "auto", "batching": batching}
            one = make_loop(tmp_path / name, **changes)
            assert one.train(held_out)
        states[name] = {**one.state.model.state_dict(), "random": torch.get_rng_state()}
        assert [value["step"] for value in one.state.evaluations] == {
            "plain": [], "told": [0, 2, 4, 6], "lives": [0, 2, 3, 4, 6],
        }[name]  # fmt: skip
    assert losses_of(tmp_path / "told") == losses_of(tmp_path / "lives") == losses_of(tmp_path / "plain")
    for name in ("told", "lives"):
        assert all(torch.equal(value, states["plain"][key]) for key, value in states[name].items())
    told, lives = (
        [line for line in read_log(tmp_path / n / "log.jsonl") if "eval_loss" in line] for n in states if n != "plain"
    )
    by_step = {line["step"]: line["eval_loss"] for line in lives}
    assert [by_step[line["step"]] for line in told] == [line["eval_loss"] for line in told]
    assert [line["step"] for line in lives] == [0, 2, 3, 4, 6]


@pytest.mark.parametrize("reduction", ["token", "sample", "square", "batch"])
def test_the_loss_is_that_of_training(tmp_path: Path, reduction: str):
    """As a step's loss would be over the held-out rows, one a batch; without drop path, which is off in evaluations."""
    one = make_loop(tmp_path, loss_reduction=reduction)
    found, answers = evaluate(one, HELD_OUT)
    one.state.model.eval()
    batches = list(one.loader(HELD_OUT.dataset, [[number] for number in range(5)]))
    for batch in batches:
        del batch["num_tokens"], batch["num_images"]
    assert found["loss"] == pytest.approx(float(one.backward(batches)), abs=1e-6)
    assert answers == [] and found.keys() == {"loss"}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The losses that evaluations find, one after the other."""
    losses = [3.0, 2.0, 1.0, 2.0, 2.0, 2.0, 0.5]
    monkeypatch.setattr(loop_module, "evaluate", lambda *_: ({"loss": losses.pop(0)}, []))
    yield losses


def test_the_best_checkpoint_stays_and_says_so(tmp_path: Path, scripted: list[float]):
    one = make_loop(tmp_path, count=24, max_steps=5, eval_data=("a",), eval_every=1, save_every=100, keep_checkpoints=1)
    assert one.train(HELD_OUT)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-5"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "loss": 1.0}


def test_early_stop_survives_resuming(tmp_path: Path, scripted: list[float]):
    """Two evaluations without a lower loss before a cut, one behind it: it ends there, for good."""
    changes = {**RUN, "eval_every": 1, "early_stop": 3, "resume": "auto"}
    assert make_loop(tmp_path, max_steps=4, **changes).train(HELD_OUT)
    one = make_loop(tmp_path, max_steps=12, **changes)
    assert one.train(HELD_OUT)
    assert one.state.step == 5 and len(scripted) == 1
    again = make_loop(tmp_path, max_steps=12, **changes)
    assert again.train(HELD_OUT)
    assert len(scripted) == 1 and [value["step"] for value in again.state.evaluations] == [0, 1, 2, 3, 4, 5]
    assert make_loop(tmp_path, max_steps=6, **{**changes, "early_stop": 0}).train(HELD_OUT)
    assert scripted == []


def test_what_is_best_and_when_it_ends():
    def at(*losses: float) -> list[dict[str, float]]:
        return [{"step": step, "loss": loss} for step, loss in enumerate(losses)]

    nan = float("nan")
    assert best_of(at(1.0)) is None and best_of(at(1.0, nan)) is None
    assert best_of(at(1.0, 3.0, 2.0, 2.0, nan))["step"] == 2  # type: ignore[index]
    assert [stops_early(at(1.0, 3.0, 2.0, 2.0, nan), patience) for patience in (0, 1, 2, 3)] == [
        False,
        True,
        True,
        False,
    ]
    assert stops_early(at(1.0, nan, nan), 2) and not stops_early(at(1.0, nan), 2)


def test_the_verdict():
    begun = {"step": 0, "loss": 3.0, "accuracy": 0.0, "commonest": 0.5, "answers": 4}

    def of(**changes: Any) -> list[str]:
        chosen = {**begun, "step": 9, "loss": 2.0, "accuracy": 0.75, **changes}
        return verdict([begun, chosen], chosen, [])

    assert of() == [] == of(accuracy=0.0, commonest=0.25) == of(accuracy=1.0, commonest=1.0)
    assert of(loss=3.0) == ["the evaluation loss was 3 before the first step and is 3"] == of(loss=3.0, accuracy=1.0)
    (guessing,) = of(accuracy=0.5)
    assert guessing == "50% of the answers are right, always giving the commonest would make 50%"
    assert verdict([], None, [2.0, 1.0]) == [] == verdict([], None, [])
    assert verdict([], None, [1.0, 2.0]) == ["the training loss was 1 at first and is 2"]
    assert len(verdict([], None, [1.0, float("nan")])) == 1


@pytest.mark.parametrize(
    ("question", "expected", "given", "same"),
    [
        ("Which lamp?", "the red lamp", " The red lamp. ", True),
        ("Which lamp?", "the red lamp", "the red", False),
        ("How many?", "3", "3.", True),
        ("Say nothing.", "", "", True),
        ("Say nothing.", "", "a word", False),
        ("Which?\nOptions:\n(A) a dog\n(B) a cat\nAnswer:", "(B) a cat", "The answer is B.", True),
        ("Which?\nOptions:\n(A) a dog\n(B) a cat\nAnswer:", "(B) a cat", "a cat", True),
        ("Which?\nA. a dog\nB. a cat", "B", "A cat? No: A.", False),
        ("Which?\nA. a dog\nB. a cat", "B", "nobody knows", False),
        ("A. Who is it?", "Bob", "bob", True),
    ],
)
def test_answers_are_compared_as_a_reader_would(question: str, expected: str, given: str, same: bool):
    assert (as_compared(question, expected) == as_compared(question, given)) is same
