"""A run that would change no weight is refused, exactly then; one that hardly would is said."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from tests.training.tiny import make_loop, settings
from videochat_online.training.export import export
from videochat_online.training.plan import TrainingPlan, judge, make_plan
from videochat_online.training.run import check_plan


def plan_of(samples: int, **changes: object) -> TrainingPlan:
    return make_plan(settings("run", **changes), [5] * samples, 1)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup"])
def test_steps_that_change_weights_are_counted_exactly(schedule: str):
    for total, warmup in product((1, 2, 3, 50), (0, 0.03, 0.5, 1, 2, 5, 100)):
        plan = plan_of(8, max_steps=total, warmup=warmup, schedule=schedule)
        assert plan.changing_steps == sum(plan.learning_rate(step) > 0 for step in range(total)), (total, warmup)


def test_epochs_give_way_to_more_steps_and_both_to_a_limit():
    assert plan_of(6, min_steps=200).num_steps == 200
    assert plan_of(6, min_steps=200, epochs=300).num_steps == 600
    assert plan_of(6, min_steps=200, max_steps=20).num_steps == 20


VERDICTS = {
    "six clips, published": (6, {"global_batch_size": 1024}, 1, ["170.7 times over"]),
    "one step without warm-up": (6, {"max_steps": 1, "warmup": 0}, 0, ["only 1 of 1 steps"]),
    "one step of warm-up": (6, {"max_steps": 1}, 1, []),
    "all warm-up, yet weights change": (48, {"max_steps": 20, "warmup": 100}, 0, ["20 of 20 steps are warm-up"]),
    "half warm-up": (48, {"max_steps": 20, "warmup": 0.5}, 0, []),
    "two steps": (8, {}, 0, ["only 1 of 2 steps"]),
    "a data set just as large as a step": (4, {"epochs": 20}, 0, []),
    "packed": (48, {"epochs": 20, "batching": "packed"}, 0, []),
    "packed, fewer samples than processes": (
        48,
        {"epochs": 20, "batching": "packed", "global_batch_size": 1},
        0,
        ["a step holds 2 samples in the mean, --global-batch-size is 1"],
    ),
    "one sample less": (3, {"epochs": 20, "batch_size": 1}, 0, ["1.3 times over"]),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_judgement(name: str):
    samples, changes, num_problems, warnings = VERDICTS[name]
    found = judge(plan_of(samples, **changes))
    assert [len(one) for one in found] == [num_problems, len(warnings)], found
    for part, warning in zip(warnings, found[1], strict=True):
        assert part in warning


def test_a_run_says_what_check_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = settings(tmp_path, max_steps=1, global_batch_size=32)
    with pytest.raises(ValueError, match="no weight would change: the run has 1 step"):
        check_plan(make_plan(config, [5] * 8, 1))
    assert "\nWARNING: one step holds the 8 samples" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["changed no weight", "not numbers"])
def test_no_model_is_announced_where_nothing_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str):
    """Steps that are all skipped, as by a scaler of fp16 gradients; a learning rate that breaks the weights."""
    changes = {"max_steps": 4, "warmup": 0, "learning_rate": 1e-2 if words == "changed no weight" else 1e30}
    if words == "changed no weight":
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    loop = make_loop(tmp_path, count=8, **changes)
    assert loop.train()
    with pytest.raises(ValueError, match=f"no model is written: .*{words}"):
        export(loop.state, loop.config)
    assert not (tmp_path / "model").exists()
